"""Read images of every kind as (H, W, 3) uint8 RGB arrays."""

import errno
import functools
import importlib
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from frozenseg.data.pixels import over_white, rgb_of_array
from frozenseg.errors import MissingFileError, UserError, UserValueError, reason_of
from frozenseg.notes import note, note_first

# 1.2 GB as RGB. Pillow's own limit, against decompression bombs, is 179 million.
MAX_PIXELS = 400_000_000
# The most bytes of one profile or comment of a PNG, and of all its comments together. Some editors
# keep the history of a picture in its comments and exceed Pillow's limits of 1 MB and 64 MB.
MAX_TEXT, MAX_TEXTS = 2**26, 2**28

# The formats that Pillow decodes itself, in the order in which they are tried: the frequent ones
# first, then by name. EPS is left out because Pillow would hand it to Ghostscript, whatever the
# suffix of the file; WMF is left out because Pillow would hand it to Windows.
FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP"),
    *("AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF"),
    *("ICNS", "ICO", "IM", "JPEG2000", "MSP", "PCD", "PCX", "PIXAR", "PPM"),
    *("PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "XBM", "XPM"),
)
HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")  # read with the package pillow_heif
HOW_HEIF = 'to read HEIC and HEIF: pip install "frozenseg[heif]"'
# Formats whose further pictures are pages or frames; in MPO they are previews, in PSD layers.
_PAGED = ("AVIF", "DCX", "FLI", "GIF", "PNG", "TIFF", "WEBP")

# The exceptions that Pillow's decoders raised on damaged files of 30 formats. Decoders trust the
# numbers in a file, so a wrong number can end in any of these.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, zlib.error),
    *(AttributeError, TypeError, LookupError, ArithmeticError, MemoryError, AssertionError),
)
# The `errno` of an `OSError` that means damaged content: Pillow's own errors have none, and the
# system reports EINVAL if a damaged number makes a decoder seek to an impossible position.
_DAMAGE_NUMBERS = (None, errno.EINVAL)
# System errors that concern a single file, each with its remedy. Other system errors are not the
# fault of the file: a network drive that has dropped out causes them for every file on it.
_FILE_REMEDIES = {
    errno.EISDIR: "give an image file",
    errno.ENAMETOOLONG: "choose a shorter file name",
    errno.EILSEQ: "choose another name",
    errno.ELOOP: "copy the file itself in place of its links",
    errno.ENOMEM: "scale it down",
    **dict.fromkeys((errno.EFBIG, errno.EOVERFLOW), "copy it again"),
    **dict.fromkeys((errno.EBADF, errno.ESPIPE), "open it again"),  # for a file object
}
# The EXIF orientation that undoes another; all others undo themselves.
_INVERSE = {6: 8, 8: 6}


class UnreachableFile(UserError):
    """The drive or the network that a file lies on does not answer; the file may be intact."""


def read_image(
    source: str | os.PathLike[str] | BinaryIO, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a file as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Transparent pixels are blended with white. 16-bit values are scaled to 0-255, not clipped. Of
    several pages or frames only the first is read, with a warning. Raises `UserError` if the file
    cannot be read completely, and `UnreachableFile`, a subclass, if that is not the file's fault.

    source: a path, or a file that is opened as binary.
    size: (height, width) of its annotation. Many tools annotate the picture as it is stored, so the
        EXIF orientation is ignored if the picture has this size only as stored.
    """
    name = file_name(source) or "the image"
    with open_image(source) as image:
        say_pages_left_out(image, name)
        turn = orientation(image)
        load(image)
        stored_turn = 1 if image.format == "TIFF" else turn  # Pillow has turned a TIFF by now
        pixels = _unturned_pixels(image)
    upright = turned(pixels, stored_turn)
    if turn == 1 or size is None:
        return upright
    stored = pixels if stored_turn == turn else turned(pixels, _INVERSE.get(turn, turn))
    return _as_annotated(upright, stored, size, name)


def _as_annotated(
    upright: np.ndarray, stored: np.ndarray, size: tuple[int, int], path: Any
) -> np.ndarray:
    """Choose the form of an image, upright or as stored, that has the size of its annotation."""
    if upright.shape[:2] == size:
        if stored.shape[:2] == size:
            note_first(
                "ambiguous turn",
                f"{path}: has an EXIF orientation, and the size of its annotation does not show "
                "whether the annotation follows it; all such pictures are turned upright",
            )
        return upright
    if stored.shape[:2] == size:
        note_first(
            "turn not meant",
            f"{path}: annotated as stored, so its EXIF orientation is ignored; further pictures of "
            "this kind are not reported",
        )
        return stored
    return upright


@contextmanager
def open_image(source: str | os.PathLike[str] | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture and read its header; all pictures are opened here.

    Whatever Pillow raises inside the `with` block becomes a `UserError` that names the file, so the
    block should do no more than decode.
    """
    if isinstance(source, str | os.PathLike):
        source = Path(source)
    with _errors_named(file_name(source) or "the image"):
        if isinstance(source, Path):
            _check_file(source)
        with _open(source) as image:
            yield image


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into a `UserError` that names the picture."""
    try:
        yield
    except UserError as error:
        raise _error_context(name, error) from None
    except Image.UnidentifiedImageError:
        more = f" ({HOW_HEIF})" if name.lower().endswith(HEIF) and not reads_heif() else ""
        raise UserValueError(
            f"{name}: not an image, or of a format that is not supported; save it as PNG or "
            f"JPEG{more}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserValueError(
            f"{name}: has more than {MAX_PIXELS:,} pixels; scale it down first"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{name}: no such file; copy it there") from None
    except PermissionError as error:
        raise UserValueError(
            f"{name}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except MemoryError:
        raise UserValueError(f"{name}: needs more memory than there is; scale it down") from None
    except _DAMAGE as error:
        if _is_of_the_system(error):
            raise _unread(name, error) from None
        reason = reason_of(error)
        raise UserValueError(f"{name}: damaged image ({reason}); copy it again") from None


def _is_of_the_system(error: BaseException) -> TypeGuard[OSError]:
    """Tell whether the system could not read a file, which says nothing about its bytes."""
    return isinstance(error, OSError) and error.errno not in _DAMAGE_NUMBERS


def _unread(name: str, error: OSError) -> UserError:
    """Return the error of a file that the system could not read."""
    if remedy := _FILE_REMEDIES.get(error.errno or 0):
        return UserValueError(f"{name}: cannot be read ({error.strerror}); {remedy}")
    return UnreachableFile(
        f"{name}: cannot be reached ({error.strerror}); bring its drive or network back"
    )


def _check_file(path: Path) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserValueError(f"{path}: is a folder, an image file was expected")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for its writer
        raise UserValueError(f"{path}: is not a regular file; copy the image into one")
    if status.st_size == 0:
        raise UserValueError(f"{path}: the file is empty (0 bytes); copy it again")


def _open(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Read the header under the limits of this module."""
    with _own_limits:
        image = Image.open(source, formats=readable_formats())
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise UserValueError(f"{size} pixels, more than {MAX_PIXELS:,}; scale it down first")
    return image


@functools.cache
def readable_formats() -> list[str]:
    """List the formats that can be read on this machine, by their names in Pillow."""
    Image.init()  # a Pillow built without a decoder does not know its format
    with suppress(ImportError):
        # This opener returns pictures upright.
        importlib.import_module("pillow_heif").register_heif_opener()
    return [name for name in (*FORMATS, "HEIF") if name in Image.OPEN]


def reads_heif() -> bool:
    """Tell whether the package for HEIF is installed."""
    return "HEIF" in readable_formats()


def raw_mode(image: Image.Image) -> str:
    """Return how an opened file packs its values, e.g. "RGB;16B"; "" if Pillow does not say."""
    tiles = getattr(image, "tile", [])  # only images that were opened from a file have it
    arguments = tiles[0].args if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def load(image: Image.Image) -> None:
    """Decode under the limits of this module, because some decoders check Pillow's limits again."""
    with _own_limits:
        image.load()


def say_pages_left_out(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Warn of pages or frames besides the first, which are not read."""
    pages = getattr(image, "n_frames", 1) if image.format in _PAGED else 1
    if pages > 1:
        note(f"{path}: {pages - 1} of {pages} pages left out: only the first is read")


class _OwnLimits:
    """Replaces Pillow's limits, which are globals, by those of this module inside a `with` block.

    The first thread that enters sets them, and the last one that leaves restores Pillow's. They
    also hold for pictures inside a picture, as in icons.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._pillows: tuple[int | None, int, int] = (None, 0, 0)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._pillows = _pillows_limits()
                _set_pillows_limits(MAX_PIXELS, MAX_TEXT, MAX_TEXTS)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set_pillows_limits(*self._pillows)


_own_limits = _OwnLimits()


def _pillows_limits() -> tuple[int | None, int, int]:
    return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY


def _set_pillows_limits(pixels: int | None, text: int, texts: int) -> None:
    Image.MAX_IMAGE_PIXELS = pixels
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = text, texts


def orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of a picture, 1 to 8; 1 is upright."""
    try:
        with _own_limits:  # a PNG is read to its end, because its EXIF data may be there
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE as error:
        if _is_of_the_system(error):
            raise  # to take the picture for upright could give it a wrong orientation
        return 1  # the EXIF data are damaged, the pixels need not be
    return int(value) if value in range(1, 9) else 1


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turn an array (H, W, ...) upright. turn: its EXIF orientation, 1 to 8."""
    if turn == 1:
        return pixels
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if turn in (3, 4, 7, 8) else 1
    columns = -1 if turn in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def read_pil(image: Image.Image) -> np.ndarray:
    """Read a PIL image as `read_image` reads a file."""
    with _errors_named(file_name(image) or "the PIL image"):
        if not image.width * image.height:
            raise UserValueError(f"has no pixels; its size is {image.size}")
        load(image)
        return turned(_unturned_pixels(image), orientation(image))


def file_name(image: Any) -> str | None:
    """Return the file name of a path, a PIL image or a file object, if it has one."""
    if not isinstance(image, str | os.PathLike):
        image = getattr(image, "filename", None) or getattr(image, "name", None)
    return os.fsdecode(image) if image and isinstance(image, str | os.PathLike) else None


def numbered(number: int) -> str:
    """Return the name of one of several images that were not read from files."""
    return f"image_{number:06d}"


def _unturned_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "I":  # 32 bits; Pillow also gives this mode to PGM of 16 bits
            if values.min() < 0 or values.max() > 65535:
                raise UserValueError(
                    "32-bit image with values outside 0-65535; save it as 8 or 16 bit"
                )
            # Grey values that Pillow has converted from 8 bits lie in 0-255.
            is_8_bit = image.format != "PPM" and values.max() <= 255
            values = values.astype(np.uint8 if is_8_bit else np.uint16)
        return rgb_of_array(values)
    if image.mode == "La":  # Pillow can convert it only to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))  # a copy, because `asarray` gives a read-only array


def _error_context(name: str, error: UserError) -> UserError:
    """Put the file name in front of an error message, unless it is already there."""
    message = str(error)
    return error if message.startswith(name) else type(error)(f"{name}: {message}")
