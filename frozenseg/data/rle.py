"""Run-length codes of masks and polygons of COCO JSON: the one module that makes and reads them.

A code (RLE) is {"size": [height, width], "counts": text}. Its runs of 0 and 1 alternate down the
columns, and `counts` packs them as pycocotools does. A segmentation is a code or a list of polygons
[x0, y0, x1, y1, ...] in pixels.

Codes are read by hotcoco: its results are identical to those of pycocotools to the bit, it is
faster, and it refuses codes on which pycocotools reads beyond its buffers. It comes with the extras
for training and evaluation and is imported at first use. The encoder is our own, because the demo
writes codes too, and it must run in an installation without extras.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from frozenseg.data.json_fields import is_number, required, unusable, wholes
from frozenseg.errors import UserError, import_extra

Rle = dict[str, Any]
Masks = np.ndarray | Sequence[Rle]

# The exceptions of hotcoco for text that is not a code, for runs below 0 or beyond the image, and
# for numbers that its integers cannot hold.
_CODE_ERRORS = (ValueError, TypeError, OverflowError)
# From each of these numbers on, a packed run needs one more character. A character holds 5 bits of
# the run, and one bit of the run is its sign.
_LIMITS = 2 ** np.arange(4, 60, 5)
_PIXELS_AT_ONCE = 2**20  # the number of pixels of the masks that are encoded together


@functools.cache
def hotcoco() -> Any:
    """Return the package hotcoco, or raise a `UserError` that says how to install it."""
    return import_extra("hotcoco", "eval", "reading COCO masks and computing AP")


def encode_masks(masks: np.ndarray) -> list[Rle]:
    """Encode (N, H, W) masks; every value except 0 counts as inside."""
    _, height, width = masks.shape
    at_once = max(1, _PIXELS_AT_ONCE // max(1, height * width))
    codes: list[Rle] = []
    for first in range(0, len(masks), at_once):
        some = masks[first : first + at_once]
        filled = np.flatnonzero(some.any(axis=(0, 1)))
        left, right = (filled[0], filled[-1] + 2) if len(filled) else (0, 1)
        some = some[:, :, left:right] != 0  # with the empty column behind them, if there is one
        flat = some.transpose(0, 2, 1).reshape(len(some), -1)
        changes = np.empty_like(flat)
        changes[:, 0] = flat[:, 0]  # a code begins with a run of 0, which may be empty
        np.not_equal(flat[:, 1:], flat[:, :-1], out=changes[:, 1:])
        owners, places = np.divmod(np.flatnonzero(changes), flat.shape[1])
        places += left * height
        codes += _codes(owners, places, len(some), (height, width))
    return codes


def encode_ids(ids: np.ndarray, numbers: Sequence[int]) -> list[Rle]:
    """Encode the masks `ids == number` of a map (H, W), for numbers that are all different."""
    if not len(numbers):
        return []
    flat = ids.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    found = np.stack([starts, np.append(starts[1:], len(flat))], 1)  # (runs, 2)
    ranks = np.argsort(numbers)
    ranked = np.asarray(numbers)[ranks]
    place = np.searchsorted(ranked[:-1], flat[starts])
    known = np.flatnonzero(ranked[place] == flat[starts])
    # Small integers sort faster.
    owners = ranks[place[known]].astype(np.min_scalar_type(len(numbers)))
    order = np.argsort(owners, kind="stable")
    owners, places = owners[order].repeat(2), found.take(known[order], 0).ravel()
    inside = places < len(flat)
    return _codes(owners[inside], places[inside], len(numbers), ids.shape)


def _codes(owners: np.ndarray, places: np.ndarray, count: int, size: tuple[int, int]) -> list[Rle]:
    """Encode `count` masks that change at these pixels.

    owners: the mask of each change, ascending. places: its pixel, counted down the columns,
        ascending within a mask.
    """
    changes = np.bincount(owners, minlength=count)
    last = np.cumsum(changes + 1) - 1
    ends = np.empty(len(places) + count, dtype=np.int64)  # the ends of the runs
    ends[np.arange(len(places)) + owners] = places
    ends[last] = size[0] * size[1]
    runs = np.diff(ends, prepend=0)
    firsts = last - changes
    runs[firsts] = ends[firsts]
    return [{"size": [*size], "counts": text} for text in _packed(runs, changes + 1)]


def _packed(runs: np.ndarray, counts: np.ndarray) -> list[str]:
    """Pack the runs of several codes into one text per code.

    runs: the runs of all codes, one code after the other. counts: the number of runs of each code.

    From the fourth run on, the difference to the run two places before is written. A character is
    48 plus 5 bits of the number, low bits first, plus 32 if more bits follow.
    """
    firsts = np.cumsum(counts) - counts
    numbers = runs.copy()
    late = np.arange(len(runs)) - np.repeat(firsts, counts) >= 3
    numbers[2:] -= np.where(late[2:], runs[:-2], 0)
    lengths = 1 + np.searchsorted(_LIMITS, np.where(numbers < 0, ~numbers, numbers), side="right")
    digits = np.arange(lengths.max(initial=0))
    text = np.empty((len(runs), len(digits)), dtype=np.uint8)
    for digit in digits:
        text[:, digit] = 48 + (numbers >> 5 * digit & 31) + 32 * (lengths > digit + 1)
    whole = text[lengths[:, None] > digits].tobytes().decode("ascii")
    borders = [0, *lengths.cumsum()[firsts + counts - 1].tolist()]
    return [whole[start:end] for start, end in itertools.pairwise(borders)]


def decode_masks(codes: list[Rle], size: tuple[int, int]) -> np.ndarray:
    """Decode N codes of one size (height, width) to masks (N, H, W) bool."""
    if not codes:
        return np.zeros((0, *size), dtype=bool)
    return hotcoco().mask.decode(codes).transpose(2, 0, 1).astype(bool)  # (H, W, N) -> (N, H, W)


def rle_area(code: Rle) -> int:
    """Count the pixels inside a mask."""
    return int(hotcoco().mask.area(code))


def rle_box(code: Rle) -> list[float]:
    """Return the box around a mask: x, y, width, height in pixels."""
    return hotcoco().mask.toBbox(code).tolist()


def rle_iou(codes: list[Rle], others: list[Rle]) -> np.ndarray:
    """Return the IoU (N, M) of N codes with M others, none of which is a crowd."""
    return hotcoco().mask.iou(codes, others, [False] * len(others))


def as_rles(masks: Masks, size: tuple[int, int], where: str) -> list[Rle]:
    """Return (N, H, W) masks, or codes in any of COCO's spellings, as checked codes of `size`.

    A mask of another size or a damaged code raises a `UserError` whose message begins with `where`.
    """
    if not isinstance(masks, np.ndarray):
        return [checked_rle(mask, size, f"{where}, mask {i}")[0] for i, mask in enumerate(masks)]
    if masks.ndim != 3 or masks.shape[1:] != size:
        raise UserError(
            f"{where}: masks have shape {masks.shape}, expected (N, {size[0]}, {size[1]})"
        )
    return encode_masks(masks)


def checked_rle(rle: Any, size: tuple[int, int], where: str) -> tuple[Rle, int]:
    """Check a code and return it with packed counts as text, and the number of pixels inside.

    rle: its counts may be packed (text or bytes) or a list of runs. size: (height, width) of its
    image, all of which the runs must cover. Anything else raises a `UserError` that begins with
    `where`.
    """
    if not isinstance(rle, dict):
        raise UserError(f"{where}: a mask must be COCO RLE, an object with 'size' and 'counts'")
    counts, sides = required(rle, "counts", where), required(rle, "size", where)
    if not isinstance(sides, list | tuple) or list(sides) != list(size):
        raise UserError(
            f"{where}: the RLE has size {str(sides)[:40]}, its image {list(size)} (height, width)"
        )
    mask = hotcoco().mask
    if isinstance(counts, list):
        counts = wholes([(where, [{"counts": run} for run in counts])], "counts", high=2**32 - 1)
    elif isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    elif not isinstance(counts, str):
        raise unusable(counts, "counts", where, "packed text or a list of run lengths")
    code = {"size": list(size), "counts": counts}
    try:
        if isinstance(counts, list):
            code["counts"] = mask.rle_to_string(code)
        inside = int(mask.area(code))
    except _CODE_ERRORS as error:
        raise UserError(f"{where}: malformed RLE ({error}); encode the mask again") from None
    # hotcoco accepts runs that end too early. Runs that reach the last pixel are too long for an
    # image with one pixel less, so hotcoco must refuse them there.
    try:
        mask.area({**code, "size": [1, size[0] * size[1] - 1]})
    except _CODE_ERRORS:
        return code, inside
    raise UserError(
        f"{where}: malformed RLE, its runs do not cover the {size[0]} x {size[1]} pixels of "
        "its image; encode the mask again"
    )


def checked_segmentation(segmentation: Any, height: int, width: int, where: str) -> Any:
    """Check a segmentation and return a code with packed counts, or the polygons that hold a pixel.

    Returns None if nothing is enclosed: COCO has a few outlines of two points. A malformed
    segmentation raises a `UserError` that begins with `where`.
    """
    if isinstance(segmentation, dict):
        code, inside = checked_rle(segmentation, (height, width), where)
        return code if inside else None
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: 'segmentation' is neither a list of polygons nor COCO RLE")
    try:
        polygons = [p for p in segmentation if _encloses(p, height, width)]
    except TypeError:  # not numbers, but text or lists, for example
        raise UserError(
            f"{where}: 'segmentation' is malformed (a polygon is a list of numbers); correct it"
        ) from None
    except (ValueError, OverflowError) as error:  # numbers out of range
        raise UserError(f"{where}: 'segmentation' is malformed ({error}); correct it") from None
    return polygons or None


def _encloses(polygon: Any, height: int, width: int) -> bool:
    """Tell whether a polygon can hold a pixel of its image.

    It can if it has three points and its box has an area that reaches into the image. A polygon
    that is too small to cover a pixel is not recognised as empty.
    """
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
    margin = max(height, width)  # real polygons exceed the image by some pixels, not by its size
    inside = -margin <= min(left, top) and max(right, bottom) <= 2 * margin
    if not (inside and math.isfinite(sum(polygon))):
        raise ValueError(f"polygon far outside its image of {height} x {width}")
    return max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height)


def encode_segmentation(segmentation: Any, height: int, width: int) -> Rle:
    """Return a checked segmentation as a code."""
    if isinstance(segmentation, list):
        mask = hotcoco().mask
        code = mask.merge(mask.frPyObjects(segmentation, height, width))
        return {**code, "counts": code["counts"].decode("ascii")}
    return segmentation


def decode_segmentations(segmentations: list[Any], height: int, width: int) -> np.ndarray:
    """Return the masks (N, H, W) bool of checked segmentations."""
    codes = [encode_segmentation(entry, height, width) for entry in segmentations]
    return decode_masks(codes, (height, width))
