"""The table of benchmarks, names of the user's own files, and where the data lies."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from frozenseg.data import benchmarks
from frozenseg.data.annotations import load_panoptic, load_semantic
from frozenseg.data.benchmarks import (
    BENCHMARKS,
    Benchmark,
    data_root,
    find_benchmark,
    load_records,
    read_benchmark,
)
from frozenseg.data.benchmarks.few_shot_rows import FUSIONER_RN101, FUSIONER_VIT_L
from frozenseg.data.benchmarks.rows import CONVNEXT, RN50X64
from frozenseg.data.prepare import PREPARATIONS
from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import CATEGORIES, dataset_name, write_dataset, write_json

PUBLISHED_NAMES = [
    "openvocab_coco_2017_train_panoptic_with_sem_seg",
    "openvocab_coco_2017_val_panoptic_with_sem_seg",
    "coco_2017_train_panoptic",
    "coco_2017_val_panoptic_with_sem_seg",
    "coco_2017_val_panoptic",
    "openvocab_ade20k_panoptic_val",
    "openvocab_ade20k_sem_seg_val",
    "openvocab_ade20k_instance_val",
    "openvocab_ade20k_full_sem_seg_val",
    "openvocab_pascal20_sem_seg_val",
    "openvocab_pascal21_sem_seg_val",
    "openvocab_pascal_ctx59_sem_seg_val",
    "openvocab_pascal_ctx459_sem_seg_val",
    "openvocab_cityscapes_fine_panoptic_val",
    "openvocab_mapillary_vistas_panoptic_val",
    "openvocab_lvis_v1_val",
    "bdd10k_40_panoptic_val",
    "bdd10k_val_sem_seg",
    "openvocab_coco_2017_test_stuff_sem_seg",
]
PARTS_OF_ADE20K = ("openvocab_ade20k_sem_seg_val", "openvocab_ade20k_instance_val")
# What is not the usual 255, and not the usual 800 / 1333.
IGNORED = {
    "openvocab_ade20k_full_sem_seg_val": 65535,
    "openvocab_pascal_ctx459_sem_seg_val": 65535,
    "openvocab_mapillary_vistas_panoptic_val": 65,
}
LARGE = ("openvocab_cityscapes_fine_panoptic_val", "openvocab_mapillary_vistas_panoptic_val")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_rows(name):
    row = BENCHMARKS[name]
    tasks = {"panoptic", "semantic", "instances"}
    assert row.tasks and set(row.tasks) <= tasks
    own_rules = {"lvis", "cityscapes", "oracle", "whole", "mosaic", "video"}
    assert set(row.evaluators) <= tasks | own_rules
    paths = (row.images, row.annotations, row.labels, row.semantic_labels, row.instances,
             row.present)  # fmt: skip
    assert row.trained_on == "" or row.trained_on in BENCHMARKS
    assert not any(Path(path).is_absolute() for path in paths)
    vocabularies = Path(benchmarks.__file__).parents[1] / "vocabularies"
    own = row.vocabulary.endswith(".txt")  # comes with the prepared data
    assert not row.vocabulary or own or (vocabularies / f"{row.vocabulary}.txt").is_file()
    assert row.reader == "semantic" or row.annotations
    assert all(0 < value < 100 for model in row.published.values() for value in model.values())


def test_published_names_and_paths():
    assert set(PUBLISHED_NAMES) <= set(BENCHMARKS)
    row = BENCHMARKS["openvocab_coco_2017_val_panoptic_with_sem_seg"]
    assert row.annotations == "coco/annotations/panoptic_val2017.json"
    assert row.labels == "coco/panoptic_val2017" and row.images == "coco/val2017"
    assert row.instances == "coco/annotations/instances_val2017.json"
    assert row.semantic_labels == "coco/panoptic_semseg_val2017"
    assert row.test_size == (800, 1333)


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_ignore_labels_and_sizes(name):
    row = BENCHMARKS[name]
    assert row.ignore == IGNORED.get(name, 255)
    assert row.test_size == ((1024, 2560) if name in LARGE else (800, 1333))


def test_mapillary_image_sizes_are_not_believed(tmp_path):
    """Its panoptic_2018.json has height and width exchanged."""
    content = write_dataset(tmp_path, [(40, 60)])
    content["images"][0] |= {"height": 60, "width": 40, "file_name": "whatever"}
    write_json(tmp_path, content)
    Image.open(tmp_path / "images" / "1.png").save(tmp_path / "images" / "1.jpg")
    row = dataclasses.replace(
        BENCHMARKS["openvocab_mapillary_vistas_panoptic_val"],
        images="images",
        annotations="panoptic.json",
        labels="png",
        semantic_labels="maps",
    )
    (tmp_path / "maps").mkdir()
    Image.new("L", (60, 40), 65).save(tmp_path / "maps" / "1.png")
    (record,), _ = read_benchmark(row, tmp_path)
    assert record.height is None and record.image_path == str(tmp_path / "images" / "1.jpg")
    assert load_panoptic(record)[0].shape == (40, 60)
    assert (load_semantic(record) == -1).all()  # 65 is its label for nothing


def test_a_class_list_that_preparation_makes_is_asked_for(tmp_path):
    row = BENCHMARKS["openvocab_pascal_ctx459_sem_seg_val"]
    with pytest.raises(
        UserError,
        match="classes_459.txt: no such file; run frozenseg prepare_d",
    ):
        read_benchmark(row, tmp_path)


def test_a_table_row_is_read_below_the_root_of_the_environment(tmp_path, monkeypatch):
    coco = tmp_path / "coco"
    content = write_dataset(coco, [(40, 60)])
    (coco / "annotations").mkdir()
    (coco / "panoptic.json").rename(coco / "annotations" / "panoptic_val2017.json")
    (coco / "png").rename(coco / "panoptic_val2017")
    (coco / "images").rename(coco / "val2017")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert data_root() == tmp_path
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    records, categories = load_records(name)
    assert len(records) == len(content["images"]) and len(categories) == 3
    assert records[0].semantic_path is None  # no label maps there: derived
    (coco / "panoptic_semseg_val2017").mkdir()
    Image.new("L", (60, 40), 2).save(coco / "panoptic_semseg_val2017" / "1.png")
    records, _ = load_records(name)
    assert (load_semantic(records[0]) == 2).all()
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert data_root() == Path("datasets")
    with pytest.raises(UserError, match="datasets/coco/annotations/panoptic_val2017.json: no such"):
        load_records(name)


def test_names_made_of_files(tmp_path, monkeypatch):
    write_dataset(tmp_path / "set", [(40, 60)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    records, _ = load_records(dataset_name(Path("set")))  # below the working folder, not the root
    assert records[0].image_path == str(tmp_path / "set" / "images" / "1.png")
    for wrong in ("coco_panoptic:a:b", "coco_panoptic:a::c", "coco_panoptic:", "label_maps:a:b"):
        with pytest.raises(UserError, match="other paths were expected"):
            find_benchmark(wrong)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean coco_2017_val_panoptic") as caught:
        find_benchmark("coco_2017_val_panoptc")
    assert "\n" not in str(caught.value)


def test_rows_of_the_other_readers(tmp_path):
    write_dataset(tmp_path, [(40, 60)])
    instances = {"images": [], "annotations": [], "categories": CATEGORIES}
    instances["images"] = [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}]
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    row = Benchmark(
        tasks=("instances",),
        reader="instances",
        vocabulary="",
        images="images",
        annotations="instances.json",
    )
    assert len(read_benchmark(row, tmp_path)[0]) == 1
    (tmp_path / "labels").mkdir()
    Image.new("L", (60, 40), 9).save(tmp_path / "labels" / "1.png")
    write_json(tmp_path, {"categories": CATEGORIES})
    row = Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary="",
        images="images",
        annotations="panoptic.json",
        labels="labels",
        ignore=9,
    )
    records, categories = read_benchmark(row, tmp_path)
    assert categories.names == ("dog", "cat", "grass") and (load_semantic(records[0]) == -1).all()


OWN_LISTS = {"classes_847.txt": 847, "classes_459.txt": 459, "classes_test.txt": 240}


def test_the_table_of_data_sets_says_what_the_rows_say():
    """Images, classes and script of each line of datasets/README.md, and numbers in its text."""
    text = (Path(__file__).resolve().parents[2] / "datasets" / "README.md").read_text()
    told = set()
    for line in re.findall(r"^\| .*`.*\|$", text, re.MULTILINE)[1:]:  # below the head
        _, names, images, classes, script = (cell.strip() for cell in line.strip("|").split("|"))
        listed = re.findall(r"`([^`]+)`", names)
        if "..." in names:
            listed = [listed[0].replace("fold0", f"fold{fold}") for fold in range(4)]
        counts = [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", classes)]
        for place, name in enumerate(listed):
            row = BENCHMARKS[name]
            assert f"{next(iter(row.counts)):,}" == images.removeprefix("of "), name
            assert images.startswith("of ") == bool(row.classes), name
            arguments = script.strip("`").removeprefix("frozenseg prepare_dataset ")
            assert row.prepared_by.split(" ")[0] == arguments.split(" ")[0].replace("none", ""), (
                name
            )
            count = counts[place] if len(counts) > 1 else counts[0]
            if row.vocabulary:
                own = OWN_LISTS.get(Path(row.vocabulary).name)
                whole = own or len(Vocabulary.packaged(row.vocabulary))
                assert count == (len(row.classes) or whole), name
        told |= set(listed)
    scored = {name for name, row in BENCHMARKS.items() if row.published}
    assert scored - {"openvocab_ade20k_sem_seg_val"} <= told
    numbers = [*BENCHMARKS["pascal5i_fold0_train"].counts]
    for split in ("train", "val"):
        numbers += BENCHMARKS[f"openvocab_pascal_ctx59_sem_seg_{split}"].counts
    assert all(f"{number:,}" in text for number in numbers)
    assert f"above {BENCHMARKS['openvocab_ade20k_full_sem_seg_val'].short_side} pixels" in text


def test_preparations_and_documents_know_every_row():
    """Rows name preparations that exist, and documents print the published numbers of the rows."""
    root = Path(__file__).resolve().parents[2]
    for row in BENCHMARKS.values():
        if row.prepared_by:
            name, *flags = row.prepared_by.split()
            assert not flags or flags[0] == "--split"
            assert {*flags[1:]} <= {*PREPARATIONS[name].splits}
    started = (root / "docs" / "guides" / "benchmark.md").read_text().splitlines()
    data = (root / "datasets" / "README.md").read_text()
    for name in (name for name in PUBLISHED_NAMES[5:] if name not in PARTS_OF_ADE20K):
        row = BENCHMARKS[name]
        (line,) = (line for line in started if line.startswith("| ") and f"`{name}`" in line)
        for model in (CONVNEXT, RN50X64):
            numbers = (
                ", ".join(f"{key} {value}" for key, value in row.published[model].items())
                if model in row.published
                else "none known"
            )
            assert f"| {numbers} |" in line
        assert f"`{name}`" in data and f"| {next(iter(row.counts)):,} |" in data
    for family in (
        "pascal5i_foldN_val_oslsm",
        "coco20i_foldN_val_first1000",
        "coco20i_foldN_to_pascal_val",
    ):
        (line,) = (line for line in started if line.startswith("| ") and f"`{family}`" in line)
        for model in (FUSIONER_VIT_L, FUSIONER_RN101):
            rows = [BENCHMARKS[family.replace("N", str(fold))] for fold in range(4)]
            values = [row.published[model]["oracle mIoU"] for row in rows]
            mean = sum(values) / 4
            (cell,) = (c for c in line.split(" | ") if c.startswith(", ".join(map(str, values))))
            assert abs(float(cell.split("mean ")[1]) - mean) < 0.06
        assert f"`{family.replace('N', '0')}`" in data
    for name in ("fss1000_test", "fss1000_mosaic4", "small_world_mosaic4"):
        assert f"`{name}`" in data and any(f"`{name}`" in line for line in started)
