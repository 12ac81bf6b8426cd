"""Annotation files and folders, as training, `check_dataset` and scoring read them."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.edits import REMOVED, edited, inside, text_of
from tests.faults.table import Case, Make

# Each is given a file panoptic.json and the folders png/ and images/.
TRAIN = (
    "train_net --config-file world/tiny.yaml OUTPUT_DIR out DATASETS.TEST () DATASETS.TRAIN "
    "\"('coco_panoptic:{json}:{png}:{images}',)\""
)
CHECK = "check_dataset coco_panoptic:{json}:{png}:{images}"
SCORE = "score panoptic --gt {json} --gt-dir {png} --pred world/data/panoptic.json --pred-dir {png}"
PREDICTED = (
    "score panoptic --pred {json} --pred-dir {png} --gt world/data/panoptic.json --gt-dir "
    "world/data/png"
)
PANOPTIC = "data/panoptic.json"


def panoptic(*path: object, to: object, repeat: bool = False) -> Make:
    return edited(PANOPTIC, *path, to=to, repeat=repeat)


def segment(key: str, to: object) -> Make:
    return panoptic("annotations", 0, "segments_info", 0, key, to=to)


# name, recipe, what the line says; refused by training, checking and scoring alike
JSON: list[tuple[str, Make, str]] = [
    ("cut", text_of(PANOPTIC, lambda text: text[:500]), "not valid JSON"),
    ("empty_file", text_of(PANOPTIC, lambda text: ""), "not valid JSON"),
    ("null", text_of(PANOPTIC, lambda text: "null"), "has no list"),
    ("list", text_of(PANOPTIC, lambda text: "[]"), "has no list"),
    ("utf16", text_of(PANOPTIC, lambda text: text.encode("utf-16")), "UTF-8"),
    ("nul", text_of(PANOPTIC, lambda text: "\0" * 50), "not valid JSON"),
    ("deep", text_of(PANOPTIC, lambda text: "[" * 20_000), "nested too deeply"),
    ("tail", text_of(PANOPTIC, lambda text: text + "x"), "not valid JSON"),
    ("twice_a_key", text_of(PANOPTIC, lambda text: text.replace('{"id": 1,', '{"id": 1, "id": 2,')),
     "occurs twice"),
    ("segment_id_5.5", segment("id", 5.5), "'id' is 5.5"),
    ("segment_id_text", segment("id", "5"), "'id' is '5'"),
    ("segment_id_2^70", segment("id", 2**70), "'id' is"),
    ("segment_id_true", segment("id", True), "'id' is True"),
    ("category_unknown", segment("category_id", 99), "99"),
    ("category_7.9", panoptic("categories", 0, "id", to=7.9), "'id' is 7.9"),
    ("category_text", panoptic("categories", 0, "id", to="7"), "'id' is '7'"),
    ("category_twice", panoptic("categories", 0, to=lambda c: c, repeat=True), "listed twice"),
    ("iscrowd_text_2", segment("iscrowd", "2"), "'iscrowd' is '2'"),
    ("iscrowd_list", segment("iscrowd", []), "'iscrowd' is"),
    ("isthing_text", panoptic("categories", 0, "isthing", to="perhaps"), "'isthing' is"),
    ("isthing_missing", panoptic("categories", 0, "isthing", to=REMOVED), "isthing"),
    ("name_null", panoptic("categories", 0, "name", to=None), "name"),
    ("name_empty", panoptic("categories", 0, "name", to=""), "name"),
    ("name_surrogate", panoptic("categories", 0, "name", to="a\ud800b"), "half a character"),
    ("names_equal", panoptic("categories", 0, "name", to="dog"), "dog"),
    ("no_categories", panoptic("categories", to=[]), "categories is empty"),
    ("file_name_surrogate", panoptic("images", 0, "file_name", to="a\ud800b.png"),
     "half a character"),
    ("annotations_missing", panoptic("annotations", to=REMOVED), "has no list 'annotations'"),
    ("annotations_of_numbers", panoptic("annotations", to=[1]), "an object was expected"),
    ("annotation_twice", panoptic("annotations", 0, to=lambda a: a, repeat=True),
     "second annotation of image"),
    ("segments_missing", panoptic("annotations", 0, "segments_info", to=REMOVED), "segments_info"),
    ("png_name_empty", panoptic("annotations", 0, "file_name", to=""), "'file_name' is ''"),
    ("png_name_dot", panoptic("annotations", 0, "file_name", to="."), "'file_name' is"),
    ("png_name_long", panoptic("annotations", 0, "file_name", to="a" * 6000), "'file_name' is"),
    ("png_name_number", panoptic("annotations", 0, "file_name", to=5), "'file_name' is"),
    ("height_text", panoptic("images", 0, "height", to="60"), "'height' is '60'"),
    ("height_60.5", panoptic("images", 0, "height", to=60.5), "'height' is 60.5"),
    ("height_huge", panoptic("images", 0, "height", to=2**31), "'height' is|pixels"),
    ("image_id_list", panoptic("images", 0, "id", to=[1]), "'id' is"),
]  # fmt: skip


def picture(name: str, data: bytes | None = None, pixels: np.ndarray | None = None) -> Make:
    """The folder png/ with other content of one file."""

    def change(folder: Path) -> None:
        path = folder / name
        if data is not None:
            path.write_bytes(data)
        else:
            Image.fromarray(pixels).save(path, "PNG")

    return inside("data/png", change)


def _fifo(folder: Path) -> None:
    (folder / "1.png").unlink()
    os.mkfifo(folder / "1.png")


def _one_bit(folder: Path) -> None:
    Image.new("1", (20_000, 19_990)).save(folder / "1.png")


PICTURES: list[tuple[str, Make, str]] = [
    ("png_text", picture("1.png", b"no picture"), r"png/1\.png"),
    ("png_empty", picture("1.png", b""), r"png/1\.png"),
    ("png_grey", picture("1.png", pixels=np.ones((60, 80), np.uint8)), r"png/1\.png"),
    ("png_other_size", picture("1.png", pixels=np.ones((6, 8, 3), np.uint8)), r"png/1\.png"),
    ("png_missing", inside("data/png", lambda folder: (folder / "1.png").unlink()), r"png/1\.png"),
    ("png_folder", inside("data/png", lambda folder: (
        (folder / "1.png").unlink(), (folder / "1.png").mkdir())), r"png/1\.png"),
    ("png_fifo", inside("data/png", _fifo), r"png/1\.png"),
    ("png_bomb", inside("data/png", _one_bit), r"png/1\.png"),
]  # fmt: skip


def _rows(name: str, make: Make, words: str, places: dict[str, str], fast: bool) -> list[Case]:
    return [
        Case(f"train-{name}", TRAIN.format(**places), 2, words, make),
        Case(f"check-{name}", CHECK.format(**places), (1, 2), words, make),
        Case(f"score-{name}", SCORE.format(**places), 2, words, make, fast=fast),
        Case(f"predicted-{name}", PREDICTED.format(**places), (0, 2), "", make),
    ]


JSON_PLACES = {"json": "panoptic.json", "png": "world/data/png", "images": "world/data/images"}
PNG_PLACES = {"json": "world/data/panoptic.json", "png": "data/png", "images": "world/data/images"}

# What may be read in one way only is taken: as training, so checking, so scoring.
SAME_EVERYWHERE = [
    ("iscrowd_text_0", segment("iscrowd", "0")),
    ("isthing_text_false", panoptic("categories", 2, "isthing", to="false")),
    ("segment_id_5.0", segment("id", 5.0)),
    ("byte_order_mark", text_of(PANOPTIC, lambda text: "\ufeff" + text)),
]


# -- LVIS and COCO instances --

INSTANCES = "instances.json"
CHECK_COCO = "check_dataset coco_instances:instances.json:world/data/images"
SCORE_COCO = "score instances --gt instances.json --pred world/results.json"
SCORE_LVIS = "score lvis --gt instances.json --pred world/results.json"


def segmentation(to: object) -> Make:
    return edited(INSTANCES, "annotations", 0, "segmentation", to=to)


def _rle(*counts: object, size: object = (60, 80)) -> Make:
    return segmentation({"size": size, "counts": list(counts)})


MASKS: list[tuple[str, Make, str]] = [
    ("polygon_nested", segmentation([[[5, 5], [30, 5], [30, 20]]]), "segmentation"),
    ("polygon_object", segmentation([{}]), "segmentation"),
    ("polygon_nan", segmentation([[float("nan"), 5, 25, 5, 25, 20]]), "segmentation"),
    ("polygon_text", segmentation([["5", "5", "25", "5", "25", "20"]]), "segmentation"),
    ("polygon_odd", segmentation([[5, 5, 25, 5, 25, 20, 5]]), "segmentation"),
    ("runs_wrap", _rle(2**62, 2**62, 2**62, 2**62 + 4800), "counts|segmentation"),
    ("runs_2^70", _rle(2**70), "counts|segmentation"),
    ("runs_negative", _rle(-5, 4805), "counts|segmentation"),
    ("runs_text", _rle("5", "4795"), "counts|segmentation"),
    ("size_other", _rle(4800, size=[80, 60]), "size"),
    ("height_40.5", edited(INSTANCES, "images", 0, "height", to=60.5), "'height' is 60.5"),
    ("iscrowd_text", edited(INSTANCES, "annotations", 0, "iscrowd", to="perhaps"), "'iscrowd' is"),
    ("category_7.9", edited(INSTANCES, "annotations", 0, "category_id", to=7.9), "category_id"),
    ("image_unknown", edited(INSTANCES, "annotations", 0, "image_id", to=99), "image"),
]  # fmt: skip

CASES = [
    *(case for name, make, words in JSON
      for case in _rows(name, make, words, JSON_PLACES, name[0] in "cdis")),
    *(case for name, make, words in PICTURES
      for case in _rows(name, make, words, PNG_PLACES, name.endswith(("fifo", "text")))),
    *(Case(f"{what}-{name}", command.format(**JSON_PLACES), 0, "", make, fast=what != "train")
      for name, make in SAME_EVERYWHERE
      for what, command in (("train", TRAIN), ("check", CHECK), ("score", SCORE))),
    *(Case(f"{what}-{name}", command, (1, 2), words, make, fast=what == "score_coco")
      for name, make, words in MASKS
      for what, command in (("check_coco", CHECK_COCO),
                            ("score_coco", SCORE_COCO), ("score_lvis", SCORE_LVIS))),
    Case("check_coco-height_60.0", CHECK_COCO, 0, "",
         edited(INSTANCES, "images", 0, "height", to=60.0)),
]  # fmt: skip
