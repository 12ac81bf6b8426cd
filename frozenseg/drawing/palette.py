"""Colours for classes, and for the segments of one picture: far apart for the eye.

A class has the same colour in every picture, except where another segment, or what lies under it,
looks alike there. "For the eye" is the least distance in CIELAB of what is seen with full colour
vision, without long (protan) and without middle wavelengths (deutan).
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
    """(N, 3) uint8 RGB colours of N classes; vivid for things, muted for stuff.

    class_ids, is_thing: (N,). shades: (N,), which object of its class each is, from 0.
    """
    places = class_ids % NUM_COLORS
    vivid, muted = _palette(48, 82), _palette(16, 40)
    lab = np.where(is_thing[:, None], vivid[places], muted[places])
    if shades is not None:
        lab[:, 0] = np.clip(lab[:, 0] + _SHADES[shades % len(_SHADES)], 25, 92)
    return _to_rgb(lab)


# Least distances between the segments of a picture, tried in turn: the more there are, the less
# room is left. The last one always finds colours; 2.3 is just noticeable.
APART = (16.0, 10.0, 6.0, 3.0, 0.0)
FROM_GROUND = 30.0  # from what lies under a segment, which half of the colour is mixed with


def picture_colors(
    class_ids: np.ndarray, is_thing: np.ndarray, grounds: np.ndarray | None = None
) -> np.ndarray:
    """(N, 3) uint8 RGB colours of the N segments of a picture, those of one class near each other.

    class_ids, is_thing: (N,). grounds: (N, 3) uint8, what lies under each. The first segment of a
    class has the colour of `class_colors` where that tells it from all others; otherwise, and for
    the further ones of the class, it is the most alike of all colours that do.
    """
    for apart in APART:
        colors = _apart(class_ids, is_thing, grounds, apart)
        if colors is not None:
            return colors
    raise AssertionError("a distance of 0 is always found")


def _apart(
    class_ids: np.ndarray, is_thing: np.ndarray, grounds: np.ndarray | None, apart: float
) -> np.ndarray | None:
    """As `picture_colors` with so much distance between any two; None where there is no room."""
    choice = _candidates()
    seen = _seen(choice)
    near = np.full(len(choice), np.inf, dtype=np.float32)  # to the nearest segment so far
    plain = class_colors(class_ids, is_thing)
    found = np.zeros((len(class_ids), 3), dtype=np.uint8)
    first: dict[int, np.ndarray] = {}
    _, firsts = np.unique(class_ids, return_index=True)
    others = np.setdiff1d(np.arange(len(class_ids)), firsts)
    for number in (*np.sort(firsts), *others):
        wanted = first.get(int(class_ids[number]), plain[number])
        allowed = near >= apart
        if grounds is not None:
            ground = _seen(grounds[number][None])[0]
            clear = np.linalg.norm(seen[0] - ground, axis=-1) >= FROM_GROUND
            allowed = allowed & clear if (allowed & clear).any() else allowed
        if not allowed.any():
            return None
        away = np.linalg.norm(seen[0] - _seen(wanted[None])[0], axis=-1)
        place = int(np.where(allowed, away, np.inf).argmin())
        found[number] = choice[place]
        first.setdefault(int(class_ids[number]), found[number])
        near = np.minimum(near, _distance(seen, seen[:, place : place + 1]))
    return found


@lru_cache(maxsize=1)
def _candidates() -> np.ndarray:
    """(M, 3) uint8: all colours of `class_colors`, and a grid of colours that are neither grey nor
    too dark or bright."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3, indexing="ij"), -1).reshape(-1, 3)
    lab = _seen(grid.astype(np.uint8))[0]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[(lab[:, 0] >= 25) & (lab[:, 0] <= 92) & (chroma >= 16)]
    ids = np.arange(NUM_COLORS)
    own = [class_colors(ids, np.full(NUM_COLORS, thing)) for thing in (True, False)]
    return np.concatenate([*own, grid.astype(np.uint8)])


# What is left of linear RGB without a kind of cones (Machado et al., 2009, severity 1): full
# vision, protan, deutan.
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
    """(N, 3) uint8 RGB -> (3, N, 3) CIELAB as each of `_VISIONS` sees them."""
    linear = linear_rgb(colors)
    seen = np.stack([(linear @ vision.T).clip(0, 1) for vision in _VISIONS])
    gamma = np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen)
    return cv2.cvtColor(gamma.astype(np.float32), cv2.COLOR_RGB2Lab)


def _distance(seen: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(3, N, 3) and (3, 1, 3), as of `_seen` -> (N,), the least of the visions."""
    return np.linalg.norm(seen - other, axis=-1).min(axis=0)


def linear_rgb(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 sRGB -> the light that it stands for, 0-1 (IEC 61966-2-1)."""
    value = colors.astype(np.float64) / 255
    return np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance of an RGB colour, 0-1, as the web's accessibility guidelines have it."""
    return float(linear_rgb(np.array(color)) @ [0.2126, 0.7152, 0.0722])


def readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has more contrast to an RGB colour: 4.58 : 1 at least."""
    light = luminance(color) + 0.05
    return (0, 0, 0) if light / 0.05 >= 1.05 / light else (255, 255, 255)


@lru_cache(maxsize=2)
def _palette(low: int, high: int) -> np.ndarray:
    """(NUM_COLORS, 3) CIELAB colours of chroma low-high, each as far as can be from all before.

    So the first few classes of any vocabulary differ most, and a colour depends on its place alone.
    Candidates keep a middle lightness: they must show on bright and dark pictures.
    """
    lightness, a, b = np.meshgrid(
        np.arange(42, 85, 6), np.arange(-84, 85, 6), np.arange(-84, 85, 6), indexing="ij"
    )
    lab = np.stack([lightness, a, b], axis=-1).reshape(-1, 3).astype(np.float32)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    lab = lab[(chroma >= low) & (chroma <= high)]
    # Out of the sRGB gamut a colour is clipped, so it does not come back as it went
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
