"""`check_dataset --fix`: what is mended, what stays, and that the input is never written."""

import copy
import json

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from frozenseg.commands import check_dataset
from frozenseg.data.benchmarks import BENCHMARKS
from frozenseg.data.rle import encode_masks
from frozenseg.errors import UserError
from tests.data.tiny import SEGMENTS, dataset_name, id_map, write_dataset

MASK = np.zeros((1, 8, 12), bool)
MASK[0, 2:7, 3:8] = True
SOUND = {
    "images": [{"id": 4, "file_name": "1.png", "height": 8, "width": 12}],
    "categories": [{"id": 0, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 0, "iscrowd": 0, "area": 25.0,
         "bbox": [3.0, 2.0, 5.0, 5.0], "segmentation": encode_masks(MASK)[0]},
    ],
}  # fmt: skip
RUNS = {"size": [8, 12], "counts": [26, 5, 3, 5, 3, 5, 3, 5, 3, 5, 33]}
SQUARE = [3, 2, 8, 2, 8, 7, 3, 7]


def fixed(folder, content, capsys):
    """What --fix makes of an instance JSON, and what it prints."""
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    Image.new("RGB", (12, 8)).save(folder / "1.png")
    before = path.read_bytes()
    assert check_dataset.main([f"coco_instances:{path}:{folder}", "--fix"]) == 0
    assert path.read_bytes() == before
    copied = folder / "a.fixed.json"
    made = json.loads(copied.read_text()) if copied.exists() else None
    return made, capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": 0}, "1 annotations were renumbered from 1"),
        ({"id": None}, "1 annotations were renumbered from 1"),
        ({"area": None}, "1 areas were missing or impossible"),
        ({"area": -25.0}, "1 areas were missing or impossible"),
        ({"bbox": None}, "1 boxes were missing"),
        ({"iscrowd": None}, "1 iscrowd was missing, or not 0 or 1"),
        ({"iscrowd": "0"}, "1 iscrowd was missing, or not 0 or 1"),
        ({"segmentation": RUNS}, "1 masks were written as packed runs"),
    ],
)
def test_each_fault_is_mended_and_said(tmp_path, change, said, capsys):
    content = copy.deepcopy(SOUND)
    entry = content["annotations"][0]
    entry |= change
    content["annotations"][0] = {key: value for key, value in entry.items() if value is not None}
    made, printed = fixed(tmp_path, content, capsys)
    assert made == SOUND and said in printed and "a.fixed.json" in printed
    assert printed.count("fixed:") == 1


def test_what_encloses_nothing_is_removed_and_polygons_stay(tmp_path, capsys):
    content = copy.deepcopy(SOUND)
    rest = {"image_id": 4, "category_id": 0}
    content["annotations"] += [
        {**rest, "id": 2, "segmentation": []},
        {**rest, "id": 1, "segmentation": [SQUARE, [3, 3, 5, 5]]},
    ]
    made, printed = fixed(tmp_path, content, capsys)
    assert "1 objects that enclose nothing were removed" in printed
    assert "1 polygons that enclose nothing were removed" in printed
    assert [entry["id"] for entry in made["annotations"]] == [1, 2]
    assert made["annotations"][1]["segmentation"] == [SQUARE]
    assert made["annotations"][1]["bbox"] == [3, 2, 5, 5]
    coco = COCO(tmp_path / "a.fixed.json")
    masks = [coco.annToMask(entry) for entry in coco.dataset["annotations"]]
    assert (np.array(masks) == MASK).all()


def test_sizes_come_from_the_pictures(tmp_path, capsys):
    content = copy.deepcopy(SOUND)
    del content["images"][0]["height"]
    made, printed = fixed(tmp_path, content, capsys)
    assert made == SOUND and "1 sizes of images were missing" in printed


def turned(path, height, width):
    """Write a picture that is stored as (height, width) and is shown turned by its EXIF data."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (width, height)).save(path, exif=exif)


def test_sizes_are_those_of_the_pixels_that_were_annotated(tmp_path, capsys):
    """An annotation may lie over a picture as it is stored, not as its EXIF data turn it."""
    sizes = [(40, 60), (33, 21), (24, 30)]
    content = write_dataset(tmp_path, sizes)
    names = []
    for image in content["images"]:
        names.append(image["file_name"])
        del image["height"], image["width"]
    turned(tmp_path / "images" / names[0], 40, 60)  # annotated as it is stored
    turned(tmp_path / "images" / names[1], 21, 33)  # annotated as it is shown
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    name = dataset_name(tmp_path)
    assert check_dataset.main([name, "--fix"]) == 0
    made = json.loads((tmp_path / "panoptic.fixed.json").read_text())
    assert [(image["height"], image["width"]) for image in made["images"]] == sizes
    capsys.readouterr()
    assert check_dataset.main([name.replace("panoptic.json", "panoptic.fixed.json")]) == 0


@pytest.mark.parametrize("stored", [(8, 12), (12, 8)])
def test_sizes_are_those_of_the_runs_of_the_masks(tmp_path, stored):
    content = copy.deepcopy(SOUND)
    content["images"][0] = {"id": 4, "file_name": "1.png"}
    turned(tmp_path / "1.png", *stored)
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert check_dataset.main([f"coco_instances:{tmp_path}/a.json:{tmp_path}", "--fix"]) == 0
    assert json.loads((tmp_path / "a.fixed.json").read_text()) == SOUND


def test_nothing_is_written_where_nothing_is_wrong(tmp_path, capsys):
    made, printed = fixed(tmp_path, SOUND, capsys)
    assert made is None and "nothing to repair" in printed


def test_a_copy_is_never_overwritten(tmp_path, capsys):
    content = copy.deepcopy(SOUND)
    del content["annotations"][0]["area"]
    (tmp_path / "a.fixed.json").write_text("mine")
    with pytest.raises(UserError, match=r"a.fixed.json: already exists; remove it"):
        fixed(tmp_path, content, capsys)
    assert (tmp_path / "a.fixed.json").read_text() == "mine"


def test_segments_are_mended_by_their_pixels(tmp_path, capsys):
    content = write_dataset(tmp_path, [(40, 60)])
    infos = content["annotations"][0]["segments_info"]
    infos[0] |= {"area": 3, "iscrowd": False}
    content["categories"] = [
        entry | {"isthing": str(entry["isthing"])} for entry in content["categories"]
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert check_dataset.main([dataset_name(tmp_path), "--fix"]) == 0
    printed = capsys.readouterr().out
    assert "4 areas were missing or did not match the pixels" in printed
    assert "3 isthing was" in printed and "1 iscrowd was" in printed
    made = json.loads((tmp_path / "panoptic.fixed.json").read_text())
    assert [entry["isthing"] for entry in made["categories"]] == [1, 1, 0]
    ids = id_map(40, 60)
    infos = made["annotations"][0]["segments_info"]
    assert [info["area"] for info in infos] == [int((ids == number).sum()) for number in SEGMENTS]
    left, top, width, height = infos[0]["bbox"]
    assert (ids[top : top + height, left : left + width] == 5).all()
    assert width * height == infos[0]["area"]


def test_what_only_its_maker_can_mend_is_an_error(tmp_path, capsys):
    content = copy.deepcopy(SOUND)
    content["annotations"][0]["category_id"] = 5
    with pytest.raises(UserError, match="category 5 is not among the 1 categories"):
        fixed(tmp_path, content, capsys)
    with pytest.raises(UserError, match="--fix: name the data set"):
        check_dataset.main(["--fix"])
    with pytest.raises(UserError, match="its files are published"):
        check_dataset.main([next(iter(BENCHMARKS)), "--fix"])
