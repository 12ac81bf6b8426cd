"""Convert image arrays of all supported shapes and types to (H, W, 3) uint8 RGB."""

import numpy as np
from PIL import Image

from frozenseg.errors import UserValueError
from frozenseg.notes import note


def rgb_of_array(values: np.ndarray) -> np.ndarray:
    """Convert an image array to (H, W, 3) uint8 RGB.

    values: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, which is blended with white; uint8,
        uint16 or float in 0-1. Raises `UserValueError` for anything else.
    """
    values = np.asarray(values)  # a `np.matrix` has two dimensions whatever its index
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or values.size == 0:
        hint = "; channels come last in numpy" if values.ndim == 3 and values.shape[0] == 3 else ""
        raise UserValueError(
            f"an image array must have the shape (H, W, 3) RGB, (H, W, 4), (H, W, 1) or (H, W), "
            f"with no side of 0; got {values.shape}{hint}"
        )
    values = _to_uint8(values)
    if values.shape[2] == 4:
        return over_white(values)
    # A broadcast view of the right shape would be read-only.
    return np.ascontiguousarray(values if values.shape[2] == 3 else values.repeat(3, axis=2))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype in (np.uint16, np.dtype(">u2")):
        if 0 < values.max() <= 255:
            note(
                "an image of 16 bits with no value above 255 is nearly black; if these are values "
                "of 8 bits, convert it to uint8"
            )
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # written this way, the condition refuses NaN too
            raise UserValueError(
                f"float images must lie in 0-1, these values go from {low:g} to {high:g}; "
                "convert 0-255 values to uint8"
            )
        return np.rint(values * 255).astype(np.uint8)
    raise UserValueError(
        f"an image array must be uint8, uint16 or float in 0-1; got {values.dtype}"
    )


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Blend (H, W, 4) uint8 with a white background to (H, W, 3)."""
    image = Image.fromarray(rgba, "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))
