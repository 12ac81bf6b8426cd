"""Label maps on disk: what the pixels of an annotation or prediction file say.

Pictures of the same labels come in many forms: optimizers and editors change channels, depths and
palettes. All that have one meaning are read.
"""

from pathlib import Path

import cv2
import numpy as np

from frozenseg.data.images import (
    load,
    open_image,
    orientation,
    raw_mode,
    say_pages_left_out,
    turned,
)
from frozenseg.errors import UserError

LABEL_SUFFIXES = (".png", ".tif", ".tiff")  # label maps of ADE20K-847 are TIFF
# Made for photographs, though some can be exact; a file does not always say which it is.
LOSSY = ("JPEG", "MPO", "AVIF", "WEBP", "JPEG2000")

# Where Pillow finds an orientation in a PNG: EXIF as such, as ImageMagick writes it, and XMP.
_MARKS_OF_A_TURN = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")

# Pillow stretches greys of 2 and 4 bits to 0-255: right for a photograph, not for labels.
_SCALED_BY = {"L;2": 85, "L;4": 17}


def read_panoptic_ids(path: str | Path) -> np.ndarray:
    """(H, W) int32 ids of a COCO panoptic PNG: red + 256 green + 65536 blue; 0 is void.

    Palettes and greys stand for their colours; transparency says nothing. With 16 bits a channel
    the values are 0-255 all the same, or 257 times as much where a tool has scaled them.
    """
    samples, mode = _samples(path, palette=True)
    if samples.ndim == 2 and samples.dtype != np.uint8:
        raise UserError(
            f"{path}: has one channel (mode {mode}), a panoptic PNG (ids as R + 256 G + 256^2 B) "
            "was expected"
        )
    colours = samples if samples.ndim == 3 else np.stack([samples] * 3, axis=-1)
    if colours.dtype != np.uint8 and colours.max(initial=0) > 255:
        if (colours % 257).any():
            raise UserError(f"{path}: has channels above 255, which are no ids; save it in 8 bits")
        colours = colours // 257
    # Three bytes and a fourth are a number whose lowest byte comes first.
    four = cv2.cvtColor(np.ascontiguousarray(colours, dtype=np.uint8), cv2.COLOR_RGB2RGBA)
    return four.view("<i4")[..., 0] & np.int32(2**24 - 1)


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) labels: one channel of 1 to 32 bits, palette indices, or colours that
    are grey, whose value is meant."""
    samples, mode = _samples(path, palette=False)
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
            raise UserError(f"{path}: holds values that are no whole numbers, so no class ids")
        samples = labels
    return samples.astype(np.uint8) if samples.dtype.kind == "b" else samples


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width), without decoding where nothing can ask for a turn."""
    with open_image(path) as image:
        # Pillow states the size of TIFF as it will turn it, and decodes a PNG to look for EXIF.
        upright = image.format == "TIFF" or image.width == image.height
        if image.format == "PNG" and not upright:
            content = Path(path).read_bytes()
            upright = not any(mark in content for mark in _MARKS_OF_A_TURN)
        swapped = not upright and orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if swapped else (image.height, image.width)


def _samples(path: str | Path, palette: bool) -> tuple[np.ndarray, str]:
    """The values of a picture, (H, W) or (H, W, 3), without transparency and upright, and Pillow's
    name of its kind. palette: whether the colours of a palette are wanted, else its indices."""
    with open_image(path) as image:
        if image.format in LOSSY or image.info.get("compression") in ("jpeg", "webp"):
            raise UserError(
                f"{path}: is compressed as a photograph ({image.format}), which does not keep ids; "
                "save it as PNG"
            )
        say_pages_left_out(image, path)
        mode, kind = image.mode, raw_mode(image)
        sixteen = ";16" in kind and mode in ("LA", "RGB", "RGBA", "RGBX")
        turn = orientation(image) if sixteen else 1  # before Pillow turns a TIFF
        load(image)
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
        raise UserError(f"{path}: is of mode {mode}, which is none of label maps; save it as PNG")
    if not palette and kind in _SCALED_BY:
        values = values // _SCALED_BY[kind]
    return (values if values.ndim == 2 else values[..., :3]), mode


def _sixteen_bits(path: str | Path) -> np.ndarray:
    """(H, W) or (H, W, 3) uint16, of which Pillow would keep the upper half alone."""
    data = np.fromfile(path, dtype=np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UserError(f"{path}: cannot be read with 16 bits a channel; save it in 8 bits")
    return values if values.ndim == 2 else values[..., 2::-1]  # BGR or BGRA -> RGB
