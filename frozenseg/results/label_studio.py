"""Convert a result to a prediction that Label Studio imports: brush masks or polygons."""

from typing import Any

import numpy as np

from frozenseg.results.outlines import outlines
from frozenseg.structures import InstanceResult

# The numbers of bits that may hold the length of a run. Each run writes the index of its choice.
RUN_BITS = (8, 12, 16, 16)


def regions_of(
    objects: InstanceResult, *, brush: bool, from_name: str, to_name: str
) -> list[dict[str, Any]]:
    """Return the entries of "result" in a prediction; see `SegmentationResult.to_label_studio`.

    brush: whether the entries are exact masks, one for each object, or polygons, one for each
        connected part.
    """
    height, width = objects.masks.shape[1:]
    kind = "brushlabels" if brush else "polygonlabels"
    entries: list[dict[str, Any]] = []
    for mask, name, score in zip(
        objects.masks, objects.names, objects.scores.tolist(), strict=True
    ):
        values: list[dict[str, Any]] = (
            [{"format": "rle", "rle": brush_code(mask)}]
            if brush
            else [{"points": points, "closed": True} for points in _points(mask)]
        )
        scored = {} if np.isnan(score) else {"score": score}
        entries += [
            {
                "id": f"{name}-{len(entries) + number}",
                "type": kind,
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, kind: [name]},
                **scored,
            }
            for number, value in enumerate(values, 1)
        ]
    return entries


def _points(mask: np.ndarray) -> list[list[list[float]]]:
    """Return the outlines of a mask (H, W), with x and y in per cent of its width and height."""
    height, width = mask.shape
    return [(100 * ring / [width, height]).tolist() for ring in outlines(mask)]


def brush_code(mask: np.ndarray) -> list[int]:
    """Pack a mask (H, W) bool as the bytes of Label Studio's brush masks.

    The format is rle-pack (https://github.com/thi-ng/umbrella): a header, then runs of equal
    values, where each pixel has four channels, which are all 0 or all 255. A run is written as a
    bit 1, two bits that choose one of `RUN_BITS`, its length minus 1, and its value.
    """
    values = mask.ravel()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = 4 * np.diff(starts, append=len(values))
    head = [_bits(4 * len(values), 32), _bits(7, 5), *(_bits(size - 1, 4) for size in RUN_BITS)]
    longest = 1 << RUN_BITS[-1]
    runs = []
    for length, value in zip(lengths.tolist(), values[starts].tolist(), strict=True):
        for rest in range(length, 0, -longest):
            part = min(rest, longest)
            choice = next(index for index, size in enumerate(RUN_BITS) if part <= 1 << size)
            length_code = _bits(part - 1, RUN_BITS[choice])
            runs.append(f"1{choice:02b}{length_code}{int(value) * 255:08b}")
    bits = "".join([*head, *runs])
    packed = np.packbits(np.frombuffer(bits.encode("ascii"), np.uint8) - ord("0"))
    return packed.tolist()


def _bits(number: int, size: int) -> str:
    return f"{number:0{size}b}"
