"""Read label maps: the ids in the pixels of an annotation or prediction file.

Image optimizers and editors change the channels, bit depths and palettes of pictures. Every form
whose meaning is unambiguous is accepted.
"""

from pathlib import Path

import cv2
import numpy as np

from frozenseg.data import images
from frozenseg.data.images import open_image, orientation, turned
from frozenseg.errors import UserError

LABEL_SUFFIXES = (".png", ".tif", ".tiff")  # label maps of ADE20K-847 are TIFF
# Formats for photographs. Some can be lossless, but a file does not always say whether it is.
LOSSY = ("JPEG", "MPO", "AVIF", "WEBP", "JPEG2000")

# A PNG that holds none of these bytes has no orientation. They mark EXIF data in a chunk of their
# own or as ImageMagick writes them, and XMP data.
_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

# Pillow multiplies greys of 2 and 4 bits by these factors to reach 255, which is wrong for labels.
_SCALED_BY = {"L;2": 85, "L;4": 17}


def read_panoptic_ids(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read the ids (H, W) int32 of a COCO panoptic PNG: red + 256 green + 65536 blue; 0 is void.

    Palettes and greys are read as the colours they stand for; transparency is ignored. With 16 bits
    per channel, the values are 0-255 as well, or 257 times as large if a tool has scaled them.

    size: (height, width) of its image, if known. A file of another size is refused, before it is
        decoded if its number of pixels differs too.
    """
    samples, mode = _samples(path, palette=True, size=size)
    if samples.ndim == 2 and samples.dtype != np.uint8:
        raise UserError(
            f"{path}: has one channel (mode {mode}), a panoptic PNG (ids as R + 256 G + 256^2 B) "
            "was expected"
        )
    if samples.ndim == 2:
        ids = samples.astype(np.int32)
        ids *= 1 + 256 + 65536
        return ids
    if samples.dtype != np.uint8 and samples.max(initial=0) > 255:
        if (samples % 257).any():
            raise UserError(f"{path}: has ids whose channels exceed 255; save it in 8 bits")
        samples = samples // 257
    return decode_panoptic(np.ascontiguousarray(samples, dtype=np.uint8))


def decode_panoptic(colours: np.ndarray) -> np.ndarray:
    """Return the ids (H, W) int32 that colours (H, W, 3) uint8 stand for: R + 256 G + 65536 B."""
    # Red, green, blue and a fourth byte are read as one little-endian number.
    four = cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA)
    return four.view("<i4")[..., 0] & np.int32(2**24 - 1)


def read_labels(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read labels (H, W): a channel of 1-32 bits, palette indices, or greys stored as colours.

    size: (height, width) of its image, as for `read_panoptic_ids`.
    """
    samples, mode = _samples(path, palette=False, size=size)
    if samples.ndim == 3:
        if (samples[..., :3] != samples[..., :1]).any():
            raise UserError(
                f"{path}: has colours (mode {mode}), a label map with one channel of class ids "
                "was expected"
            )
        samples = samples[..., 0]
    if samples.dtype.kind == "f":
        labels = np.nan_to_num(samples, nan=-1).astype(np.int64)
        if (labels != samples).any():
            raise UserError(f"{path}: holds values that are not whole numbers, so not class ids")
        samples = labels
    return samples.astype(np.uint8) if samples.dtype.kind == "b" else samples


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) of the upright picture, without decoding its pixels where possible."""
    with open_image(path) as image:
        # Pillow states the size of a TIFF as upright, and decodes a PNG to look for EXIF data.
        upright = image.format == "TIFF" or image.width == image.height
        if image.format == "PNG" and not upright:
            content = Path(path).read_bytes()
            upright = not any(mark in content for mark in _ORIENTATION_MARKS)
        swapped = not upright and orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if swapped else (image.height, image.width)


def _samples(
    path: str | Path, *, palette: bool, size: tuple[int, int] | None
) -> tuple[np.ndarray, str]:
    """Read the values of a picture upright, (H, W) or (H, W, 3), and Pillow's name of its mode.

    Transparency is left out. palette: whether to return the colours of a palette, or else its
    indices. size: the (height, width) that the picture must have.
    """
    values, mode = _decoded(path, palette, size)
    if size is not None and values.shape[:2] != size:
        raise _of_another_size(path, values.shape[:2], size)
    return values, mode


def _of_another_size(path: str | Path, found: tuple[int, ...], size: tuple[int, int]) -> UserError:
    return UserError(
        f"{path}: is {found[0]} x {found[1]} (height x width), but its image is {size[0]} x "
        f"{size[1]}; make it again in the size of the image"
    )


def _decoded(
    path: str | Path, palette: bool, size: tuple[int, int] | None
) -> tuple[np.ndarray, str]:
    with open_image(path) as image:
        # Turning a picture does not change its number of pixels.
        if size is not None and image.width * image.height != size[0] * size[1]:
            raise _of_another_size(path, (image.height, image.width), size)
        if image.format in LOSSY or image.info.get("compression") in ("jpeg", "webp"):
            raise UserError(
                f"{path}: is compressed as a photograph ({image.format}), which does not keep ids; "
                "save it as PNG"
            )
        images.say_pages_left_out(image, path)
        mode, packing = image.mode, images.raw_mode(image)
        sixteen = ";16" in packing and mode in ("LA", "RGB", "RGBA", "RGBX")
        turn = orientation(image) if sixteen else 1  # before Pillow turns a TIFF
        images.load(image)
        if sixteen:
            return turned(_sixteen_bits(path), turn), mode
        if mode in ("P", "PA") and palette:
            image = image.convert("RGB")
        if mode == "1" and palette:
            image = image.convert("L")  # white is 255, as in other pictures
        values = turned(np.asarray(image), orientation(image))
    if mode in ("LA", "La", "PA") and values.ndim == 3 and values.shape[2] == 2:
        values = values[..., 0]
    if values.ndim == 3 and mode not in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa"):
        raise UserError(f"{path}: has the mode {mode}, not that of a label map; save it as PNG")
    if not palette and packing in _SCALED_BY:
        values = values // _SCALED_BY[packing]
    return (values if values.ndim == 2 else values[..., :3]), mode


def _sixteen_bits(path: str | Path) -> np.ndarray:
    """Read (H, W) or (H, W, 3) uint16; Pillow would keep only the upper eight bits."""
    data = np.fromfile(path, dtype=np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UserError(f"{path}: cannot be read with 16 bits per channel; save it in 8 bits")
    return values if values.ndim == 2 else values[..., 2::-1]  # BGR or BGRA -> RGB
