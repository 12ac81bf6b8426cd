"""Label maps on disk: what the pixels of an annotation or prediction file say."""

from pathlib import Path

import numpy as np
from PIL import Image

from frozenseg.errors import UserError


def read_panoptic_ids(path: str | Path) -> np.ndarray:
    """(H, W) int32 ids of a COCO panoptic PNG: red + 256 green + 65536 blue; 0 is void."""
    with open_map(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):  # a palette of colours is the same picture
            raise UserError(
                f"{path}: has one channel (mode {image.mode}), a panoptic PNG "
                "(ids as R + 256 G + 256^2 B) was expected"
            )
        colours = _decode(image, path, mode="RGB").astype(np.int32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) labels of a picture with one channel of 8, 16 or 32 bits, or of palette indices."""
    with open_map(path) as image:
        labels, mode = _decode(image, path), image.mode
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise UserError(
            f"{path}: has colours (mode {mode}), a label map with one channel of class ids was "
            "expected"
        )
    return labels.astype(np.uint8) if labels.dtype.kind == "b" else labels


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width), read from the head of the file only."""
    with open_map(path) as image:
        return image.height, image.width


def open_map(path: str | Path) -> Image.Image:
    """The picture, not decoded yet; what Pillow raises on bad files becomes one line."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; copy it there") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)}); copy it again") from None


def _decode(image: Image.Image, path: str | Path, mode: str | None = None) -> np.ndarray:
    try:
        return np.asarray(image.convert(mode) if mode else image)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on a damaged file
        raise UserError(f"{path}: cannot be read ({_reason(error)}); copy it again") from None


def _reason(error: Exception) -> str:
    return "unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
