"""Cityscapes: label maps of train ids, and panoptic annotation as its own scripts write it.

Published: for each image `*_gtFine_labelIds.png` (0-33) and `*_gtFine_instanceIds.png`, which holds
1000 x label + number for single objects and only the label elsewhere, also for groups of objects.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare.labels import lookup
from frozenseg.data.prepare.options import PreparationOptions, regions, source_folder, write_picture
from frozenseg.data.prepare.panoptic import (
    annotate_image,
    must_write_panoptic,
    write_panoptic_json,
)
from frozenseg.errors import UserError

FOLDER = "cityscapes/gtFine"
REMEDY = "unpack gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com there"

# The labels that are scored; their train ids are their positions here.
LABELS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
FIRST_THING = 24


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the label maps, the panoptic PNGs and the panoptic JSON of a split."""
    top = source_folder(root / FOLDER / split, REMEDY)
    sources = sorted(top.glob("*/*_gtFine_instanceIds.png"))
    if not sources:
        raise UserError(f"{top}: holds no */*_gtFine_instanceIds.png; {REMEDY}")
    labels = [Path(str(path).replace("_instanceIds", "_labelIds")) for path in sources]
    pending = [path for path in labels if options.must_write(_train_ids_path(path))]
    options.map(_write_train_ids, pending, f"{FOLDER} train ids {split}")
    target = root / FOLDER / f"cityscapes_panoptic_{split}.json"
    pictures = target.with_suffix("")
    if not must_write_panoptic(target, pictures, options):
        return
    target.unlink(missing_ok=True)
    one = functools.partial(_annotate, pictures, options)
    rows = options.map(one, sources, f"{FOLDER} panoptic {split}")
    categories = [
        {"id": label, "name": name, "isthing": int(label >= FIRST_THING)}
        for label, name in LABELS.items()
    ]
    write_panoptic_json(target, rows, categories)


def _train_ids_path(labels: Path) -> Path:
    return labels.with_name(labels.name.replace("_labelIds", "_labelTrainIds"))


def _write_train_ids(path: Path) -> None:
    train_ids = {label: i for i, label in enumerate(LABELS)}
    write_picture(_train_ids_path(path), lookup(read_labels(path), train_ids, 255))


def _annotate(pictures: Path, options: PreparationOptions, source: Path) -> dict[str, Any]:
    values = read_labels(source).astype("int64")
    segments = []
    for region in regions(values):
        label = region["id"] // 1000 if region["id"] >= 1000 else region["id"]
        if label not in LABELS:
            continue
        crowd = label >= FIRST_THING and region["id"] < 1000  # a group of objects
        segments.append({**region, "category_id": label, "iscrowd": int(crowd)})
    kept = np.where(np.isin(values, [segment["id"] for segment in segments]), values, 0)
    image_id = source.name.removesuffix("_gtFine_instanceIds.png")
    # This is the published file name, although no file has it.
    image = {"id": image_id, "file_name": f"{image_id}_gtFine_leftImg8bit.png"}
    picture = pictures / f"{image_id}_gtFine_panoptic.png"
    return annotate_image(image, picture, kept, segments, options)
