"""COCO's run-length codes of masks: made, checked and brought to one form.

A code is {"size": [height, width], "counts": text}: runs of 0 and 1 in turn down the columns,
packed as in pycocotools. pycocotools reads beyond its buffers when a code is cut off, so whatever
comes from a file goes through `checked_rle`, which lets hotcoco's careful decoder look at it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as careful
from pycocotools import mask as mask_util

from frozenseg.data.json_fields import required, unusable, whole
from frozenseg.errors import UserError

Rle = dict[str, Any]
Masks = np.ndarray | Sequence[Rle]

# What hotcoco raises on bytes that are no code, on runs below 0 or beyond the image, and on numbers
# that its integers do not hold.
_NO_CODE = (ValueError, TypeError, OverflowError)


def encode_masks(masks: np.ndarray) -> list[Rle]:
    """The codes of (N, H, W) masks; everything but 0 counts as inside."""
    columns = np.asfortranarray((masks != 0).transpose(1, 2, 0), dtype=np.uint8)  # (H, W, N)
    return [
        {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}
        for code in mask_util.encode(columns)
    ]


def as_rles(masks: Masks, size: tuple[int, int], where: str) -> list[Rle]:
    """(N, H, W) masks, or codes in any of COCO's spellings, as checked codes of `size`.

    `where` begins the message of the `UserError` that a mask of another size or a damaged code
    raises.
    """
    if not isinstance(masks, np.ndarray):
        return [checked_rle(mask, size, f"{where}, mask {i}")[0] for i, mask in enumerate(masks)]
    if masks.ndim != 3 or masks.shape[1:] != size:
        raise UserError(
            f"{where}: masks have shape {masks.shape}, expected (N, {size[0]}, {size[1]})"
        )
    return encode_masks(masks)


def checked_rle(rle: Any, size: tuple[int, int], where: str) -> tuple[Rle, int]:
    """A code with packed counts as text, and the pixels inside, if its runs cover all of `size`.

    rle: counts may be packed (text or bytes) or a list of runs. size: (height, width) of its image.
    """
    if not isinstance(rle, dict):
        raise UserError(f"{where}: a mask must be COCO RLE, an object with 'size' and 'counts'")
    counts, sides = required(rle, "counts", where), required(rle, "size", where)
    if not isinstance(sides, list | tuple) or list(sides) != list(size):
        raise UserError(
            f"{where}: the RLE has size {str(sides)[:40]}, its image {list(size)} (height, width)"
        )
    if isinstance(counts, list):
        runs = [whole({"counts": run}, "counts", where, high=2**32 - 1) for run in counts]
        counts = _packed({"size": list(size), "counts": runs}, where)
    elif isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    elif not isinstance(counts, str):
        raise unusable(counts, "counts", where, "packed text or a list of run lengths")
    try:
        inside = careful.area({"size": list(size), "counts": counts})
    except _NO_CODE as error:
        raise UserError(f"{where}: malformed RLE ({error}); write it again") from None
    if not _covers(counts, size[0] * size[1]):
        raise UserError(
            f"{where}: malformed RLE, its runs do not cover the {size[0]} x {size[1]} pixels of "
            "its image; write it again"
        )
    return {"size": list(size), "counts": counts}, int(inside)


def _packed(rle: Rle, where: str) -> str:
    try:
        return str(careful.rle_to_string(rle))
    except _NO_CODE as error:
        raise UserError(f"{where}: malformed RLE ({error}); write it again") from None


def _covers(counts: str, pixels: int) -> bool:
    """Whether the runs of a code that is sound so far reach the last pixel: only then are they
    too long for an image that has one pixel less. hotcoco takes runs that end too early."""
    try:
        careful.area({"size": [1, pixels - 1], "counts": counts})
    except _NO_CODE:
        return True
    return False
