"""Segmentations of instance JSON: polygons and RLE, checked and decoded.

The checks are no politeness: pycocotools reads beyond its buffers when an RLE is cut off and fills
all memory for a polygon with a wild coordinate.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as mask_codec


def checked_shape(segmentation: Any, height: int, width: int) -> Any:
    """The segmentation, its polygons cut down to those that enclose something.

    Empty if there is none: COCO has a few of two points. A `ValueError`, `TypeError` or `KeyError`
    says what is wrong with it.
    """
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"RLE of size {segmentation['size']}, image of {[height, width]}")
        counts = segmentation["counts"]
        runs = np.array(counts, np.int64) if isinstance(counts, list) else run_lengths(counts)
        if runs.min(initial=0) < 0 or runs.sum() != height * width:
            raise ValueError(f"RLE covers {runs.sum()} of {height * width} pixels")
        return segmentation
    if not isinstance(segmentation, list):
        raise ValueError("segmentation is neither a list of polygons nor an RLE")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    margin = max(height, width)  # real files are off by some pixels, not by an image
    for polygon in polygons:
        inside = -margin <= min(polygon) and max(polygon) <= 2 * margin
        if not (inside and math.isfinite(sum(polygon))):
            raise ValueError(f"polygon far outside its image of {height} x {width}")
    return polygons


def run_lengths(counts: str) -> np.ndarray:
    """The runs of a compressed RLE, (R,) int64: zeros first, then ones, and so on.

    The code (COCO's maskApi): a number is a row of 5-bit groups, lowest first, each in a character
    from "0" on; bit 5 says that more follow, bit 4 of the last group is the sign. From the fourth
    run on, the difference to the run two before is stored.
    """
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("RLE counts are cut off or hold characters that are no code")
    last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(starts, np.diff(np.append(starts, codes.size)))
    if place.max() > 6:  # 35 bits: more than any image has pixels
        raise ValueError("RLE counts hold a number beyond all images")
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[last] & 16) != 0
    values -= np.where(negative, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])  # the second run begins its own chain
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_shapes(shapes: list[Any], height: int, width: int) -> np.ndarray:
    """The masks (N, H, W) bool of checked shapes."""
    if not shapes:
        return np.zeros((0, height, width), dtype=bool)
    masks = mask_codec.decode([encode_shape(shape, height, width) for shape in shapes])
    return masks.transpose(2, 0, 1).astype(bool)  # (H, W, N) -> (N, H, W)


def encode_shape(shape: Any, height: int, width: int) -> dict[str, Any]:
    """A checked shape as a compressed RLE."""
    if isinstance(shape, list):
        return mask_codec.merge(mask_codec.frPyObjects(shape, height, width))
    if isinstance(shape["counts"], list):
        return mask_codec.frPyObjects(shape, height, width)
    return shape
