"""Images of every kind in, (H, W, 3) uint8 RGB arrays out."""

import glob
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from frozenseg.errors import UserError

MAX_PIXELS = 400_000_000  # 1.2 GB as RGB; Pillow's own guard against bombs stops at 179 million
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
)

# What Pillow's decoders raise on damaged files, found by feeding them such files of 17 formats.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error)
_limit_lock = threading.Lock()


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The image of a file as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Transparent parts are laid over white; 16-bit values are scaled to 0-255, not clipped; of an
    animation the first frame is read. A file that cannot be read whole is a `UserError`.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, an image file was expected")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty (0 bytes); copy it again")
        with _open(path) as image:
            return _from_pil(image)
    except UserError as error:
        raise _naming(path, error) from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of a kind that Pillow cannot read") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; scale it down first") from None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its rights") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged image ({reason}); copy it again") from None


def to_array(image: Any) -> np.ndarray:
    """Any image that the API accepts as (H, W, 3) uint8 RGB.

    A path; a PIL image; a numpy array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8,
    uint16 or float in 0-1; a tensor of the same types, (3, H, W), else (H, W, 3).
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        if image.ndim == 3 and image.shape[0] == 3:
            image = image.permute(1, 2, 0)
        # numpy knows no bfloat16
        return _from_numpy((image.float() if image.is_floating_point() else image).numpy())
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    raise UserError(
        "an image must be a path, a PIL image, a numpy array (H, W, 3) or a tensor (3, H, W); "
        f"got {type(image).__name__}"
    )


def list_images(inputs: list[str]) -> list[Path]:
    """The files that `inputs` name: files, the images and videos of folders, globs; each file once.

    Folders (not searched deeper) and globs (`**` searches deeper) come in the order of their names.
    An input that names nothing is a `UserError`.
    """
    unique: dict[Path, Path] = {}
    for entry in inputs:
        for path in _expand(os.path.expanduser(entry)):
            unique.setdefault(path.resolve(), path)
    return list(unique.values())


def is_video(path: Path) -> bool:
    """Whether the name of a file is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _expand(entry: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        known = {*Image.registered_extensions(), *VIDEO_SUFFIXES}
        files = sorted(
            file for file in path.iterdir() if file.suffix.lower() in known and file.is_file()
        )
        if not files:
            raise UserError(f"{path}: no images in this folder")
        return files
    if path.exists():  # before globs: a name may hold brackets
        return [path]
    if glob.has_magic(entry):
        files = [Path(name) for name in sorted(glob.glob(entry, recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(f"{entry}: no file matches this pattern")
        return files
    raise UserError(f"{path}: no such file or folder")


def _open(path: Path) -> Image.Image:
    """Read the header under our own limit; Pillow's limit is a global, so it is put back."""
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise UserError(f"{size} pixels, more than {MAX_PIXELS:,}; scale it down first")
    return image


def _from_pil(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "I":  # 32 bits; Pillow gives 16-bit PGM this mode
            if values.min() < 0 or values.max() > 65535:
                raise UserError("32-bit image with values outside 0-65535; save it as 8 or 16 bit")
            values = values.astype(np.uint16)
        return _from_numpy(values)
    if image.has_transparency_data:
        return _over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))  # a copy: what `asarray` gives cannot be written to


def _from_numpy(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or values.size == 0:
        hint = "; channels come last in numpy" if values.ndim == 3 and values.shape[0] == 3 else ""
        raise UserError(
            f"an image array must have the shape (H, W, 3) RGB, (H, W, 4), (H, W, 1) or (H, W), "
            f"none of them 0; got {values.shape}{hint}"
        )
    values = _to_uint8(values)
    if values.shape[2] == 4:
        return _over_white(values)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype in (np.uint16, np.dtype(">u2")):
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # so written, NaN is refused too
            raise UserError(
                f"float images must lie in 0-1, these values go from {low:g} to {high:g}; "
                "convert 0-255 values to uint8"
            )
        return np.rint(values * 255).astype(np.uint8)
    raise UserError(f"an image array must be uint8, uint16 or float in 0-1; got {values.dtype}")


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 to (H, W, 3), the colours mixed with white by their transparency."""
    image = Image.fromarray(rgba, "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


def _naming(path: Path, error: UserError) -> UserError:
    """The same error, beginning with the file it is about."""
    message = str(error)
    return error if message.startswith(str(path)) else UserError(f"{path}: {message}")
