"""Write panoptic annotation in COCO's format, for several preparations."""

from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.prepare.options import PreparationOptions, write_picture
from frozenseg.data.results import encode_panoptic
from frozenseg.files import write_json


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
    if options.must_write(picture):
        write_picture(picture, encode_panoptic(ids))
    height, width = ids.shape
    name = picture.name
    return {
        "image": {**image, "height": height, "width": width},
        "panoptic": {"image_id": image["id"], "file_name": name, "segments_info": segments},
    }


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
