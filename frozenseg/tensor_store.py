"""Cache files of tensors, with a checksum that proves their content.

A file is written completely or not at all and is never changed, so processes may share a folder. A
file that is damaged, or that has the name of another, is reported in a warning and counts as
absent.
"""

import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from frozenseg.files import UNREADABLE, atomic_path

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
FORMAT = "1"  # the version of what a checksum covers; files of other versions count as absent


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in their own types, with a checksum and their memory layout."""
    layout = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    stored = {
        name: (tensor.permute(0, 2, 3, 1) if name in layout else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    about = {"format": FORMAT, "channels_last": " ".join(layout)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, {**about, "crc32": str(checksum(path, stored, about))})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors that `write_tensors` wrote, on the CPU; None if no usable file exists."""
    if not path.exists():
        return None
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            # The tensors are copied: if a mapped file were truncated, an access would end the
            # process. Copies are also aligned in memory as any tensor is, so that a matrix product
            # takes the same path through the kernels.
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        _warn_of_damage(path, error)
        return None
    if about.pop("format", None) != FORMAT:
        return None
    about = {"format": FORMAT, **about}
    if about.pop("crc32", None) != str(checksum(path, stored, about)):
        _warn_of_damage(path, "wrong checksum")
        return None
    # With a different memory layout, a convolution would use another kernel and round differently.
    for name in about.get("channels_last", "").split():
        if name not in stored or stored[name].dim() != 4:
            _warn_of_damage(path, f"the layout of {name!r}")
            return None
        stored[name] = stored[name].permute(0, 3, 1, 2)
    return stored


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file, without reading the tensors.

    The list is empty if the file cannot be read or is of another format.
    """
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            return list(file.keys()) if (file.metadata() or {}).get("format") == FORMAT else []
    except UNREADABLE as error:
        _warn_of_damage(path, error)
        return []


def checksum(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """Return a CRC-32 over all that identifies a file.

    It covers the names of the folder and of the file, the metadata `about`, and the names, types,
    shapes and values of the tensors, which must be contiguous and on the CPU.
    """
    value = zlib.crc32(f"{path.parent.name} {path.stem} {sorted(about.items())}".encode())
    for name, tensor in sorted(tensors.items()):
        kind = f"{name!r} {tensor.dtype} {tuple(tensor.shape)}"
        value = zlib.crc32(kind.encode("utf-8", "backslashreplace"), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def folder_bytes(folder: Path) -> int:
    """Return the size in bytes of all files below a folder."""
    return sum(size for _, size, _ in _files(folder))


def prune(folder: Path, limit: int) -> None:
    """If the files below a folder exceed `limit` bytes, remove the oldest down to half the limit.

    A process that has a removed file open can still read it.
    """
    files = sorted(_files(folder))
    held = sum(size for _, size, _ in files)
    if held <= limit:
        return
    for _, size, path in files:
        if held <= limit // 2:
            break
        try:
            os.unlink(path)
        except OSError as error:
            logger.warning("cache %s: cannot be removed (%s)", path, error.strerror)
            return
        held -= size
    logger.info("cache %s: was above %g GB, so older files were removed", folder, limit / 1e9)


def _files(folder: Path) -> list[tuple[float, int, str]]:
    """Return the modification time, size and path of each file.

    Files that are removed during the search are left out.
    """
    found = []
    for inner, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(inner, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            found.append((status.st_mtime, status.st_size, path))
    return found


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise OSError("no regular file")


def _warn_of_damage(path: Path, reason: object) -> None:
    logger.warning("cache %s: damaged and left aside (%s)", path, reason)


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
