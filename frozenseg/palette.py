"""Colours for classes: far apart for the eye, and the same in every picture."""

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


def readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out from an RGB colour."""
    luminance = float(np.dot(color, [0.299, 0.587, 0.114]))  # Rec. 601
    return (20, 20, 20) if luminance > 140 else (255, 255, 255)


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
