"""Reading files of tensors without executing code; a bad file gives one line with the remedy.

Published weights come as safetensors or as `torch.save` files, of today's format (a zip archive) or
of the old one (a pickle). A download that failed leaves a web page or half a file under their name.
"""

import codecs
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for all that `weights_only` refuses
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from frozenseg.errors import UserError, one_line
from frozenseg.files import UNREADABLE

# detectron2 keeps the schedule's numbers beside the weights, as numpy scalars; building these runs
# no code of a file. Both names of the module are met: numpy 1 and 2.
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
    """Whether the name or the first bytes (the length of a JSON header, and its brace) say so;
    raises `UserError` for what is no file, or may not be read."""
    _check_file(path, "weights")
    if path.suffix.lower() == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: Path, what: str = "weights") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU. what: the first word of error
    messages."""
    _check_file(path, what)
    try:
        return load_file(path)
    except UNREADABLE as error:
        raise UserError(
            f"{what} {path}: damaged or no safetensors file ({_first_line(error)}); get it anew"
        ) from None


def read_torch(path: Path, what: str = "weights") -> Any:
    """Return the content of a `torch.save` file, on the CPU; more than tensors and numbers is an
    error."""
    _check_file(path, what)
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path, what)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(
            f"{what} {path}: no checkpoint, or one that holds more than tensors and would have to "
            "execute code; save its state dict alone"
        ) from None
    except UNREADABLE as error:
        raise UserError(
            f"{what} {path}: cannot be read, perhaps not whole ({_first_line(error)}); get it anew"
        ) from None


def check_whole(path: Path, what: str = "weights") -> None:
    """Refuse what does not begin as a file of tensors does, or breaks off as far as that can be
    told without reading it: of an archive and of safetensors, not of the old pickles."""
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
        raise UserError(f"{what} {path}: damaged or not whole, or no file of tensors; get it anew")


def _has_all_tensors(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except UNREADABLE:
        return False


def _check_file(path: Path, what: str) -> None:
    """Refuse what is no file, may not be read, or begins with text as a web page does."""
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
            f"{what} {path}: damaged: a pointer of Git LFS in place of the file; get the file "
            "itself with `git lfs pull`"
        )
    if not begin or _is_text(begin):
        found = "a web page or another text in place of the file" if begin else "an empty file"
        raise UserError(
            f"{what} {path}: damaged: {found}, as a failed download leaves it; get it anew"
        )


def _is_text(begin: bytes) -> bool:
    """Whether these bytes are text; archives, pickles and safetensors begin with other bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(begin)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _check_archive(path: Path, what: str) -> None:
    """Refuse TorchScript, and an archive with a flipped bit, which torch does not notice."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                f"{what} {path}: a TorchScript archive, which is a program; take the same weights "
                "as a state dict, of OpenAI's CLIP `open_clip_model.safetensors` from the Hugging "
                "Face hub"
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{what} {path}: damaged (entry {one_line(damaged)}); get it anew")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
