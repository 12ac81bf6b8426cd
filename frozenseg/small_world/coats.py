"""The colours and surface patterns that a caption can name."""

from collections.abc import Callable

import cv2
import numpy as np

from frozenseg.small_world.noise import Field, mix, smoothstep

COLOURS: dict[str, tuple[float, float, float]] = {  # RGB in 0-1
    "red": (0.86, 0.13, 0.13),
    "orange": (0.97, 0.52, 0.08),
    "yellow": (0.98, 0.86, 0.16),
    "green": (0.12, 0.66, 0.30),
    "blue": (0.14, 0.34, 0.86),
    "purple": (0.52, 0.20, 0.72),
    "pink": (0.97, 0.50, 0.70),
    "white": (0.95, 0.95, 0.96),
}


def _striped(x: Field, y: Field) -> Field:
    return _soft(0.25 - np.abs(x - np.round(x)))


def _dotted(x: Field, y: Field) -> Field:
    across = x * 1.25 + 0.5 * (np.round(y * 1.25) % 2)  # every other row is shifted
    gap = np.hypot(across - np.round(across), y * 1.25 - np.round(y * 1.25))
    return _soft(0.29 - gap)


def _checkered(x: Field, y: Field) -> Field:
    return _soft(np.sin(np.pi * x * 1.2) * np.sin(np.pi * y * 1.2) * 0.35)


# Functions of x and y, measured in periods, that return the share of the second tone, 0-1.
PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "plain": lambda x, y: np.zeros_like(x),
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}


def vary(colour: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a shade of a colour that still matches its name: (3,) RGB in 0-1."""
    rgb = np.array(COLOURS[colour], np.float32).reshape(1, 1, 3)
    hue, saturation, value = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[0, 0]
    hue += generator.uniform(-5, 5)  # degrees
    saturation *= generator.uniform(0.9, 1.05)
    value *= generator.uniform(0.92, 1.03)
    changed = np.array([hue % 360, min(saturation, 1), min(value, 1)], np.float32)
    return cv2.cvtColor(changed.reshape(1, 1, 3), cv2.COLOR_HSV2RGB)[0, 0]


def paint_coat(rgb: np.ndarray, pattern: str, x: Field, y: Field, period: float) -> np.ndarray:
    """Return `rgb` with the pattern in a second tone, which is paler or, for pale colours, darker.

    x, y: (H, W) coordinates in pixels in the thing's own frame. period: pixels from one stripe to
    the next. The result is (H, W, 3).
    """
    luminance = float(rgb @ np.array([0.3, 0.59, 0.11], np.float32))
    second = 0.22 * rgb + 0.78 if luminance < 0.6 else rgb * np.float32(0.45)
    return mix(tuple(rgb), tuple(second), PATTERNS[pattern](x / period, y / period))


def _soft(signed: Field) -> Field:
    return smoothstep(-0.07, 0.07, signed)
