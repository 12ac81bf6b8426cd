"""Random textures from which the grounds are painted."""

import itertools

import cv2
import numpy as np

Field = np.ndarray  # (H, W) float32
Colour = tuple[float, float, float]  # RGB in 0-1
Size = tuple[float, float]  # (height, width) in pixels


def pixel_grid(height: int, width: int) -> tuple[Field, Field]:
    """Return y and x of the pixel centres, each (H, W)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    return y, x


def grain(generator: np.random.Generator, height: int, width: int) -> Field:
    """Draw independent values in 0-1, one per pixel."""
    return generator.random((height, width), dtype=np.float32)


def noise(
    generator: np.random.Generator, height: int, width: int, *, cell: Size, octaves: int
) -> Field:
    """Draw smooth noise in 0-1. cell: (height, width) of its coarsest blobs, in pixels."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        tall, wide = (max(1.0, side / 2**octave) for side in cell)
        rows, columns = int(height / tall) + 3, int(width / wide) + 3
        knots = generator.random((rows, columns), dtype=np.float32)
        size = (round(columns * wide), round(rows * tall))  # cv2 takes (width, height)
        layer = cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC)
        top, left = round(tall), round(wide)  # the outermost knots bend the wrong way
        total += layer[top : top + height, left : left + width] / 2**octave
    low, high = np.percentile(total, (1, 99))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1)


def cells(
    generator: np.random.Generator, height: int, width: int, *, size: float
) -> tuple[Field, Field, Field]:
    """Draw cells around scattered seeds (Worley noise).

    size: of a cell, in pixels. Returns the distances to the nearest and second nearest seed, in
    units of `size`, and the tone of the nearest seed's cell in 0-1, all (H, W).
    """
    y, x = pixel_grid(height, width)
    rows, columns = int(height / size) + 3, int(width / size) + 3
    jitter = generator.random((2, rows, columns), dtype=np.float32)
    tones = generator.random((rows, columns), dtype=np.float32)
    row, column = (y / size).astype(int) + 1, (x / size).astype(int) + 1
    distances, seed_tones = [], []
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        r, c = row + down, column + right
        gap_y = r - 1 + jitter[0, r, c] - y / size
        gap_x = c - 1 + jitter[1, r, c] - x / size
        distances.append(np.hypot(gap_y, gap_x))
        seed_tones.append(tones[r, c])
    order = np.argsort(np.stack(distances), axis=0)[:2]
    near = np.take_along_axis(np.stack(distances), order, axis=0)
    tone = np.take_along_axis(np.stack(seed_tones), order[:1], axis=0)[0]
    return near[0].astype(np.float32), near[1].astype(np.float32), tone


def smoothstep(low: float, high: float, value: Field) -> Field:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(
    first: Colour | np.ndarray, second: Colour | np.ndarray, share: Field | np.ndarray
) -> np.ndarray:
    """Blend to (H, W, 3) float32: `first` where `share` is 0, `second` where it is 1."""
    weight = np.asarray(share, np.float32)[..., None]
    start, end = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return start + (end - start) * weight
