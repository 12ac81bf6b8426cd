"""Files of tensors that only save time, the caches: each proves that it is what was written.

A file is written whole or not at all and never changed, so processes may share a folder. One that
is damaged, or that stands under the name of another, is named in a warning and counts as absent.
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
FORMAT = "1"  # of what a checksum covers; files of another format count as absent


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in their own types, with a checksum and their layout in memory."""
    layout = [name for name, tensor in tensors.items() if _is_channels_last(tensor)]
    stored = {
        name: (tensor.permute(0, 2, 3, 1) if name in layout else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    about = {"format": FORMAT, "channels_last": " ".join(layout)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, {**about, "crc32": str(checksum(path, stored, about))})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors that `write_tensors` has written, on the CPU; None without a file to
    use."""
    if not path.exists():
        return None
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            # Copies: a file that is cut short while it is mapped would end the process. They also
            # begin where any tensor does, and so go the same way through a product.
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
    # With another layout a convolution takes another path and rounds differently.
    for name in about.get("channels_last", "").split():
        if name not in stored or stored[name].dim() != 4:
            _warn_of_damage(path, f"the layout of {name!r}")
            return None
        stored[name] = stored[name].permute(0, 3, 1, 2)
    return stored


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file, which are not read; none if it is no such file."""
    try:
        _require_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            return list(file.keys()) if (file.metadata() or {}).get("format") == FORMAT else []
    except UNREADABLE as error:
        _warn_of_damage(path, error)
        return []


def checksum(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """Return a CRC-32 of all that a file is: its folder and name, and its tensors, contiguous on
    the CPU, with their names, types and shapes."""
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
    """If the files below a folder have more than `limit` bytes, remove the oldest until they have
    half of that. Files that other processes read meanwhile stay readable for these."""
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
    logger.info("cache %s: older files removed, it had more than %g GB", folder, limit / 1e9)


def _files(folder: Path) -> list[tuple[float, int, str]]:
    """Time of writing, size and path of each file; files removed meanwhile are left out."""
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
    if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
        raise OSError("no regular file")


def _warn_of_damage(path: Path, reason: object) -> None:
    logger.warning("cache %s: damaged and left aside (%s)", path, reason)


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
