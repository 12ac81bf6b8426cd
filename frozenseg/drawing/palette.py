"""Colours for classes and for the segments of a picture that are easy to distinguish.

A class has the same colour in every picture, unless another segment or the image under it has a
similar colour there. The distance of two colours is the smallest of their CIELAB distances for
normal, protan and deutan colour vision.
"""

from functools import lru_cache

import cv2
import numpy as np

NUM_COLORS = 256  # beyond this many classes the colours repeat

# Offsets in CIELAB lightness by which the objects of one class differ, in order of appearance.
_SHADES = np.array([0, 9, -9, 16, -16, 5, -5, 12, -12], dtype=np.float32)


def class_colors(
    class_ids: np.ndarray, is_thing: np.ndarray, shades: np.ndarray | None = None
) -> np.ndarray:
    """Return the colours (N, 3) uint8 RGB of N classes: vivid for things, muted for stuff.

    class_ids, is_thing: (N,), the class of each entry, and whether it is a thing.
    shades: (N,), the index of each object within its class, from 0; objects of a class get
        different lightness.
    """
    places = class_ids % NUM_COLORS
    vivid, muted = _palette(48, 82), _palette(16, 40)
    lab = np.where(is_thing[:, None], vivid[places], muted[places])
    if shades is not None:
        lab[:, 0] = np.clip(lab[:, 0] + _SHADES[shades % len(_SHADES)], 25, 92)
    return _to_rgb(lab)


# Minimum distances between the segments of a picture, tried in this order, because many segments
# leave little choice. With the last one, colours are always found; a distance of 2.3 is just
# noticeable.
APART = (16.0, 10.0, 6.0, 3.0, 0.0)
# The minimum distance from the image under a segment, half of which shows through.
FROM_GROUND = 50.0


def picture_colors(
    class_ids: np.ndarray, is_thing: np.ndarray, grounds: np.ndarray | None = None
) -> np.ndarray:
    """Return the colours (N, 3) uint8 RGB of the N segments of a picture.

    The first segment of a class has the colour of `class_colors` if this differs enough from all
    others. Otherwise, and for further segments of the class, it is the most similar colour that
    differs enough.

    class_ids, is_thing: (N,), the class of each segment, and whether it is a thing.
    grounds: (N, 3) uint8, the mean colour of the image under each segment, or None.
    """
    for apart in APART:
        colors = _apart(class_ids, is_thing, grounds, apart)
        if colors is not None:
            return colors
    raise AssertionError("a distance of 0 is always found")


def _apart(
    class_ids: np.ndarray, is_thing: np.ndarray, grounds: np.ndarray | None, apart: float
) -> np.ndarray | None:
    """Return the colours of `picture_colors` with a distance of at least `apart` between any two.

    Returns None if this is impossible.
    """
    choice = _candidates()
    seen = _seen(choice)
    near = np.full(len(choice), np.inf, dtype=np.float32)  # distance to the nearest segment so far
    plain = class_colors(class_ids, is_thing)
    colors = np.zeros((len(class_ids), 3), dtype=np.uint8)
    first: dict[int, np.ndarray] = {}
    _, firsts = np.unique(class_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(class_ids)), firsts)
    for number in (*np.sort(firsts), *others):
        ideal = first.get(int(class_ids[number]), plain[number])
        allowed = near >= apart
        if grounds is not None:
            ground = _seen(grounds[number][None])[0]
            clear = np.linalg.norm(seen[0] - ground, axis=-1) >= FROM_GROUND
            allowed = allowed & clear if (allowed & clear).any() else allowed
        if not allowed.any():
            return None
        away = np.linalg.norm(seen[0] - _seen(ideal[None])[0], axis=-1)
        index = int(np.where(allowed, away, np.inf).argmin())
        colors[number] = choice[index]
        first.setdefault(int(class_ids[number]), colors[number])
        near = np.minimum(near, _distance(seen, seen[:, index : index + 1]))
    return colors


@lru_cache(maxsize=1)
def _candidates() -> np.ndarray:
    """Return the candidates (M, 3) uint8: all colours of `class_colors`, and a grid of others.

    The grid has no colours that are grey, very dark or very bright.
    """
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lab = _seen(grid.astype(np.uint8))[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(lab[:, 0] >= 25) & (lab[:, 0] <= 92) & (chroma >= 16)]
    ids = np.arange(NUM_COLORS)
    own = [class_colors(ids, np.full(NUM_COLORS, thing)) for thing in (True, False)]
    return np.concatenate([*own, grid.astype(np.uint8)])


# Maps linear RGB to what is seen with normal, protan and deutan vision (Machado et al., 2009,
# severity 1).
_VISIONS = (
    np.eye(3),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
)


def _seen(colors: np.ndarray) -> np.ndarray:
    """Convert RGB colours (N, 3) uint8 to CIELAB (3, N, 3), as each of `_VISIONS` sees them."""
    linear = linear_rgb(colors)
    seen = np.stack([(linear @ vision.T).clip(0, 1) for vision in _VISIONS])
    gamma = np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen)
    return cv2.cvtColor(gamma.astype(np.float32), cv2.COLOR_RGB2Lab)


def _distance(seen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distances (N,) between colours (3, N, 3) and (3, 1, 3) of `_seen`: for each pair,
    the smallest distance over the three kinds of vision."""
    return np.linalg.norm(seen - other, axis=-1).min(axis=0)


def linear_rgb(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB (..., 3) uint8 to linear RGB (..., 3), 0-1 (IEC 61966-2-1)."""
    value = colors.astype(np.float64) / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


def luminance(color: tuple[int, int, int]) -> float:
    """Return the relative luminance of an RGB colour, 0-1, as defined by WCAG."""
    return float(linear_rgb(np.array(color)) @ [0.2126, 0.7152, 0.0722])


def readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has more contrast to an RGB colour (at least 4.58 : 1)."""
    light = luminance(color) + 0.05
    return (0, 0, 0) if light / 0.05 >= 1.05 / light else (255, 255, 255)


@lru_cache(maxsize=2)
def _palette(low: int, high: int) -> np.ndarray:
    """Return CIELAB colours (NUM_COLORS, 3) of chroma low-high, each farthest from all before it.

    The first few classes of any vocabulary thus differ most, and a colour depends only on its
    index. All have a medium lightness, so that they are visible on bright and on dark pictures.
    """
    lightness, a, b = np.meshgrid(
        np.arange(42, 85, 6), np.arange(-84, 85, 6), np.arange(-84, 85, 6), indexing="ij"
    )
    lab = np.stack([lightness, a, b], axis=-1).reshape(-1, 3).astype(np.float32)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    lab = lab[(chroma >= low) & (chroma <= high)]
    # A colour outside the sRGB gamut is clipped, so converting it back gives another colour.
    back = cv2.cvtColor(cv2.cvtColor(lab[None], cv2.COLOR_Lab2RGB), cv2.COLOR_RGB2Lab)[0]
    lab = lab[np.linalg.norm(back - lab, axis=1) < 4]
    weighted = lab * np.array([1.3, 1, 1], dtype=np.float32)
    blue = np.array([60, 10, -62], dtype=np.float32)
    chosen = [int(np.linalg.norm(lab - blue, axis=1).argmin())]
    distance = np.full(len(lab), np.inf, dtype=np.float32)
    for _ in range(NUM_COLORS - 1):
        distance = np.minimum(distance, np.linalg.norm(weighted - weighted[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return lab[chosen]


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    if not len(lab):
        return np.zeros((0, 3), dtype=np.uint8)  # OpenCV refuses to convert nothing
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_Lab2RGB)[0]
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8)
