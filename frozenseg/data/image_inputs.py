"""Convert one image, or each of many, from every form that the library accepts."""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from frozenseg.data.image_files import is_video, list_images
from frozenseg.data.images import file_name, read_image, read_pil
from frozenseg.data.pixels import rgb_of_array
from frozenseg.errors import UserError, UserValueError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a single letter is a drive of Windows


class OneFile(str):
    """The path of one image, which never stands for several images.

    A plain path stands for several if it is a folder, or if it has wildcards and there is no such
    file, because it is then read as a glob.
    """


class OwnFile(io.RawIOBase):
    """An open file that nothing else reads or moves, so that any thread may read it later."""


@dataclass(frozen=True, eq=False)
class HeldImage:
    """An image that has been read: its pixels (H, W, 3) uint8 RGB, and its file's name, if any."""

    pixels: np.ndarray
    filename: str | None


def to_array(image: Any) -> np.ndarray:
    """Convert an image in any form to (H, W, 3) uint8 RGB.

    image: a path; the bytes of a file, or a file that is opened as binary; a PIL image; a numpy
        array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8, uint16 or float in 0-1; a
        tensor of the same types, (3, H, W) or (H, W, 3).

    Raises `UserError` for anything else, and for an image that cannot be read; addresses (URLs) are
    refused.
    """
    if isinstance(image, UserError):  # from `each_image`, like the next
        raise image
    if isinstance(image, HeldImage):
        return image.pixels
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        _refuse_address(path)
        return read_image(os.path.expanduser(path))
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)  # a view may skip bytes, which `BytesIO` refuses
        if not content:
            raise UserValueError("the image is empty (0 bytes)")
        return read_image(io.BytesIO(content))
    if isinstance(image, Image.Image):
        return read_pil(image)
    if isinstance(image, Tensor):
        return _own_rgb(_array_of_tensor(image))
    if isinstance(image, np.ndarray):
        return _own_rgb(image)
    if isinstance(image, io.TextIOBase):
        raise UserValueError("the image is a file opened as text; open it with mode 'rb'")
    if hasattr(image, "read"):
        return read_image(image)
    raise UserValueError(
        "an image must be a path, bytes, a binary file, a PIL image, a numpy array (H, W, 3) or a "
        f"tensor (3, H, W); got {type(image).__name__}"
    )


def _array_of_tensor(image: Tensor) -> np.ndarray:
    """Return the values of an image tensor with the channels last."""
    if image.device.type == "meta" or str(image.layout) != "torch.strided":
        raise UserValueError("an image tensor must be dense and hold pixels; this one does not")
    # Conjugate and negative values may be computed only when they are read; numpy lacks such views.
    image = image.detach().cpu().resolve_conj().resolve_neg()
    if image.ndim == 3 and image.shape[0] == 3:
        if image.shape[2] == 3:
            raise UserValueError(
                f"an image tensor of the shape {tuple(image.shape)} may be (3, H, W) or (H, W, 3); "
                "give it as a numpy array (H, W, 3)"
            )
        image = image.permute(1, 2, 0)
    # numpy has no bfloat16
    return (image.float() if image.is_floating_point() else image).numpy()


def _own_rgb(values: np.ndarray) -> np.ndarray:
    """Convert as `rgb_of_array` does, into memory that is not shared with `values`."""
    rgb = rgb_of_array(values)
    return rgb.copy() if np.may_share_memory(rgb, values) else rgb


def is_many(images: Any) -> bool:
    """Tell whether this stands for several images.

    That is the case for a folder, a glob, an array or tensor of four dimensions, a list, a
    generator, and any other iterable except bytes, mappings and open files.
    """
    if isinstance(images, OneFile):
        return False
    if isinstance(images, str | os.PathLike):
        return _names_many(images, brackets=isinstance(images, str))
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim == 4
    one = isinstance(images, bytes | bytearray | memoryview | Mapping) or hasattr(images, "read")
    return isinstance(images, Iterable) and not one


def _names_many(path: str | os.PathLike[str], *, brackets: bool) -> bool:
    """Tell whether a path stands for several files: a folder, or a glob that names no file itself.

    brackets: whether `[` alone makes a glob. Files often have brackets in their names, and such a
    file that is missing must not become another one.
    """
    text = os.path.expanduser(os.fsdecode(path))
    is_glob = any(sign in text for sign in "*?") or (brackets and glob.has_magic(text))
    return os.path.isdir(text) or (is_glob and not os.path.exists(text))


def each_image(images: Any) -> Iterator[Any]:
    """Yield the images one by one.

    A folder or glob, even inside a list, stands for its files, without videos; a `OneFile` is one
    file, and so is a path inside a list that has brackets, but neither `*` nor `?`. Where an entry
    of a list stands for no image, its `UserError` is yielded, which `to_array` raises. Arrays,
    tensors and buffers are copied, and PIL images and open files are read at once, except for an
    `OwnFile`: a generator may write the next image into the same memory, or move the same file on,
    before this one is used. Raises `UserError` for a single folder or glob without images, for a
    set, and for anything that is neither a path nor several images, see `is_many`.
    """
    if isinstance(images, np.ndarray | Tensor) and not is_many(images):
        raise UserValueError(
            f"an array of shape {tuple(images.shape)} is not a list of images, which would have "
            "four dimensions; give [image], or list(images)"
        )
    if isinstance(images, str | os.PathLike):
        yield from _files(images) if is_many(images) else [images]
        return
    if not is_many(images):
        raise UserValueError(
            f"several images were expected, got {type(images).__name__}; give a list of images, a "
            "generator or a folder"
        )
    if isinstance(images, set | frozenset):
        raise UserValueError("a set of images has no order; give a list, such as sorted(images)")
    for entry in images:
        is_path = isinstance(entry, str | os.PathLike) and not isinstance(entry, OneFile)
        if is_path and _names_many(entry, brackets=False):
            try:
                yield from _files(entry)
            except UserError as error:
                yield error
        elif isinstance(entry, np.ndarray):
            yield entry.copy()
        elif isinstance(entry, Tensor):
            yield entry.clone()
        elif isinstance(entry, bytearray | memoryview):
            yield bytes(entry)
        elif isinstance(entry, str | os.PathLike | bytes | OwnFile):
            yield entry
        else:
            yield _held(entry)


def _held(entry: Any) -> HeldImage | UserError:
    """Read a PIL image or an open file; return its `UserError` if that fails."""
    try:
        return HeldImage(to_array(entry), file_name(entry))
    except UserError as error:
        return error


def _files(entry: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a folder or glob; raise `UserError` if there is none."""
    found = [path for path in list_images([os.fsdecode(entry)]) if not is_video(path)]
    if not found:
        raise UserValueError(f"{entry}: holds only videos; give each of them to track")
    return found


def _refuse_address(text: str) -> None:
    if ADDRESS.match(text) and not Path(text).exists():
        raise UserValueError(
            f"{text}: an address, which is not followed; download the image and give its file"
        )
