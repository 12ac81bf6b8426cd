"""Every benchmark from its published files to its scores, on small replicas of its layout."""

import dataclasses
import functools
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frozenseg
from frozenseg.build import evaluator as testing
from frozenseg.commands import check_dataset, prepare_dataset, train_net
from frozenseg.config import load_config
from frozenseg.data.annotations import (
    BACKGROUND_CLASS,
    VOID_CLASS,
    load_panoptic,
    load_semantic,
    present_classes,
)
from frozenseg.data.benchmarks import (
    BENCHMARKS,
    find_benchmark,
    load_records,
    read_benchmark,
    scored_pairs,
)
from frozenseg.data.benchmarks.few_shot_rows import FEW_SHOT_BENCHMARKS
from frozenseg.data.dataset import Sample
from frozenseg.data.label_maps import read_labels
from frozenseg.data.loader import eval_loader as loader_of_test
from frozenseg.data.prepare import PREPARATIONS, pascal_context
from frozenseg.errors import UserError
from frozenseg.evaluation.runner import evaluate
from frozenseg.structures import (
    ImageBatch,
    InstanceResult,
    PanopticResult,
    Prediction,
    Segment,
)
from frozenseg.text.vocabulary import Vocabulary
from tests.data.replicas import BLOCK, COUNTS, REPLICAS, SIZES
from tests.data.tiny import load_instances
from tests.engine.test_fusioner import FUSIONER
from tests.engine.tiny import CONFIG

ADE20K = "openvocab_ade20k_panoptic_val"
CITYSCAPES = "openvocab_cityscapes_fine_panoptic_val"
WITHOUT_SCRIPTS = importlib.util.find_spec("cityscapesscripts") is None


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root; the rows expect as many images as the replicas have."""
    torch.set_num_threads(1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in REPLICAS:
        row = dataclasses.replace(BENCHMARKS[name], counts={count_of(name): ""})
        monkeypatch.setitem(BENCHMARKS, name, row)
    return tmp_path


def count_of(name: str) -> int:
    return COUNTS.get(name, len(SIZES))


def write(root: Path, name: str, prepared: bool = True) -> None:
    writer, preparation, _ = REPLICAS[name]
    writer(root)
    if prepared and preparation:
        prepare(preparation)


def prepare(preparation: str, *flags: str) -> None:
    command, *options = preparation.split()
    if command == "mosaic4":
        options += ["--count", "3"]
    assert prepare_dataset.main([command, "--processes", "1", *options, *flags]) is None


def problems(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the check prints, when it finds something wrong; "" when it does not."""
    capsys.readouterr()
    status = check_dataset.main([name])
    printed = capsys.readouterr().out
    assert ("problem:" in printed) == (status == 1)
    return printed if status else ""


def truth_of(is_thing: tuple[bool, ...], sample: Sample) -> Prediction:
    """The annotation as a prediction; every kind that the record has."""
    record = sample.record
    result = Prediction(size=(sample.height, sample.width))
    if record.panoptic_path:
        ids, segments = load_panoptic(record)
        kept = np.flatnonzero(~segments.is_crowd)
        found = [
            Segment(int(segments.ids[i]), int(segments.class_ids[i]), "", True, 1, 1, (0, 0, 1, 1))
            for i in kept
        ]
        ids = np.where(np.isin(ids, segments.ids[kept]), ids, 0).astype(np.int32)
        result.panoptic = PanopticResult(ids, found)
        things = [segment for segment in found if is_thing[segment.class_id]]
        masks = np.stack([ids == segment.id for segment in things])
        result.instances = instances_of(masks, np.array([s.class_id for s in things]))
    if record.panoptic_path or record.semantic_path or record.classes:
        labels = load_semantic(record)
        result.semantic = np.where(labels == VOID_CLASS, 0, labels)
        result.present_masks = labels == np.array(present_classes(labels))[:, None, None]
        result.present_best = result.semantic
    if record.instances is not None:
        masks, objects = load_instances(record)
        result.instances = instances_of(masks, objects.class_ids)
    return result


def instances_of(masks: np.ndarray, class_ids: np.ndarray) -> InstanceResult:
    boxes = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    scores, names = np.ones(len(masks), np.float32), [""] * len(masks)
    return InstanceResult(np.array(boxes, np.float32), masks, scores, class_ids, names)


@pytest.mark.parametrize("name", REPLICAS)
def test_from_published_files_to_scores(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, preparation, metrics = REPLICAS[name]
    if name == CITYSCAPES and WITHOUT_SCRIPTS:
        metrics = metrics[:-1]
    write(root, name, prepared=False)
    if preparation:
        assert f"next:    frozenseg prepare_dataset {preparation} (" in problems(name, capsys)
        prepare(preparation)
    assert problems(name, capsys) == ""

    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    options = ["OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", f"('{name}',)"]
    if name in FEW_SHOT_BENCHMARKS:
        options += FUSIONER
    if name == CITYSCAPES and WITHOUT_SCRIPTS:
        options += ["MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False"]
    arguments = ["--config-file", str(config), "--eval-only", *options]
    assert train_net.main(arguments) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(metrics) <= set(found[name]["summary"])
    assert found[name]["images"] == count_of(name)

    scores = scores_of_truth(str(config), options)
    assert {metric: scores[metric] for metric in metrics} == pytest.approx(
        dict.fromkeys(metrics, 100)
    )


def test_pairs_that_are_drawn_twice_are_scored_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven draws out of two images: each is one image with one class."""
    monkeypatch.setattr(scored_pairs, "NUM_PAIRS", 7)
    write(root, "coco20i_fold3_val")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    name = "coco20i_fold3_val_hsnet1000"
    options = ["OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", f"('{name}',)", *FUSIONER]
    assert (
        train_net.main(["--config-file", str(tmp_path / "tiny.yaml"), "--eval-only", *options]) == 0
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())[name]
    assert found["images"] == 7 and 0 <= found["summary"]["oracle mIoU"] <= 100
    truths = [load_semantic(record) for record in load_records(name)[0]]
    assert any(len(present_classes(truth)) > 1 for truth in truths)  # not all of it is asked for


def scores_of_truth(config: str, options: list[str]) -> dict[str, float]:
    cfg = load_config(config, options)
    (test_set,) = testing.eval_datasets(cfg)
    loader = loader_of_test(test_set.dataset, num_workers=0)
    truth = functools.partial(truth_of, test_set.categories.is_thing)
    results = ((sample.record, truth(sample)) for batch in loader for sample in batch)
    return evaluate(results, testing.build_tasks(test_set), progress=False).summary


def test_a_mosaic_is_asked_for_its_four_names_alone(root: Path, tmp_path: Path) -> None:
    """The best of them where it is more likely than not, written out; and each by itself."""
    name = "small_world_mosaic4"
    write(root, name)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    options = [*FUSIONER, "INPUT.MIN_SIZE_TEST", "192", "INPUT.MAX_SIZE_TEST", "384"]
    test = ["DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(tmp_path / "out")]
    config = ["--config-file", str(tmp_path / "tiny.yaml")]
    assert train_net.main([*config, "--eval-only", *options, *test]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())[name]["summary"]

    segmenter = frozenseg.load(tmp_path / "tiny.yaml", options=options)
    both, either = np.zeros((2, 36)), np.zeros((2, 36))  # in competition, each by itself
    for record in load_records(name)[0]:
        truth = load_semantic(record)
        asked = sorted(set(np.unique(truth)) - {BACKGROUND_CLASS})
        assert len(asked) == 4
        words = [Vocabulary.packaged("small_world").names[k] for k in asked]
        image = torch.from_numpy(np.array(Image.open(record.image_path))).permute(2, 0, 1)
        logits = torch.nn.functional.interpolate(
            segmenter.model.predict(
                ImageBatch.collate([image], 32), segmenter.embed(Vocabulary.parse(words))
            ).mask_logits,
            size=(192, 192), mode="bilinear", align_corners=False,
        )[0].numpy()  # fmt: skip
        for place, k in enumerate(asked):
            alone = logits[place] > 0
            for row, mask in enumerate((alone & (logits.argmax(0) == place), alone)):
                both[row, k] += (mask & (truth == k)).sum()
                either[row, k] += (mask | (truth == k)).sum()
    asked = either[1] > 0
    expected = (100 * both[:, asked] / either[:, asked]).mean(1)
    assert found["mosaic mIoU"] == pytest.approx(expected[0], abs=0.02)
    assert found["oracle mIoU"] == pytest.approx(expected[1], abs=0.02)
    assert abs(expected[0] - expected[1]) > 0.1  # the two rules differ here
    assert found["mosaic mIoU-seen"] is None and found["mosaic mIoU-unseen"] is not None


def test_files_prepared_by_mask2former(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images of ADE20K have names as ids, in both files."""
    write(root, ADE20K)
    row = BENCHMARKS[ADE20K]
    for path in (root / row.annotations, root / row.instances):
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["id"] = f"ADE_val_{image['id']:08d}"
        for entry in content["annotations"]:
            entry["image_id"] = f"ADE_val_{entry['image_id']:08d}"
        path.write_text(json.dumps(content))
    assert problems(ADE20K, capsys) == ""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    scores = scores_of_truth(str(tmp_path / "tiny.yaml"), ["DATASETS.TEST", f"('{ADE20K}',)"])
    assert [scores[key] for key in ("PQ", "AP", "box AP")] == pytest.approx([100] * 3)


# The classes of the first three blocks of each replica: first, none, last; for PC-59 the last two.
ENDS = {
    ADE20K: (0, 149),
    "openvocab_ade20k_full_sem_seg_val": (0, 846),
    "openvocab_pascal20_sem_seg_val": (0, 19),
    "openvocab_pascal21_sem_seg_val": (1, 20),
    "openvocab_pascal_ctx59_sem_seg_val": (0, 58),
    "openvocab_pascal_ctx459_sem_seg_val": (0, 458),
    CITYSCAPES: (0, 18),
    "openvocab_mapillary_vistas_panoptic_val": (0, 64),
    "bdd10k_40_panoptic_val": (0, 39),
    "bdd10k_val_sem_seg": (0, 18),
    "openvocab_coco_2017_val_panoptic_with_sem_seg": (0, 132),
    "openvocab_coco_2017_test_stuff_sem_seg": (0, 170),
}


@pytest.mark.parametrize("name", ENDS)
def test_class_ids_from_the_first_to_the_last(name: str, root: Path) -> None:
    """What was drawn into the published files is what the metrics compare with."""
    write(root, name)
    records, categories = load_records(name)
    blocks = load_semantic(records[0])[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].ravel().tolist()
    first, last = ENDS[name]
    if name == "openvocab_pascal_ctx59_sem_seg_val":
        assert blocks[-2:] == [first, last] and blocks[0] == VOID_CLASS
    else:
        assert blocks[:3] == [first, VOID_CLASS, last]
    assert last == len(categories) - 1
    if records[0].panoptic_path:
        _, segments = load_panoptic(records[0])
        assert {first, last} <= set(segments.class_ids.tolist())
        assert segments.is_crowd.sum() == (name == CITYSCAPES)  # the group of cars


def test_ade20k_things_and_names(root: Path) -> None:
    write(root, ADE20K)
    _, categories = load_records(ADE20K)
    assert sum(categories.is_thing) == 100
    flags = dict(zip(categories.names, categories.is_thing, strict=True))
    assert [flags[name] for name in ("wall", "bed", "person", "sky", "flag")] == [0, 1, 1, 0, 1]
    assert categories.dataset_ids == tuple(range(150))


# What a killed run has not made yet: a file that the next run has to make.
LOST = {
    "ade20k": ("annotations_detectron2/*/*1.png", "ade20k_panoptic_val/*1.png", "ade20k_p*.json"),
    "ade20k_full": ("annotations_detectron2/*/*1.tif", "images_detectron2/*/*1.jpg"),
    "pascal_voc": (
        "annotations_pascal20/*/*1.png",
        "images/*/*1.jpg",
        "classes_in_validation.json",
        "oslsm_pairs_in_validation.json",
    ),
    "pascal_context": ("annotations_ctx459/*/*1.tif", "classes_459.txt"),
    "cityscapes": ("gtFine/*/ulm_000001*_panoptic.png", "gtFine/cityscapes_panoptic_val.json"),
    "bdd100k": ("jsons/pan_seg/masks/val/*1.png", "jsons/pan_seg_val_cocofmt.json"),
    "coco_stuff": ("stuffthingmaps_detectron2/*/*1.png",),
    "fss1000": ("annotations/test/zebra_01.tif", "images/test/b_c_02.jpg"),
    "mosaic4": ("fss1000/annotations/000001.tif", "fss1000/images/000001.jpg"),
}


@pytest.mark.parametrize("preparation", LOST)
def test_preparation_is_repeatable_and_goes_on(
    preparation: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anew or in several processes: the same bytes; what is there is left alone, and half a file
    that a killed run left does not count."""
    name = next(name for name, row in REPLICAS.items() if row[1] == preparation)
    write(root, name)
    written = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    prepare(preparation, "--again")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == written
    for pattern in LOST[preparation]:
        (path,) = root.glob(f"*/{pattern}")
        path.unlink()
        path.with_name(f".{path.stem}.killed{path.suffix}").write_bytes(b"half a file")
    times = {path: path.stat().st_mtime_ns for path in written if path.exists()}
    prepare(preparation, "--processes", "2")
    assert {path: path.read_bytes() for path in root.rglob("[!.]*") if path.is_file()} == written
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert problems(name, capsys) == ""


PANOPTIC = (ADE20K, CITYSCAPES, "bdd10k_40_panoptic_val")


@pytest.mark.parametrize("name", PANOPTIC)
def test_a_lost_panoptic_png_is_made_again(name: str, root: Path) -> None:
    write(root, name)
    written = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    min((root / BENCHMARKS[name].labels).glob("*.png")).unlink()
    prepare(REPLICAS[name][1])
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == written


@pytest.mark.parametrize("flags", [(), ("--again",)])
@pytest.mark.parametrize("name", PANOPTIC)
def test_panoptic_pngs_and_json_agree_after_a_stopped_run(
    name: str, flags: tuple[str, ...], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published files have changed by then: here they are turned by half a turn."""
    write(root, name)
    row, preparation = BENCHMARKS[name], REPLICAS[name][1]
    if not flags:  # as a first run that was stopped before its JSON
        (root / row.annotations).unlink()
    published = {
        ADE20K: "*/annotations_instance/*/*.png",
        CITYSCAPES: "*/gtFine/*/*/*_instanceIds.png",
    }.get(name, "*/labels/pan_seg/bitmasks/*/*.png")
    for path in root.glob(published):
        turned = np.asarray(Image.open(path))[::-1, ::-1]
        Image.fromarray(np.ascontiguousarray(turned)).save(path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"frozenseg.data.prepare.{preparation}.write_panoptic_json", stop)
        prepare(preparation, *flags)
    prepare(preparation)
    paths = [root / row.annotations, *(root / row.labels).glob("*.png")]
    made = [path.read_bytes() for path in paths]
    prepare(preparation, "--again")
    assert [path.read_bytes() for path in paths] == made and len(paths) == 3


def test_a_lost_instance_file_is_made_and_foreign_panoptic_files_stay(root: Path) -> None:
    write(root, ADE20K)
    row = BENCHMARKS[ADE20K]
    kept = [root / row.annotations, *(root / row.labels).glob("*.png")]
    for path in kept[1:]:  # as Mask2Former's, whose ids are others
        Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(path)
    written = {path: path.read_bytes() for path in kept}
    (root / row.instances).unlink()
    prepare("ade20k")
    assert {path: path.read_bytes() for path in kept} == written
    assert (root / row.instances).exists()


def test_the_last_copy_of_an_image_is_kept(root: Path) -> None:
    """With --again, a prepared image stays if the published one is gone; links lead to an image."""
    write(root, "openvocab_pascal20_sem_seg_val")
    published = root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000001.jpg"
    prepared = root / "pascal_voc_d2" / "images" / "validation" / published.name
    content = published.read_bytes()
    published.unlink()
    with pytest.raises(UserError, match=r"2007_000001.jpg: no such image; unpack"):
        prepare("pascal_voc", "--again")
    assert prepared.read_bytes() == content
    (published.parent / "stored").write_bytes(content)
    published.symlink_to("stored")
    prepare("pascal_voc", "--again")
    assert prepared.read_bytes() == content and prepared.samefile(published)
    assert len(list(prepared.parent.iterdir())) == len(SIZES)


def test_coco_label_maps_are_those_that_are_derived(root: Path) -> None:
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    write(root, name)
    prepare("coco_semantic")
    row = find_benchmark(name)
    for with_maps, derived in zip(
        read_benchmark(row, root)[0],
        read_benchmark(dataclasses.replace(row, semantic_labels=""), root)[0],
        strict=True,
    ):
        assert with_maps.semantic_path and not derived.semantic_path
        assert (load_semantic(with_maps) == load_semantic(derived)).all()


def relabel(path: Path, change: dict[int, int]) -> None:
    labels = read_labels(path)
    changed = labels.copy()
    for old, new in change.items():
        changed[labels == old] = new
    Image.fromarray(changed).save(path)


def maps_of(root: Path, name: str) -> list[Path]:
    row = BENCHMARKS[name]
    return sorted((root / (row.semantic_labels or row.labels)).iterdir())


PUBLISHED_MAPS = (
    "ADEChallengeData2016/annotations",
    "ADE20K_2021_17_01/images",
    "VOCdevkit/VOC2012/SegmentationClass",
    "VOCdevkit/VOC2010/trainval",
    "coco/stuffthingmaps",
    "FSS-1000",
)
# Not in the mosaics of the small world: the last of its classes is no thing.
UNSHIFTED = (CITYSCAPES, "coco20i_fold3_val", "small_world_mosaic4")
SHIFTED = [
    name
    for name, (_, _, metrics) in REPLICAS.items()
    if name not in UNSHIFTED and {"mIoU", "whole mIoU", "mosaic mIoU"} & set(metrics)
]


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("name", [n for n in SHIFTED if "panoptic_with" not in n])
def test_labels_shifted_by_one_are_named(
    name: str, with_source: bool, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As published, not as the metrics want them: 1 was not taken off."""
    write(root, name)
    row = BENCHMARKS[name]
    for path in maps_of(root, name):
        labels = np.unique(read_labels(path)).tolist()
        labels = [label for label in labels if label != row.background]
        relabel(path, {label: 0 if label == row.ignore else label + 1 for label in labels})
    for folder in () if with_source else PUBLISHED_MAPS:
        if (root / folder).is_dir():
            shutil.rmtree(root / folder)
    assert "shifted by one" in problems(name, capsys)


@pytest.mark.parametrize("name", ["openvocab_pascal20_sem_seg_val", "bdd10k_val_sem_seg", ADE20K,
                                  "openvocab_pascal_ctx459_sem_seg_val",
                                  "openvocab_mapillary_vistas_panoptic_val"])  # fmt: skip
def test_another_value_for_unlabelled_is_named(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, name)
    ignore = BENCHMARKS[name].ignore
    wrong = 254 if ignore == 255 else 255 if ignore == 65 else 65534
    for path in maps_of(root, name):
        relabel(path, {ignore: wrong})
    assert f"{wrong}" in problems(name, capsys) and f"{ignore}" in problems(name, capsys)
    assert "unlabelled" in problems(name, capsys)


@pytest.mark.parametrize("name", REPLICAS)
def test_half_the_images_is_named(
    name: str, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, name)
    count = count_of(name)
    row = dataclasses.replace(BENCHMARKS[name], counts={2 * count: ""})
    monkeypatch.setitem(BENCHMARKS, name, row)
    expected = f"{count} images with annotation, but the published set has {2 * count}"
    assert expected in problems(name, capsys)
    images = sorted(path for path in (root / row.images).rglob("*") if path.is_file())
    images[0].unlink()
    printed = problems(name, capsys)
    assert images[0].stem in printed
    assert f"of {count} images" in printed or "have no image" in printed


@pytest.mark.parametrize("name", [ADE20K, "openvocab_coco_2017_val_panoptic_with_sem_seg"])
def test_a_missing_or_foreign_instance_file_is_named(
    name: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, name)
    path = root / BENCHMARKS[name].instances
    content = json.loads(path.read_text())
    path.unlink()
    assert "no instance annotation, so no AP" in problems(name, capsys)
    path.write_text(json.dumps(content | {"categories": content["categories"][1:]}))
    assert problems(name, capsys)
    content["annotations"] = []
    path.write_text(json.dumps(content | {"images": content["images"][1:]}))
    assert "lacks 1 of 2 images" in problems(name, capsys)


def test_folds_with_shifted_categories_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COCO has no label maps: there a shift shows in the names of the categories."""
    name = "coco20i_fold3_val"
    write(root, name)
    path = root / BENCHMARKS[name].annotations
    content = json.loads(path.read_text())
    names = [category["name"] for category in content["categories"]]
    for category, other in zip(content["categories"], [*names[1:], names[0]], strict=True):
        category["name"] = other
    path.write_text(json.dumps(content))
    found = problems(name, capsys)
    assert "20 of 20 class names" in found and "the list coco_panoptic" in found
    content["categories"] = content["categories"][:50]
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    assert "has 50 classes, but number 79 is selected" in problems(name, capsys)


def test_a_list_of_classes_in_images_that_is_lost_or_old_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "pascal5i_fold0_val"
    write(root, name)
    path = root / BENCHMARKS[name].present
    path.write_text('{"2007_000001": [1]}')
    assert "--again" in problems(name, capsys)
    stems = [path.stem for path in maps_of(root, name)]
    for values in (5, "1", [1.5], [[1]], None):
        path.write_text(json.dumps(dict.fromkeys(stems, values)))
        assert "--again" in problems(name, capsys)
    path.unlink()
    assert "no list of the classes in each image" in problems(name, capsys)
    prepare("pascal_voc")
    assert problems(name, capsys) == ""


# Where the second image of a replica is published: a list, or files.
SECOND = {
    "pascal5i_fold0_val": ("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",),
    "openvocab_pascal_ctx459_sem_seg_val": ("VOCdevkit/VOC2010/ImageSets/Main/val.txt",),
    "openvocab_ade20k_full_sem_seg_val": ("*/images/ADE/*/*/*/*2_seg.png",),
    "openvocab_ade20k_sem_seg_val": ("*/images/*/*2.jpg", "*/annotations/*/*2.png"),
}


@pytest.mark.parametrize("name", SECOND)
def test_what_is_no_longer_published_goes_with_again(
    name: str,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only then; the check, which names --again as the remedy, is content afterwards."""
    write(root, name)
    row, preparation = BENCHMARKS[name], REPLICAS[name][1]
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(row, counts={1: ""}))
    for pattern in SECOND[name]:
        (path,) = root.glob(pattern)
        if path.suffix == ".txt":
            path.write_text(path.read_text().split()[0])
        else:
            path.unlink()
    labels = root / row.labels
    kept, other = sorted(labels.iterdir())
    prepare(preparation)
    assert sorted(labels.iterdir()) == [kept, other]
    half = other.rename(other.with_name(f".half{other.suffix}"))  # another process writes it
    other.write_bytes(kept.read_bytes())
    prepare(preparation, "--again")
    assert sorted(labels.iterdir()) == [half, kept]
    assert [path.stem for path in (root / row.images).iterdir()] == [kept.stem]
    assert problems(name, capsys) == ""


@pytest.mark.parametrize("listed", ["VOC2012/ImageSets/Segmentation", "VOC2010/ImageSets/Main"])
def test_a_list_without_images_is_refused(listed: str, root: Path) -> None:
    name = "pascal_voc" if "2012" in listed else "pascal_context"
    write(root, next(key for key, row in REPLICAS.items() if row[1] == name), prepared=False)
    (root / "VOCdevkit" / listed / "val.txt").write_text("\n")
    with pytest.raises(UserError, match=r"val.txt: names no image; unpack"):
        prepare(name)


def test_classes_in_another_order_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "openvocab_mapillary_vistas_panoptic_val"
    write(root, name)
    path = root / BENCHMARKS[name].annotations
    content = json.loads(path.read_text())
    names = [category["name"] for category in content["categories"]]
    for category, other in zip(content["categories"], [*names[1:], names[0]], strict=True):
        category["name"] = other
    path.write_text(json.dumps(content))
    assert "65 of 65 class names" in problems(name, capsys)
    for category in content["categories"][1:]:
        category["name"] = names[category["id"] - 1].title()
    path.write_text(json.dumps(content))
    assert "names 'Animal' in more than one class" in problems(name, capsys)
    content["categories"][0]["name"] = "fowl"
    path.write_text(json.dumps(content))
    assert problems(name, capsys) == ""  # one name may differ
    content["categories"].pop()
    path.write_text(json.dumps(content))
    assert problems(name, capsys)


def test_published_files_that_are_not_there_are_asked_for(root: Path) -> None:
    for preparation in PREPARATIONS:
        with pytest.raises(UserError) as caught:
            prepare(preparation)
        assert str(root) in str(caught.value) and "\n" not in str(caught.value)
    write(root, ADE20K, prepared=False)
    (root / "ADEChallengeData2016" / "annotations_instance").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"unpack annotations_instance.tar"):
        prepare("ade20k")
    assert len(maps_of(root, ADE20K)) == 2  # what can be made without it is made
    with pytest.raises(UserError, match="--split test: expected one of val, train"):
        prepare("ade20k", "--split", "test")


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("openvocab_pascal20_sem_seg_val", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
        ("openvocab_pascal_ctx459_sem_seg_val", "VOCdevkit/VOC2010/labels.txt"),
        ("openvocab_pascal_ctx459_sem_seg_val", "VOCdevkit/VOC2010/ImageSets/Main/val.txt"),
        ("fss1000_test", "FSS-1000/fss_test_set.txt"),
    ],
)
def test_published_lists_that_are_not_utf8_are_named(name: str, listed: str, root: Path) -> None:
    write(root, name, prepared=False)
    (root / listed).write_bytes("café\n".encode("latin-1"))
    with pytest.raises(UserError, match=f"{listed}: is not text in UTF-8") as caught:
        prepare(REPLICAS[name][1])
    assert "\n" not in str(caught.value)


def test_a_copied_file_among_those_of_ade20k_is_named(root: Path) -> None:
    """As a file manager names it; nothing is made of it, so that it can simply be removed."""
    write(root, ADE20K, prepared=False)
    (path,) = (root / "ADEChallengeData2016" / "annotations").glob("*/ADE_val_00000001.png")
    shutil.copy(path, path.with_stem(f"{path.stem} (1)"))
    with pytest.raises(UserError, match=r"ADE_val_00000001 \(1\)\.png: its name is none of ADE20K"):
        prepare("ade20k")
    assert not (root / "ADEChallengeData2016" / "annotations_detectron2").exists()


def test_names_of_large_lists_come_with_the_data(root: Path) -> None:
    write(root, "openvocab_ade20k_full_sem_seg_val")
    names = Vocabulary.from_file(root / "ADE20K_2021_17_01" / "classes_847.txt").labels
    assert len(names) == 847 and names[:2] == ["object 2978", "object 312"]
    write(root, "openvocab_pascal_ctx459_sem_seg_val")
    names = Vocabulary.from_file(root / "pascal_ctx_d2" / "classes_459.txt").names
    assert len(names) == 459 and names[426] == ("tv monitor", "tvmonitor")


@pytest.mark.reference
def test_the_59_are_among_the_459(reference: Path) -> None:
    """Their numbers name the same classes in both published lists."""
    large, small = (
        Vocabulary.from_file(reference / "vocabularies" / f"pascal_ctx_{n}_with_prompt_eng.txt")
        for n in (459, 59)
    )
    for number, names in zip(pascal_context.FREQUENT, small.names, strict=True):
        words = [set(" ".join(group).split()) for group in (names, large.names[number - 1])]
        assert words[0] & words[1], names


def test_overview_and_unknown_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_dataset.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in REPLICAS) and "no images" in printed
    with pytest.raises(UserError, match="did you mean openvocab_ade20k_panoptic_val"):
        check_dataset.main(["openvocab_ade20k_panoptic_va"])
