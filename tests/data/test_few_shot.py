"""The rows of folds: which classes, which images, what is background, and what counts as seen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.build.training_data import training_dataset
from frozenseg.build.vocabulary import (
    build_seen_vocabulary,
    build_training_vocabulary,
    build_vocabulary,
)
from frozenseg.config import default_config, load_config
from frozenseg.data.annotations import BACKGROUND_CLASS, VOID_CLASS, load_semantic
from frozenseg.data.benchmarks import BENCHMARKS, benchmark_vocabulary, load_records
from frozenseg.data.benchmarks.folds import TRANSFER, fold_classes
from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare import fss1000, mosaic4, pascal_voc
from frozenseg.data.prepare.options import PreparationOptions
from frozenseg.data.records import Record
from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary
from tests.data.replicas import (
    FSS_CLASSES,
    save,
    save_image,
    write_coco_2014,
    write_fss1000,
    write_list,
    write_pascal_voc,
)

VOC_FOLDS = (  # PASCAL-5i as its paper lists it, in blocks of five
    "aeroplane bicycle bird boat bottle",
    "bus car cat chair cow",
    "dining_table dog horse motorbike person",
    "potted_plant sheep sofa train tv_monitor",
)
TRANSFERRED = (
    "aeroplane boat chair dining_table dog person",
    "bicycle bus horse sofa",
    "bird car potted_plant sheep train tv_monitor",
    "bottle cat cow motorbike",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def names_of(name: str) -> list[str]:
    vocabulary = benchmark_vocabulary(BENCHMARKS[name], Path("nowhere"))
    assert vocabulary is not None
    return vocabulary.labels


@pytest.mark.parametrize("fold", range(4))
def test_classes_of_pascal_are_those_of_its_paper(fold: int) -> None:
    tested = names_of(f"pascal5i_fold{fold}_val")
    assert tested == [name.replace("_", " ") for name in VOC_FOLDS[fold].split()]
    trained = names_of(f"pascal5i_fold{fold}_train")
    assert sorted(tested + trained) == sorted(Vocabulary.packaged("pascal_voc_20").labels)


@pytest.mark.parametrize("fold", range(4))
def test_transfer_holds_what_the_fold_of_coco_holds_out(fold: int) -> None:
    """By hand, and by the names that the classes of both data sets share."""
    found = names_of(f"coco20i_fold{fold}_to_pascal_val")
    assert found == [name.replace("_", " ") for name in TRANSFERRED[fold].split()]
    voc, coco = Vocabulary.packaged("pascal_voc_20"), Vocabulary.packaged("coco_panoptic")
    held_out = coco.select(fold_classes("coco20i", fold))
    assert TRANSFER[fold] == tuple(np.flatnonzero(voc.seen(held_out)).tolist())


@pytest.mark.parametrize(
    "name", [name for name, row in BENCHMARKS.items() if row.trained_on and row.classes]
)
def test_what_is_tested_is_unseen_and_has_plain_names(name: str) -> None:
    vocabulary = benchmark_vocabulary(BENCHMARKS[name], Path("nowhere"))
    seen = vocabulary.seen(build_seen_vocabulary(default_config(), name))
    assert set(seen) == {name.endswith("_train")}
    text = " ".join(vocabulary.flat_names)
    for joined in ("diningtable", "pottedplant", "tvmonitor", "trafficlight", "_"):
        assert joined not in text


def test_a_training_set_may_say_what_is_seen() -> None:
    """For sets that do not know: DATASETS.TRAIN_VOCABULARY names one that does."""
    cfg = load_config(None, ["DATASETS.TRAIN_VOCABULARY", "pascal5i_fold0_train"])
    assert build_training_vocabulary(cfg).labels == names_of("pascal5i_fold0_train")
    assert build_seen_vocabulary(cfg, "small_world_val").labels == names_of("pascal5i_fold0_train")


def test_images_and_pixels_of_a_fold(root: Path) -> None:
    """Three images of which one has none of the fold's classes, and one nothing else."""
    folder = root / "VOCdevkit" / "VOC2012"
    stems, maps = ["a", "b", "c"], [[0, 1, 6, 255], [0, 6, 20, 0], [1, 5, 0, 255]]
    for number, (stem, labels) in enumerate(zip(stems, maps, strict=True)):
        save_image(folder / "JPEGImages" / f"{stem}.jpg", number)
        pixels = np.array(labels, np.uint8).repeat(48 * 64 // 4 if number % 2 == 0 else 768)
        shape = (48, 64) if number % 2 == 0 else (64, 48)
        save(folder / "SegmentationClass" / f"{stem}.png", pixels.reshape(shape), palette=True)
    write_list(folder / "ImageSets" / "Segmentation" / "val.txt", stems)
    pascal_voc.prepare(root, "validation", PreparationOptions())
    records, categories = load_records("pascal5i_fold0_val")
    assert [record.image_id for record in records] == ["a", "c"]
    assert categories.names == tuple(VOC_FOLDS[0].split())
    assert load_semantic(records[0])[::12, 0].tolist() == [
        BACKGROUND_CLASS, 0, BACKGROUND_CLASS, VOID_CLASS,
    ]  # fmt: skip
    assert load_semantic(records[1])[::12, 0].tolist() == [0, 4, BACKGROUND_CLASS, VOID_CLASS]
    (root / "pascal_voc_d2" / "classes_in_validation.json").write_text('{"a": [1]}')
    with pytest.raises(UserError, match=r"does not list the classes of the 3 label maps.*--again"):
        load_records("pascal5i_fold0_val")


def test_training_on_a_fold_never_shows_its_classes(root: Path) -> None:
    """VOC with SBD, without validation; the held-out classes are background, not classes."""
    write_pascal_voc(root)
    pascal_voc.prepare(root, "training_aug", PreparationOptions())
    cfg = load_config(None, ["DATASETS.TRAIN", "('pascal5i_fold0_train',)",
                             "INPUT.IMAGE_SIZE", "64", "SEED", "1"])  # fmt: skip
    dataset, vocabulary = training_dataset(cfg)
    assert sorted(record.image_id for record in dataset.records) == ["2008_000001", "2008_000002"]
    assert len(vocabulary) == 15 and not set(vocabulary.labels) & set(VOC_FOLDS[0].split())
    assert vocabulary == build_vocabulary(cfg, "pascal5i_fold0_train", dataset.categories)
    for record in dataset.records:
        labels, ours = read_labels(_published(root, record)), load_semantic(record)
        assert ((ours == BACKGROUND_CLASS) == (labels <= 5)).all()  # the fold's and background
        assert ((ours == VOID_CLASS) == (labels == 255)).all()
        others = (labels > 5) & (labels < 255)
        assert (ours[others] == labels[others] - 6).all()
    sample = dataset[0]
    assert sample.targets.labelled is not None
    assert (sample.targets.labelled & ~sample.targets.masks.any(0)).any()


def _published(root: Path, record: Record) -> Path:
    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    return folder / f"{record.image_id}.png"


def test_coco_folds_take_every_fourth_category(root: Path) -> None:
    write_coco_2014(root)
    records, categories = load_records("coco20i_fold3_val")
    assert len(categories) == 20 and categories.names[0] == "motorcycle, motorbike".split(",")[0]
    labels = load_semantic(records[0])
    assert labels[0, 0] == BACKGROUND_CLASS  # person, of fold 0
    assert labels[0, 16] == BACKGROUND_CLASS  # no object
    assert labels[0, 32] == 19  # toothbrush, the last of the 80


def test_fss_pictures_become_label_maps(root: Path) -> None:
    write_fss1000(root)
    for split in ("test", "train", "val"):
        fss1000.prepare(root, split, PreparationOptions())
    records, categories = load_records("fss1000_test")
    assert categories.names == ("abe's flyingfish", "b c", "last", "apple", "zebra")
    assert len(records) == 10
    for record in records:
        name, number = str(record.image_id).rsplit("_", 1)
        picture = root / "FSS-1000" / "fewshot_data" / name / f"{int(number)}.png"
        bright = np.asarray(Image.open(picture))[..., 0] > 0
        expected = np.where(bright, FSS_CLASSES.index(name), BACKGROUND_CLASS)
        np.testing.assert_array_equal(load_semantic(record), expected)
    assert load_records("fss1000_train")[1].names == ("other", "a first")
    assert load_records("fss1000_val")[1].names == ("between",)
    (root / "FSS-1000" / "fss_test_set.txt").unlink()
    with pytest.raises(UserError, match=r"fss_test_set.txt: no such file; unpack"):
        fss1000.prepare(root, "test", PreparationOptions())


def test_mosaics_of_fss_are_four_whole_samples(root: Path) -> None:
    """Every quarter is a sample of its class, resized; four classes, no two the same."""
    write_fss1000(root)
    fss1000.prepare(root, "test", PreparationOptions())
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4))
    records, _ = load_records("fss1000_mosaic4")
    samples, names = load_records("fss1000_test")[0], set()
    assert len(records) == 4
    for record in records:
        labels = load_semantic(record)
        assert labels.shape == (448, 448)
        quarters = [labels[y : y + 224, x : x + 224] for y in (0, 224) for x in (0, 224)]
        classes = [set(np.unique(quarter)) - {BACKGROUND_CLASS} for quarter in quarters]
        assert all(len(found) == 1 for found in classes) and len(set.union(*classes)) == 4
        names |= set.union(*classes)
        for quarter in quarters:  # it is one of the samples: the same at the centre of each block
            small = [
                np.asarray(
                    Image.fromarray(load_semantic(s).astype(np.int16).astype(np.int32)).resize(
                        (224, 224), Image.Resampling.NEAREST
                    )
                )
                for s in samples
            ]
            assert max((quarter == other).mean() for other in small) > 0.98
    assert names == {0, 1, 2, 3, 4}
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=2))  # fewer: the others are gone
    assert len(load_records("fss1000_mosaic4")[0]) == 2


def test_mosaics_of_fss_follow_the_list_that_was_prepared(root: Path) -> None:
    """A published list that changed afterwards would name other classes than the label maps."""
    write_fss1000(root)
    fss1000.prepare(root, "test", PreparationOptions())
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4))
    made = {path: path.read_bytes() for path in (root / "mosaic4").rglob("*.*")}
    write_list(root / "FSS-1000" / "fss_test_set.txt", list(FSS_CLASSES[:0:-1]))
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4, again=True))
    assert {path: path.read_bytes() for path in (root / "mosaic4").rglob("*.*")} == made
    path = root / "fss1000_d2" / "classes_test.txt"
    path.write_text(path.read_text().replace("zebra\n", ""))
    with pytest.raises(UserError, match=r"zebra_01.tif: is of no class in the prepared list; run"):
        mosaic4.prepare(root, "fss1000", PreparationOptions(count=4, again=True))


def test_mosaics_of_other_class_ids_are_never_kept(root: Path) -> None:
    """Neither without a word nor after a stopped run; those of earlier versions are made again."""
    write_fss1000(root)
    fss1000.prepare(root, "test", PreparationOptions())
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4))
    write_list(root / "FSS-1000" / "fss_test_set.txt", list(reversed(FSS_CLASSES)))
    fss1000.prepare(root, "test", PreparationOptions(again=True))
    with pytest.raises(UserError, match=r"tiles.json: .*mosaic4 --split fss1000 --again"):
        mosaic4.prepare(root, "fss1000", PreparationOptions(count=4))
    (root / "mosaic4" / "fss1000" / "tiles.json").unlink()
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4))
    made = {path: path.read_bytes() for path in (root / "mosaic4").rglob("*.*")}
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=4, again=True))
    assert {path: path.read_bytes() for path in (root / "mosaic4").rglob("*.*")} == made


def test_a_lost_image_of_a_mosaic_is_made_again(root: Path) -> None:
    write_fss1000(root)
    fss1000.prepare(root, "test", PreparationOptions())
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=2))
    path = root / "mosaic4" / "fss1000" / "images" / "000001.jpg"
    content = path.read_bytes()
    path.unlink()
    mosaic4.prepare(root, "fss1000", PreparationOptions(count=2))
    assert path.read_bytes() == content


def test_a_crop_holds_its_thing_and_lies_in_the_scene() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        mask = np.zeros((130, 200), bool)
        height, width = chance.integers(24, 100, 2)
        top, left = chance.integers(0, 130 - height + 1), chance.integers(0, 200 - width + 1)
        mask[top : top + height, left : left + width] = True
        y, x, side = mosaic4.crop_box(mask)
        assert side == min(130, round(1.5 * max(height, width)))
        assert 0 <= y <= 130 - side and 0 <= x <= 200 - side
        assert mask[y : y + side, x : x + side].sum() == height * width
    mask[:] = False
    mask[5:28, 5:20] = True
    assert mosaic4.crop_box(mask) is None  # too small to be known again
