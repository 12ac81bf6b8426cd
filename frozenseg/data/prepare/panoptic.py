"""Write panoptic annotation in COCO's format, for several preparations.

The JSON is removed before PNGs are written and comes after them, so that those beside a JSON belong
to it. PNGs of a stopped run are compared with the published files, which may have changed since.
"""

from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.json_fields import section
from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.data.prepare.options import PreparationOptions, write_picture
from frozenseg.data.results import encode_panoptic
from frozenseg.errors import UserError
from frozenseg.files import read_json, write_json


def must_write_panoptic(target: Path, pictures: Path, options: PreparationOptions) -> bool:
    """Tell whether a panoptic JSON has to be written, or one of its PNGs, which is absent."""
    if options.must_write(target):
        return True
    rows = section(read_json(target), "annotations", str(target))
    return not all((pictures / str(row.get("file_name"))).is_file() for row in rows)


def annotate_image(
    image: dict[str, Any],
    picture: Path,
    ids: np.ndarray,
    segments: list[dict[str, Any]],
    options: PreparationOptions,
) -> dict[str, Any]:
    """Write the panoptic PNG of one image and return its entries in the JSON.

    image: the image's entry of `images`, without the size.
    picture: the path of the PNG.
    ids: (H, W) segment ids.
    segments: the entries of `segments_info`.
    """
    if options.must_write(picture) or not _holds(picture, ids):
        write_picture(picture, encode_panoptic(ids))
    height, width = ids.shape
    name = picture.name
    return {
        "image": {**image, "height": height, "width": width},
        "panoptic": {"image_id": image["id"], "file_name": name, "segments_info": segments},
    }


def _holds(picture: Path, ids: np.ndarray) -> bool:
    try:
        return np.array_equal(read_panoptic_ids(picture), ids)
    except UserError:  # it is damaged
        return False


def write_panoptic_json(
    target: Path, rows: list[dict[str, Any]], categories: list[dict[str, Any]]
) -> None:
    """Write the panoptic JSON from the entries of all images."""
    content = {
        "images": [row["image"] for row in rows],
        "annotations": [row["panoptic"] for row in rows],
        "categories": categories,
    }
    write_json(target, content)
