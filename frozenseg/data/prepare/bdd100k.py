"""BDD100K panoptic annotation in COCO's format.

Published: `bitmasks`, pictures with red = class 1-40 (0 for no class), green = attributes (bit 1
crowd, bit 0 ignore), and 256 blue + alpha = number of the object in its image. Stuff has one
segment per class. The label maps for the semantic score are used as they are.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.images import open_image
from frozenseg.data.prepare.options import PreparationOptions, files_by_stem, regions
from frozenseg.data.prepare.panoptic import (
    annotate_image,
    must_write_panoptic,
    write_panoptic_json,
)
from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary

FOLDER = "bdd100k"
REMEDY = "get the labels of panoptic segmentation from https://bdd-data.berkeley.edu"
CROWD_OR_IGNORE = 0b11


def prepare(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the panoptic PNGs and the panoptic JSON of a split."""
    folder = root / FOLDER
    target = folder / "jsons" / f"pan_seg_{split}_cocofmt.json"
    pictures = folder / "jsons" / "pan_seg" / "masks" / split
    if not must_write_panoptic(target, pictures, options):
        return
    sources = files_by_stem(folder / "labels" / "pan_seg" / "bitmasks" / split, ".png", REMEDY)
    target.unlink(missing_ok=True)
    one = functools.partial(_annotate, pictures, options)
    jobs = list(enumerate(sources.values(), start=1))
    rows = options.map(one, jobs, f"{FOLDER} panoptic {split}")
    vocabulary = Vocabulary.packaged("bdd100k_panoptic")
    classes = zip(vocabulary.labels, vocabulary.is_thing, strict=True)
    categories = [
        {"id": number, "name": name, "isthing": int(thing)}
        for number, (name, thing) in enumerate(classes, start=1)
    ]
    write_panoptic_json(target, rows, categories)


def panoptic_ids(colours: np.ndarray, is_thing: tuple[bool, ...]) -> np.ndarray:
    """Make ids (H, W) from a bitmask (H, W, 4): 65536 x class, plus the number of a thing."""
    category = colours[..., 0].astype(np.int64)
    number = colours[..., 2].astype(np.int64) * 256 + colours[..., 3]
    things = np.array((False, *is_thing))[category]
    return 65536 * category + np.where(things, number, 0)


def _annotate(pictures: Path, options: PreparationOptions, job: tuple[int, Path]) -> dict[str, Any]:
    image_id, source = job
    vocabulary = Vocabulary.packaged("bdd100k_panoptic")
    with open_image(source) as picture:
        if picture.mode != "RGBA":
            raise UserError(f"{source}: is not a bitmask (mode {picture.mode}); {REMEDY}")
        colours = np.asarray(picture)
    if colours[..., 0].max() > len(vocabulary):
        raise UserError(f"{source}: holds a class above {len(vocabulary)}; is it for another task?")
    ids = panoptic_ids(colours, vocabulary.is_thing)
    marked = set(np.unique(ids[(colours[..., 1] & CROWD_OR_IGNORE) > 0]).tolist())
    segments = []
    for region in regions(ids):
        category = region["id"] // 65536
        crowd = region["id"] in marked and vocabulary.is_thing[category - 1]
        segments.append({**region, "category_id": category, "iscrowd": int(crowd)})
    image = {"id": image_id, "file_name": f"{source.stem}.jpg"}
    return annotate_image(image, pictures / source.name, ids, segments, options)
