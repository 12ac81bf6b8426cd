"""Facts of single data sets that a reader of their papers would not expect, on small replicas."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.build import evaluator as testing
from frozenseg.commands import check_dataset, prepare_dataset, score
from frozenseg.config import load_config
from frozenseg.data.annotations import VOID_CLASS, load_panoptic, load_semantic, present_classes
from frozenseg.data.benchmarks import BENCHMARKS, load_records
from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare import ade20k, ade20k_full, cityscapes, fss1000, pascal_context
from frozenseg.data.prepare.options import write_picture
from frozenseg.errors import UserError
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.notes import note
from frozenseg.text.vocabulary import Vocabulary
from tests.data.replicas import (
    FSS_CLASSES,
    save,
    write_ade20k,
    write_ade20k_full,
    write_bdd100k,
    write_fss1000,
    write_list,
    write_mapillary,
    write_pascal_context,
)

ADE20K, ADE20K_FULL = "openvocab_ade20k_panoptic_val", "openvocab_ade20k_full_sem_seg_val"
BDD, MAPILLARY = "bdd10k_40_panoptic_val", "openvocab_mapillary_vistas_panoptic_val"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in (ADE20K, ADE20K_FULL, BDD, MAPILLARY, "fss1000_test", "fss1000_train"):
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], counts={}))
    return tmp_path


def prepare(*arguments: str) -> None:
    assert prepare_dataset.main([*arguments, "--processes", "1"]) is None


def checked(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Whether the check finds the set in order, and what it prints."""
    capsys.readouterr()
    return check_dataset.main([name]) == 0, capsys.readouterr().out


# FSS-1000


def test_fss_pictures_of_objects_in_another_size_are_resized_to_their_image(
    root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As `peregine_falcon/8` of the published files: 224 x 224, its object 480 x 960."""
    write_fss1000(root)
    folder = root / "FSS-1000" / "fewshot_data" / "zebra"
    height, width = Image.open(folder / "1.jpg").size[::-1]
    mask = np.zeros((2 * height + 7, 3 * width), np.uint8)
    mask[: height + 3, width:] = 255
    save(folder / "1.png", mask)
    with caplog.at_level(logging.WARNING):
        prepare("fss1000")
    assert "1 of 10 pictures of objects differ in size" in caplog.text
    assert str(folder / "1.png") in caplog.text
    assert checked("fss1000_test", capsys)[0]
    (record,) = (r for r in load_records("fss1000_test")[0] if r.image_id == "zebra_01")
    found = load_semantic(record)
    rows = [(2 * y + 1) * len(mask) // (2 * height) for y in range(height)]
    columns = [(2 * x + 1) * 3 // 2 for x in range(width)]
    np.testing.assert_array_equal(found == 4, mask[rows][:, columns] > 127)


def test_another_size_stays_an_error_elsewhere(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ade20k(root)
    prepare("ade20k")
    path = next((root / "ADEChallengeData2016" / "images" / "validation").iterdir())
    save(path, np.zeros((70, 90, 3), np.uint8))
    fine, printed = checked(ADE20K, capsys)
    assert not fine and "70 x 90" in printed


def test_lists_of_fss_are_read_and_never_made_up(root: Path) -> None:
    write_fss1000(root)
    source = root / "FSS-1000"
    prepare("fss1000", "--split", "train", "val", "test")
    assert [len(load_records(f"fss1000_{split}")[1]) for split in fss1000.LISTS] == [5, 2, 1]
    for name, text, message in (
        ("val.txt", "between\nzebra\n", r"val.txt: zebra is in fss_test_set.txt too"),
        ("val.txt", "between\nother\n", r"val.txt: other is in trn.txt too"),
        ("val.txt", "between\nbetween\n", r"val.txt: between is in this list too"),
        ("val.txt", "nowhere\n", r"nowhere: no such folder"),
    ):
        (source / name).write_text(text)
        with pytest.raises(UserError, match=message):
            prepare("fss1000", "--split", "val", "--again")
    (source / "trn.txt").unlink()
    with pytest.raises(UserError, match=r"trn.txt: no such file; put the lists of classes.*HSNet"):
        prepare("fss1000", "--split", "train", "--again")
    prepare("fss1000", "--again")  # the test needs neither


def test_what_another_list_of_fss_has_made_is_never_mixed_in(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Class ids follow the list: label maps by an older list would mean other classes."""
    write_fss1000(root)
    write_list(root / "FSS-1000" / "trn.txt", ["apple_2", "other", "a_first"])
    for number in (1, 2):
        for suffix in ("jpg", "png"):
            source = root / "FSS-1000" / "fewshot_data" / "other" / f"{number}.{suffix}"
            target = source.parents[1] / "apple_2" / source.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    prepare("fss1000", "--split", "train")
    write_list(root / "FSS-1000" / "trn.txt", ["other", "a_first"])
    with pytest.raises(UserError, match=r"classes_train.txt: was made from another list.*--again"):
        prepare("fss1000", "--split", "train")
    with caplog.at_level(logging.WARNING):
        prepare("fss1000", "--split", "train", "--again")
    assert "6 files of another or an unknown source removed" in caplog.text  # label maps
    assert "2 files removed that are no longer among the published ones" in caplog.text  # images
    records, categories = load_records("fss1000_train")
    assert categories.names == ("other", "a first")
    for record in records:
        classes = {"other": 0, "a_first": 1}
        expected = classes[str(record.image_id).rsplit("_", 1)[0]]
        assert present_classes(load_semantic(record)) == [expected]


@pytest.mark.parametrize("stopped_at", [1, 4, 7])
def test_label_maps_of_an_older_list_of_fss_do_not_outlive_a_stopped_run(
    stopped_at: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stopped run has made itself is kept."""
    write_fss1000(root)
    prepare("fss1000")
    write_list(root / "FSS-1000" / "fss_test_set.txt", list(reversed(FSS_CLASSES)))
    written: list[Path] = []

    def write(path: Path, pixels: np.ndarray) -> None:
        if len(written) == stopped_at:
            raise KeyboardInterrupt
        written.append(path)
        write_picture(path, pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("frozenseg.data.prepare.labels.write_picture", write)
        prepare("fss1000", "--again")
    times = {path: path.stat().st_mtime_ns for path in written}
    prepare("fss1000")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for record in load_records("fss1000_test")[0]:
        expected = FSS_CLASSES[::-1].index(str(record.image_id).rsplit("_", 1)[0])
        assert present_classes(load_semantic(record)) == [expected]


def test_label_maps_of_fss_whose_list_is_gone_are_made_again(root: Path) -> None:
    write_fss1000(root)
    prepare("fss1000")
    (root / "fss1000_d2" / "classes_test.txt").unlink()
    write_list(root / "FSS-1000" / "fss_test_set.txt", list(reversed(FSS_CLASSES)))
    prepare("fss1000")
    (record,) = (r for r in load_records("fss1000_test")[0] if r.image_id == "zebra_01")
    assert present_classes(load_semantic(record)) == [0]


def test_the_published_split_of_fss_is_what_the_rows_expect() -> None:
    images = {split: [*BENCHMARKS[f"fss1000_{split}"].counts] for split in fss1000.LISTS}
    assert images == {"train": [5200], "val": [2400], "test": [2400]}


# ADE20K with 847 classes


def write_large(root: Path) -> Path:
    """One image of 530 x 700 among the small ones; the folder of its published files."""
    write_ade20k_full(root)
    folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "urban" / "street"
    chance = np.random.default_rng(0)
    save(folder / "ADE_val_00000009.jpg", chance.integers(0, 256, (530, 700, 3)).astype(np.uint8))
    ids = np.array(ade20k_full.scored_ids())[chance.integers(0, 847, (530, 700))]
    colours = np.stack([ids // 256 * 10, ids % 256, ids * 0], -1).astype(np.uint8)
    save(folder / "ADE_val_00000009_seg.png", colours)
    (folder / "ADE_val_00000009.json").write_text('{"annotation": {"object": []}}')
    return folder


@pytest.mark.parametrize("with_source", [True, False])
def test_ade20k_full_is_shrunk_as_published_or_left_as_it_is(
    root: Path, capsys: pytest.CaptureFixture[str], with_source: bool
) -> None:
    folder = write_large(root)
    prepared = root / "ADE20K_2021_17_01"
    prepare("ade20k_full")
    images = prepared / "images_detectron2" / "validation"
    labels = prepared / "annotations_detectron2" / "validation"
    assert Image.open(images / "ADE_val_00000009.jpg").size == (676, 512)  # round(700 / 530 * 512)
    small = images / "ADE_val_00000001.jpg"
    assert small.read_bytes() == (folder / small.name).read_bytes()
    colours = np.asarray(Image.open(folder / "ADE_val_00000009_seg.png")).astype(int)
    ids = colours[..., 0] // 10 * 256 + colours[..., 1]
    class_of = np.zeros(4000, int)
    class_of[list(ade20k_full.scored_ids())] = np.arange(847)
    rows = [int(y * 530 / 512) for y in range(512)]
    columns = [int(x * 700 / 676) for x in range(676)]
    found = read_labels(labels / "ADE_val_00000009.tif")
    np.testing.assert_array_equal(found, class_of[ids][rows][:, columns])
    if not with_source:
        folder.rename(root / "away")
    fine, printed = checked(ADE20K_FULL, capsys)
    assert fine and "no image has a shorter side above 512, as published" in printed

    if not with_source:
        (root / "away").rename(folder)
    prepare("ade20k_full", "--full-size", "--again")
    assert Image.open(images / "ADE_val_00000009.jpg").size == (700, 530)
    np.testing.assert_array_equal(read_labels(labels / "ADE_val_00000009.tif"), class_of[ids])
    if not with_source:
        folder.rename(root / "away")
    fine, printed = checked(ADE20K_FULL, capsys)
    assert fine and "images are in their original size, 1 of them larger than published" in printed


def test_ade20k_full_half_shrunk_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_large(root)
    for path in sorted(folder.glob("*9*")):
        path.with_name(path.name.replace("00000009", "00000010")).write_bytes(path.read_bytes())
    prepare("ade20k_full")
    contents = {p: p.read_bytes() for p in root.glob("*/*_detectron2/validation/*10.*")}
    prepare("ade20k_full", "--full-size", "--again")
    for path, content in contents.items():
        path.write_bytes(content)
    fine, printed = checked(ADE20K_FULL, capsys)
    assert not fine and "1 images are in their original size, 1 are shrunk" in printed


@pytest.mark.parametrize("lost", ["images", "annotations"])
def test_full_size_is_refused_where_shrunk_files_are_and_the_reverse(lost: str, root: Path) -> None:
    """Also if files of one kind alone are there."""
    write_large(root)
    small, large = ["ade20k_full"], ["ade20k_full", "--full-size"]
    for first, second, message in (
        (small, large, r"00009.*made without --full-size \(1 .*--full-size --again"),
        (large, small, r"00009.*made with --full-size \(1 files\);.* validation --again"),
    ):
        prepare(*first, "--again")
        prepare(*first)
        for path in root.glob(f"*/{lost}_detectron2/*/*9.*"):
            path.unlink()
        with pytest.raises(UserError, match=message):
            prepare(*second)
        prepare(*first)


@pytest.mark.parametrize(
    ("size", "published"),
    [((512, 900), (512, 900)), ((513, 513), (512, 512)), ((768, 1024), (512, 683)),
     ((1000, 600), (853, 512)), ((300, 4000), (300, 4000))],
)  # fmt: skip
def test_published_sizes_of_ade20k_full(size: tuple[int, int], published: tuple[int, int]) -> None:
    assert ade20k_full.published_size(*size) == published


def test_only_ade20k_full_is_shrunk(root: Path) -> None:
    with pytest.raises(UserError, match="--full-size: only applies to ade20k_full"):
        prepare("ade20k", "--full-size")


# Counts that differ between published lists


def test_pascal_context_has_two_counts_and_the_check_says_which(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "openvocab_pascal_ctx59_sem_seg_train"
    assert set(BENCHMARKS[name].counts) == {4998, 4996}
    write_pascal_context(root)
    lists = root / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "train.txt")
    prepare("pascal_context", "--split", "training")
    for counts, text in (
        ({3: "VOC 2010's list", 2: "the Detail API"}, "the number of the Detail API (VOC 2010's"),
        ({2: "VOC 2010's list", 3: "the Detail API"}, "the number of VOC 2010's list (the Detail"),
    ):
        row = dataclasses.replace(BENCHMARKS[name], counts=counts)
        monkeypatch.setitem(BENCHMARKS, name, row)
        fine, printed = checked(name, capsys)
        assert fine and f"2 images with annotation, {text}" in printed


def test_the_lists_that_pascal5i_may_be_trained_on_are_named() -> None:
    for fold in range(4):
        counts = BENCHMARKS[f"pascal5i_fold{fold}_train"].counts
        assert list(counts) == [10_582, 10_092, 5953]
        assert [whose.split("'")[0] for whose in counts.values()] == ["Fusioner", "HSNet", "PFENet"]


# Sizes at test


@pytest.mark.parametrize("size", [(50, 70), (375, 500), (640, 427), (1200, 900)])
def test_images_of_voc_and_coco_folds_are_tested_as_they_are(size: tuple[int, int]) -> None:
    """As Fusioner does; unless another size is asked for."""
    image, labels = np.zeros((*size, 3), np.uint8), np.zeros((1, *size), np.uint8)
    chance, cfg = np.random.default_rng(0), load_config()
    other = load_config(None, ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "999"])
    for name, row in BENCHMARKS.items():
        if name.startswith(("pascal5i", "coco20i")):
            found, maps = testing.eval_transform(cfg, row)(image, labels, chance)
            assert found.shape[:2] == maps.shape[1:] == size
            found, _ = testing.eval_transform(other, row)(image, labels, chance)
            assert min(found.shape[:2]) == 64


# Mapillary Vistas


def test_mapillary_is_found_with_and_without_the_folder_of_its_version(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mapillary(root)
    expected = [load_semantic(record) for record in load_records(MAPILLARY)[0]]
    split = root / "mapillary_vistas" / "validation"
    (split / "v1.2").mkdir()
    for name in ("labels", "panoptic"):
        (split / name).rename(split / "v1.2" / name)
    (split / "v2.0" / "panoptic").mkdir(parents=True)  # another annotation, never to be looked at
    assert checked(MAPILLARY, capsys)[0]
    records, categories = load_records(MAPILLARY)
    assert len(categories) == 65 and "/v1.2/panoptic/" in str(records[0].panoptic_path)
    for record, labels in zip(records, expected, strict=True):
        np.testing.assert_array_equal(load_semantic(record), labels)
    split.rename(split.with_name("training"))
    assert len(load_records(MAPILLARY.replace("_val", "_train"))[0]) == len(expected)
    split.with_name("training").rename(split)
    (split / "v1.2").rename(split / "v1.3")
    fine, printed = checked(MAPILLARY, capsys)
    assert not fine and "validation/panoptic/panoptic_2018.json: missing" in printed


# BDD100K


def test_stuff_of_bdd_that_is_marked_as_crowd_is_said_and_treated_as_panopticapi_does(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its toolkit marks stuff so where the object of a stuff class is to be ignored."""
    write_bdd100k(root)
    prepare("bdd100k")
    row = BENCHMARKS[BDD]
    path = root / row.annotations
    content = json.loads(path.read_text())
    things = {category["id"] for category in content["categories"] if category["isthing"]}
    marked = 0
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in things:
                segment["iscrowd"], marked = 1, marked + 1
    path.write_text(json.dumps(content))
    said = f"{marked} segments of stuff are marked as crowds"
    with caplog.at_level(logging.WARNING):
        records, categories = load_records(BDD)
    assert said in caplog.text and marked
    is_thing = np.array(categories.is_thing)
    for record in records:
        crowded = record.segments.is_crowd
        np.testing.assert_array_equal(crowded[~is_thing[record.segments.class_ids]], True)

    caplog.clear()  # the scorer of files has the same rule: what is a crowd is never missed
    note.cache_clear()  # as in a process of its own: one says it once
    empty = root / "empty"
    empty.mkdir()
    for annotation in content["annotations"]:
        size = read_labels_size(root / row.labels / annotation["file_name"])
        save(empty / annotation["file_name"], np.zeros((*size, 3), np.uint8))
        annotation["segments_info"] = []
    (root / "empty.json").write_text(json.dumps(content))
    truth = ["--gt", str(path), "--gt-dir", str(root / row.labels)]
    found = ["--pred", str(root / "empty.json"), "--pred-dir", str(empty)]
    score.main(["panoptic", *truth, *found, "--json", str(root / "s.json")])
    assert said in caplog.text
    assert json.loads((root / "s.json").read_text())["Stuff"]["n"] == 0


def read_labels_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.height, picture.width


# ADE20K as Mask2Former and FC-CLIP prepare it


def test_stuff_that_objects_cover_wholly_is_counted_and_no_fault(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ade20k(root)
    prepare("ade20k")
    path = root / BENCHMARKS[ADE20K].annotations
    content = json.loads(path.read_text())
    is_thing = {category["id"]: category["isthing"] for category in content["categories"]}
    for annotation in content["annotations"]:
        there = {segment["category_id"] for segment in annotation["segments_info"]}
        stuff = [c for c, thing in is_thing.items() if not thing and c not in there][:2]
        annotation["segments_info"] += [
            {"id": c + 1, "category_id": c, "iscrowd": 0, "area": 77} for c in stuff
        ]
    path.write_text(json.dumps(content))
    fine, printed = checked(ADE20K, capsys)
    assert fine and "4 segments of stuff are listed without a pixel" in printed
    records, _ = load_records(ADE20K)
    assert (load_semantic(records[0]) != VOID_CLASS).any()
    metric = PanopticQuality(
        categories=[{"id": c, "isthing": thing} for c, thing in is_thing.items()]
    )
    for record in records:
        ids, segments = load_panoptic(record)
        rows = [
            {"id": int(i), "category_id": int(c)}
            for i, c in zip(segments.ids, segments.class_ids, strict=True)
        ]
        found = [row for row in rows if (ids == row["id"]).any()]
        metric.update(record.image_id, ids, found, ids, rows)
    per_class = metric.compute()["per_class"]
    assert min(row["rq"] for row in per_class.values()) == 0  # missed, as panopticapi has it

    for annotation in content["annotations"]:
        annotation["segments_info"].append({"id": 99_000, "category_id": 7, "iscrowd": 0})
    path.write_text(json.dumps(content))
    fine, printed = checked(ADE20K, capsys)
    assert not fine and "has no pixel of segment 99000" in printed


# Names in tables


def test_every_name_in_a_table_of_preparation_is_that_of_a_class() -> None:
    """A name that matches nothing changes nothing, and nobody sees it."""
    frequent = Vocabulary.packaged("pascal_context_59")
    assert len(pascal_context.FREQUENT) == len(set(pascal_context.FREQUENT)) == len(frequent)
    joined = {label.replace(" ", "") for label in frequent.labels}  # "tvmonitor" of "tv monitor"
    assert set(pascal_context.SPACED) <= joined
    for spoken in pascal_context.SPACED.values():
        assert any(spoken in names for names in frequent.names), spoken
    scored = Vocabulary.packaged("cityscapes")
    for label, names in zip(cityscapes.LABELS.values(), scored.names, strict=True):
        assert label in names
    assert len(set(ade20k_full.scored_ids())) == 847
    things = Vocabulary.packaged("ade20k_150").select(list(ade20k.THINGS))
    assert len(set(ade20k.THINGS)) == len(things) == 100


@pytest.mark.reference
def test_every_name_of_pascal_context_is_one_of_the_published_list(reference: Path) -> None:
    """Its labels.txt has each name as the first of the published prompts."""
    path = reference / "vocabularies" / "pascal_ctx_459_with_prompt_eng.txt"
    published = {names[0] for names in Vocabulary.from_file(path).names}
    assert set(pascal_context.SPACED) <= published
    assert "diningtable" not in published and "table" in published


# Data that is not there


@pytest.mark.parametrize(
    "name", ["openvocab_coco_2017_train_panoptic_with_sem_seg", "coco20i_fold0_val", MAPILLARY,
             "openvocab_pascal20_sem_seg_val", "openvocab_pascal_ctx459_sem_seg_val",
             "pascal5i_fold0_val", "openvocab_lvis_v1_val"],
)  # fmt: skip
def test_missing_data_says_where_it_is_looked_for_and_what_to_ask(name: str, root: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_records(name)
    message = str(caught.value)
    assert message.startswith(str(root)) and "no such file or folder" in message
    for pointer in (
        "$DETECTRON2_DATASETS",
        "datasets/README.md",
        f"frozenseg check_dataset {name} ",
    ):
        assert pointer in message
    assert "\n" not in message


def test_a_missing_file_of_objects_is_told_before_a_model_runs(root: Path) -> None:
    write_ade20k(root)
    prepare("ade20k")
    (root / BENCHMARKS[ADE20K].instances).unlink()
    with pytest.raises(UserError, match=rf"instance_val.json: no such .*check_dataset {ADE20K}"):
        testing.eval_datasets(load_config(None, ["DATASETS.TEST", f"('{ADE20K}',)"]))


def test_a_missing_file_of_ones_own_is_corrected_in_its_name(root: Path) -> None:
    name = f"coco_panoptic:{root}/a.json:{root}/png:{root}/images"
    with pytest.raises(UserError, match=r"a.json: no such file or folder; correct it in coco_pan"):
        load_records(name)
    write_list(root / "unused.txt", [])
