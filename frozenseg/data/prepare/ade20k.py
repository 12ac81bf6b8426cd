"""ADE20K with 150 classes (SceneParse150): label maps, instance and panoptic annotation.

Published: `annotations`, label maps of 1-150 with 0 for no class, and `annotations_instance`, whose
red channel is one of 100 classes of things and whose green channel numbers the objects of an image
from 1.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.images import open_image
from frozenseg.data.label_maps import image_size, read_labels
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.prepare.options import (
    PreparationOptions,
    files_by_stem,
    regions,
    source_folder,
)
from frozenseg.data.prepare.panoptic import (
    annotate_image,
    must_write_panoptic,
    write_panoptic_json,
)
from frozenseg.data.rle import encode_masks
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.text.vocabulary import Vocabulary

FOLDER = "ADEChallengeData2016"
FOLDERS = {"train": "training", "val": "validation"}
NAME = re.compile(r"ADE_[a-z]+_\d+")
REMEDY = "unpack ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu there"
INSTANCE_REMEDY = (
    "unpack annotations_instance.tar (http://sceneparsing.csail.mit.edu/data/ChallengeData2017/) "
    "there; the label maps alone are not enough"
)

# The class ids of the 100 classes of things, in the order of the instance annotation (1-100).
THINGS = (
    7, 8, 10, 12, 14, 15, 18, 19, 20, 22, 23, 24, 27, 30, 31, 32, 33, 35, 36, 37, 38, 39, 41, 42,
    43, 44, 45, 47, 49, 50, 53, 55, 56, 57, 58, 62, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74, 75, 76,
    78, 80, 81, 82, 83, 85, 86, 87, 88, 89, 90, 92, 93, 95, 97, 98, 102, 103, 104, 107, 108, 110,
    111, 112, 115, 116, 118, 119, 120, 121, 123, 124, 125, 126, 127, 129, 130, 132, 133, 134, 135,
    136, 137, 138, 139, 142, 143, 144, 146, 147, 148, 149,
)  # fmt: skip


def published_labels(root: Path, split: str) -> dict[str, Path]:
    """Return {stem: published label map} of a split."""
    labels = files_by_stem(root / FOLDER / "annotations" / split, ".png", REMEDY)
    for stem, path in labels.items():
        if not NAME.fullmatch(stem):
            raise UserError(f"{path}: its name is none of ADE20K (ADE_val_00000001.png); remove it")
    return labels


def class_ids(path: Path) -> np.ndarray:
    """Read class ids: 1-150 become 0-149, and 0 becomes 255."""
    labels = read_labels(path)
    if labels.dtype != np.uint8 or labels.max(initial=0) > 150:
        raise UserError(f"{path}: labels are not 0-150; is it from the release with 150 classes?")
    return labels - np.uint8(1)


LABELS = LabelConversion(f"{FOLDER}/annotations_detectron2", published_labels, class_ids)


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the label maps, and panoptic and instance annotations of the same objects."""
    LABELS.write(root, FOLDERS[split], options)
    folder = root / FOLDER
    panoptic = folder / f"ade20k_panoptic_{split}.json"
    instances = folder / f"ade20k_instance_{split}.json"
    pictures = folder / f"ade20k_panoptic_{split}"
    to_write = [instances] if options.must_write(instances) else []
    if must_write_panoptic(panoptic, pictures, options):
        to_write.append(panoptic)
    if not to_write:
        return
    source_folder(folder / "annotations_instance" / FOLDERS[split], INSTANCE_REMEDY)
    sources = published_labels(root, FOLDERS[split])
    for path in to_write:
        path.unlink(missing_ok=True)
    # PNGs whose JSON stays, which may be Mask2Former's, are left alone.
    written = pictures if panoptic in to_write else None
    one = functools.partial(_annotate, folder, FOLDERS[split], written, options)
    rows = options.map(one, list(sources), f"{FOLDER} objects {split}")
    categories = [
        {"id": number, "name": name, "isthing": int(number in THINGS)}
        for number, name in enumerate(Vocabulary.packaged("ade20k_150").labels)
    ]
    if instances in to_write:
        objects = [entry for row in rows for entry in row["objects"]]
        content = {
            "images": [row["image"] for row in rows],
            "annotations": [{"id": n, **entry} for n, entry in enumerate(objects, start=1)],
            "categories": [category for category in categories if category["isthing"]],
        }
        write_json(instances, content)
    if panoptic in to_write:
        write_panoptic_json(panoptic, rows, categories)


def image_id(stem: str) -> int:
    """Return the number in a name, e.g. 2000 for `ADE_val_00002000`; evaluators need numbers."""
    return int(stem.rsplit("_", 1)[-1])


def _annotate(
    folder: Path, split: str, pictures: Path | None, options: PreparationOptions, stem: str
) -> dict[str, Any]:
    """Write the panoptic PNG of one image and return its entries in both JSON files.

    pictures: the folder of the PNGs; None if they are not written.
    """
    labels = class_ids(folder / "annotations" / split / f"{stem}.png")
    path = folder / "annotations_instance" / split / f"{stem}.png"
    ids = panoptic_ids(labels, *_objects(path, labels.shape))
    segments = [
        {**region, "category_id": _class_of(region["id"]), "iscrowd": 0} for region in regions(ids)
    ]
    image = {"id": image_id(stem), "file_name": f"{stem}.jpg"}
    entries: dict[str, Any] = {}
    if pictures:
        entries = annotate_image(image, pictures / f"{stem}.png", ids, segments, options)
    height, width = image_size(folder / "images" / split / f"{stem}.jpg")
    entries["image"] = {**image, "height": height, "width": width}
    entries["objects"] = [
        _object(ids == segment["id"], segment, image["id"])
        for segment in segments
        if segment["id"] >= 1000
    ]
    return entries


def panoptic_ids(labels: np.ndarray, thing_class: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Make ids (H, W): class + 1 for stuff, covered by 1000 (class + 1) + number for things.

    labels: (H, W) class ids, 255 for no class; only those of stuff are used.
    thing_class, number: (H, W) class id and number of the object; the number 0 means no object.
    """
    is_stuff = np.ones(256, dtype=bool)
    is_stuff[list(THINGS)] = is_stuff[255] = False
    ids = np.where(is_stuff[labels], labels.astype(np.int64) + 1, 0)
    return np.where(number > 0, 1000 * (thing_class + 1) + number, ids)


def _class_of(segment_id: int) -> int:
    return (segment_id // 1000 if segment_id >= 1000 else segment_id) - 1


def _objects(path: Path, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    with open_image(path) as picture:
        colours = np.asarray(picture.convert("RGB")).astype(np.int64)
    category, number = colours[..., 0], colours[..., 1]
    if colours.shape[:2] != size:
        raise UserError(f"{path}: differs in size from its label map; copy both again")
    if (category > len(THINGS)).any() or (category[number > 0] == 0).any():
        raise UserError(f"{path}: has objects of a class that is not 1-100; copy the file again")
    return np.array((0, *THINGS))[category], number


def _object(mask: np.ndarray, segment: dict[str, Any], image: Any) -> dict[str, Any]:
    entry = {key: segment[key] for key in ("category_id", "iscrowd", "area", "bbox")}
    return {**entry, "segmentation": encode_masks(mask[None])[0], "image_id": image}
