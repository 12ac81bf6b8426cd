"""Segmentations of instance JSON: polygons and run-length codes, checked and decoded.

The checks are no politeness: pycocotools fills all memory for a polygon with a wild coordinate.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from frozenseg.data.json_fields import is_number
from frozenseg.data.rle import Rle, checked_rle
from frozenseg.errors import UserError


def checked_shape(segmentation: Any, height: int, width: int, where: str) -> Any:
    """A run-length code with packed counts, or the polygons that enclose something in the image.

    None if nothing is enclosed: COCO has a few outlines of two points. Malformed ones are a
    `UserError` that begins with `where`.
    """
    if isinstance(segmentation, dict):
        code, inside = checked_rle(segmentation, (height, width), where)
        return code if inside else None
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: 'segmentation' is neither a list of polygons nor COCO RLE")
    try:
        polygons = [p for p in segmentation if _encloses(p, height, width)]
    except TypeError:  # letters, lists
        raise UserError(
            f"{where}: 'segmentation' is malformed (a polygon is a list of numbers); correct it"
        ) from None
    except (ValueError, OverflowError) as error:  # numbers out of range
        raise UserError(f"{where}: 'segmentation' is malformed ({error}); correct it") from None
    return polygons or None


def _encloses(polygon: Any, height: int, width: int) -> bool:
    """Whether a list x0, y0, x1, y1, ... can hold a pixel; it can if it has three points, and a
    box with an area that reaches into the image. What is smaller than a pixel is not told apart."""
    if not isinstance(polygon, list):
        raise TypeError
    if len(polygon) < 6:
        if not all(map(is_number, polygon)):
            raise TypeError
        return False
    if len(polygon) % 2:
        raise ValueError(f"a polygon of {len(polygon)} numbers lacks an x or a y")
    left, right = min(polygon[0::2]), max(polygon[0::2])
    top, bottom = min(polygon[1::2]), max(polygon[1::2])
    margin = max(height, width)  # real files are off by some pixels, not by an image
    inside = -margin <= min(left, top) and max(right, bottom) <= 2 * margin
    if not (inside and math.isfinite(sum(polygon))):
        raise ValueError(f"polygon far outside its image of {height} x {width}")
    return max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height)


def decode_shapes(shapes: list[Any], height: int, width: int) -> np.ndarray:
    """The masks (N, H, W) bool of checked shapes."""
    if not shapes:
        return np.zeros((0, height, width), dtype=bool)
    masks = mask_util.decode([encode_shape(shape, height, width) for shape in shapes])
    return masks.transpose(2, 0, 1).astype(bool)  # (H, W, N) -> (N, H, W)


def encode_shape(shape: Any, height: int, width: int) -> Rle:
    """A checked shape as a run-length code."""
    if isinstance(shape, list):
        return mask_util.merge(mask_util.frPyObjects(shape, height, width))
    return shape
