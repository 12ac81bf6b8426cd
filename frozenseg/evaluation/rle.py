"""COCO run-length codes of masks: made, checked and brought to one form.

A code is {"size": [height, width], "counts": text}: runs of 0 and 1 in turn down the columns,
packed as in pycocotools. The decoders in C trust their input, so whatever comes from a file is
checked here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from frozenseg.errors import UserError

Rle = dict[str, Any]
Masks = np.ndarray | Sequence[Rle]

BATCH = 4096  # codes that are checked at once: bounds the memory, some 100 characters each


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
        return check_rles(masks, [size] * len(masks), lambda i: f"{where}, mask {i}")
    if masks.ndim != 3 or masks.shape[1:] != size:
        raise UserError(
            f"{where}: masks have shape {masks.shape}, expected (N, {size[0]}, {size[1]})"
        )
    return encode_masks(masks)


def check_rles(
    rles: Sequence[Any], sizes: Sequence[tuple[int, int]], where: Callable[[int], str]
) -> list[Rle]:
    """The N codes with packed counts as text, if each covers every pixel of its image once.

    sizes: (height, width) of the image of each code. where: how messages name code i.
    """
    packed = [
        _packed(rle, size, i, where) for i, (rle, size) in enumerate(zip(rles, sizes, strict=True))
    ]
    for first in range(0, len(packed), BATCH):
        covered = _covered(packed[first : first + BATCH])
        expected = [height * width for height, width in sizes[first : first + BATCH]]
        wrong = (first + np.flatnonzero(covered != expected)).tolist()
        if wrong:
            height, width = sizes[wrong[0]]
            raise UserError(
                f"{where(wrong[0])}: malformed RLE, its runs do not cover the {height} x {width} "
                "pixels of its image; write it again"
            )
    return [
        {"size": list(size), "counts": counts} for counts, size in zip(packed, sizes, strict=True)
    ]


def _packed(rle: Any, size: tuple[int, int], index: int, where: Callable[[int], str]) -> str:
    """The packed counts of a code that has the right fields and the right size; a character that
    is not of ASCII becomes one that `_covered` knows as damage."""
    # dict and list, not Mapping and Sequence: what JSON gives, and a fifth of the time to ask for
    if not isinstance(rle, dict) or "counts" not in rle or "size" not in rle:
        raise UserError(
            f"{where(index)}: a mask must be COCO RLE, an object with 'size' and 'counts'"
        )
    given, counts = rle["size"], rle["counts"]
    if not isinstance(given, (list, tuple)) or tuple(given) != size:
        raise UserError(
            f"{where(index)}: the RLE has size {given}, its image {list(size)} (height, width)"
        )
    if isinstance(counts, list) and all(isinstance(r, int) and 0 <= r < 2**32 for r in counts):
        counts = mask_util.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str):
        raise UserError(f"{where(index)}: 'counts' is neither text nor a list of run lengths")
    return counts if counts.isascii() else "\0"


def _covered(packed: Sequence[str]) -> np.ndarray:
    """(N,) the pixels that the runs of each code cover together, -1 where it is damaged.

    Undoes the packing of pycocotools for all codes at once: numbers are written with five bits a
    character, little end first, signed; from the fourth on, a run is stored as its difference to
    the run two before it.
    """
    lengths = np.array([len(counts) for counts in packed], dtype=np.int64)
    covered = np.zeros(len(packed), dtype=np.int64)
    if not lengths.sum():
        return covered
    symbols = np.frombuffer("".join(packed).encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    code = np.repeat(np.arange(len(packed)), lengths)
    is_end = symbols & 32 == 0  # bit 5: the number goes on
    final = np.cumsum(lengths)[lengths > 0] - 1
    damaged = [code[(symbols < 0) | (symbols > 63)], code[final[~is_end[final]]]]
    is_end[final] = True

    ends = np.flatnonzero(is_end)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digit = np.arange(len(symbols)) - np.repeat(starts, ends - starts + 1)
    damaged.append(code[digit > 6])  # above 32 bits
    digit = digit.clip(max=6)
    numbers = np.add.reduceat((symbols & 31) << (5 * digit), starts)
    numbers -= ((symbols[ends] & 16) != 0).astype(np.int64) << (5 * (digit[ends] + 1))

    code = code[ends]  # from here on one entry per run
    counted = np.bincount(code, minlength=len(packed))
    first = np.repeat(np.cumsum(counted) - counted, counted)  # where the code of each run begins
    place = np.arange(len(numbers)) - first
    sums = np.zeros(len(numbers) + 2, dtype=np.int64)  # of every second number, two places later
    np.cumsum(numbers[::2], out=sums[2::2])
    np.cumsum(numbers[1::2], out=sums[3::2])
    before = np.where(place == 0, first - 2, first - place % 2)  # last number not in the run's sum
    runs = sums[2:] - sums[before + 2]
    damaged.append(code[runs < 0])
    covered += np.bincount(code, weights=runs, minlength=len(packed)).astype(np.int64)
    covered[np.concatenate(damaged)] = -1
    return covered
