"""Read files of tensors without executing code; errors about a bad file are one line with a remedy.

Published weights are safetensors files or `torch.save` files, in today's format (a zip archive) or
the old one (a pickle). A failed download may leave a web page or half a file under their name.
"""

import codecs
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # torch raises it for everything that `weights_only` refuses
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from frozenseg.errors import UserError, one_line
from frozenseg.files import UNREADABLE

# detectron2 stores the numbers of its learning-rate schedule beside the weights, as numpy scalars.
# Building these runs no code of the file. numpy 1 and numpy 2 name the module differently.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

_POINTER = b"version https://git-lfs"


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is in safetensors format, by its suffix or its first bytes.

    The format begins with the length of a JSON header (8 bytes) and the opening brace of the
    header. Raises `UserError` if there is no such file or it cannot be read.
    """
    _check_file(path, "weights")
    if path.suffix.lower() == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path, what: str = "weights") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    what: the first word of error messages. Raises `UserError` for a damaged file.
    """
    _check_file(path, what)
    try:
        return load_file(path)
    except UNREADABLE as error:
        raise UserError(
            f"{what} {path}: damaged, or not a safetensors file ({_first_line(error)}); "
            "get it again"
        ) from None


def read_torch(path: Path, what: str = "weights") -> Any:
    """Return the content of a `torch.save` file, on the CPU.

    what: the first word of error messages. Raises `UserError` for a damaged file, and for one that
    holds more than tensors and numbers.
    """
    _check_file(path, what)
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path, what)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{what} {path}: not a checkpoint, or it holds more than tensors, so that reading it "
            "would have to execute code; save only its state dict"
        ) from None
    except UNREADABLE as error:
        raise UserError(
            f"{what} {path}: cannot be read, perhaps incomplete ({_first_line(error)}); "
            "get it again"
        ) from None


def check_whole(path: Path, what: str = "weights") -> None:
    """Raise `UserError` unless a file begins as a file of tensors does and appears complete.

    Completeness can be checked without reading the tensors for zip archives and safetensors, but
    not for the old pickles. what: the first word of error messages.
    """
    _check_file(path, what)
    with open(path, "rb") as file:
        begin = file.read(9)
    if begin.startswith(b"PK\x03\x04"):
        whole = zipfile.is_zipfile(path)
    elif begin[8:] == b"{":
        whole = _has_all_tensors(path)
    else:
        whole = begin.startswith(b"\x80")  # a pickle of protocol 2 or later
    if not whole:
        raise UserError(
            f"{what} {path}: damaged or incomplete, or not a file of tensors; get it again"
        )


def _has_all_tensors(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except UNREADABLE:
        return False


def _check_file(path: Path, what: str) -> None:
    """Raise `UserError` for anything but a readable file, and for a file that begins with text, as
    a web page does."""
    try:
        if path.is_dir():
            raise UserError(f"{what} {path}: is a folder; give the file in it")
        if not path.is_file():
            raise UserError(f"{what} {path}: no such file")
        with open(path, "rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror or error})") from None
    if begin.startswith(_POINTER):
        raise UserError(
            f"{what} {path}: damaged: a Git LFS pointer in place of the file; get the file itself "
            "with `git lfs pull`"
        )
    if not begin or _is_text(begin):
        found = "a web page or other text in place of the file" if begin else "an empty file"
        raise UserError(
            f"{what} {path}: damaged: {found}, as a failed download leaves it; get it again"
        )


def _is_text(begin: bytes) -> bool:
    """Tell whether these bytes are text; archives, pickles and safetensors begin with others."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(begin)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _check_archive(path: Path, what: str) -> None:
    """Refuse TorchScript, and an archive with a flipped bit, which torch would not notice."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                f"{what} {path}: a TorchScript archive, which is a program; use the same weights "
                "as a state dict (for OpenAI's CLIP, `open_clip_model.safetensors` from the "
                "Hugging Face hub)"
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{what} {path}: damaged (entry {one_line(damaged)}); get it again")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
