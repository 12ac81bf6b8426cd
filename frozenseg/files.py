"""Read and write files so that a killed run never leaves a partial file that looks complete."""

import errno
import hashlib
import io
import json
import math
import os
import re
import struct
import tempfile
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from frozenseg.errors import UserError, WriteError

# What libraries raise for a file that is damaged or of another format: their readers do not check
# the content, so the first error may be of almost any type.
UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, ArithmeticError, MemoryError, ImportError, NameError, SyntaxError),
    *(struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError, SafetensorError),
)
# Errors of file systems that do not support locks, such as some network and overlay file systems.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a single letter would be a Windows drive
RANDOM_CHARACTERS = 8  # the number of random characters that `tempfile` puts into a name
SURELY_DEAD = 3600.0  # after so many seconds without a change, a temporary file is abandoned
PACKAGED = "frozenseg://"  # prefix of the name of a file that ships with the package
LONGEST_PREFIX, LONGEST_SUFFIX = 16, 16  # characters of the path's name kept in a temporary name
REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "it is a folder: choose another name",
    errno.EACCES: "choose another place, or ask for write permission there",
    errno.EROFS: "choose another place",
    errno.ENOENT: "choose another place",
    errno.ENOTDIR: "it is not a folder: choose another place",
    errno.EEXIST: "it is not a folder: choose another place",
}


def resolve_packaged_path(name: str) -> str:
    """Turn `frozenseg://small/clip.safetensors` into a path; return other names as they are."""
    if not name.startswith(PACKAGED):
        return name
    if ".." in Path(name.removeprefix(PACKAGED)).parts:
        raise UserError(f"{name}: leads out of the package; give a plain path")
    return str(resources.files("frozenseg") / "model_zoo" / name.removeprefix(PACKAGED))


def shipped(name: str) -> Path:
    """Return the path of a folder that ships with the package: configs, demo or datasets.

    In a wheel it is inside the package; in a checkout of the repository it is beside the package.
    """
    package = Path(str(resources.files("frozenseg")))
    return package / name if (package / name).is_dir() else package.parent / name


def is_address(text: str) -> bool:
    """Tell whether a text is an address such as s3://bucket/name."""
    return bool(_ADDRESS.match(text))


def user_path(name: str | os.PathLike[str]) -> Path:
    """Turn a user's text into a path; "~" stands for the home folder, as in a shell."""
    text = os.fspath(name)
    if not text:  # `Path("")` would be the working folder
        raise UserError("the name of a file or folder is empty (an unset variable?); give one")
    if "\0" in text:
        raise UserError(f"{text!r}: has a null character; remove it")
    if is_address(text):
        raise UserError(f"{text}: an address; fetch the file first and give its path")
    path = os.path.expanduser(text)
    if text.split(os.sep)[0] == "~" and path == text:
        raise UserError(f"{text}: there is no home folder (HOME is not set); give the full path")
    return Path(path)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a full disk, a lack of permission and the like into a `WriteError`.

    The `WriteError` names `path`, or its parent folder that cannot be made. An error about an
    unrelated file, such as one that the block reads, is raised unchanged, and so is a `UserError`.
    """
    try:
        yield
    except UserError:  # that of a missing file is an `OSError` too
        raise
    except SafetensorError as error:  # the library raises it in place of an OSError
        raise WriteError(_cannot_write(path, str(error))) from None
    except OSError as error:
        if not _is_about(error.filename, Path(path)):
            raise
        if error.filename and Path(error.filename) in Path(path).parents:
            path = error.filename  # the problem is this parent folder
        raise WriteError(_cannot_write(path, error.strerror or str(error), error.errno)) from None


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because writers such as Pillow choose their
    format by it, but only the beginning of a long name. Two processes may write the same path,
    because each has its own temporary file. Raises `WriteError` for a full disk and the like. A
    device or a pipe, such as /dev/stdout, is written to directly.
    """
    path = Path(path)
    with writing(path):
        if _is_device(path):
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(path)
        try:
            yield temporary
            # mkstemp makes files that only their owner may read.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `WriteError` if no file can be written at `path`; to be called before long work begins.

    To find out, a temporary file is written beside `path` and removed.
    """
    path = Path(path)
    with writing(path):
        if _is_device(path):
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # the name itself may be too long, unlike the temporary name
            path.touch()
            path.unlink()
        temporary = _temporary_beside(path)
        try:
            temporary.write_bytes(bytes(4096))  # even a full disk has room for an empty file
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, name: str, *, alone: bool) -> None:
    """Remove temporary files of `atomic_path` that killed processes have left behind.

    name: the name of the file that was being written, or a pattern such as `*.png`.
    alone: whether no other process can be writing such files now. If one can, temporary files that
        were changed in the last hour are kept.
    """
    prefix, suffix = _temporary_name(folder / name)
    for path in folder.glob(f"{prefix}{'[a-z0-9_]' * RANDOM_CHARACTERS}{suffix}"):
        with suppress(FileNotFoundError):  # another process may remove it at the same time
            if alone or time.time() - path.stat().st_mtime > SURELY_DEAD:
                path.unlink()


def write_torch(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as `torch.save` does, atomically, and flush it to the disk.

    The file is built in memory first, because torch's own file writer reports a full disk as a
    `RuntimeError` about the inner layout of the file.
    """
    import torch

    whole = io.BytesIO()
    torch.save(content, whole)
    write_whole(path, whole.getbuffer())


def write_whole(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write bytes atomically and flush them to the disk."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, atomically; NaN and infinity become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value, indent) + "\n", encoding="utf-8")


def write_json_pieces(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as JSON, atomically; iterators in it are written entry by entry as lists.

    The entries of an iterator are never in memory together.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(_pieces(value))
        file.write("\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """Encode `value` as JSON. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _pieces(value: Any) -> Iterator[str]:
    """Encode `value` as JSON piece by piece; iterators in it become lists."""
    if not _is_lazy(value):
        yield json_text(value)
    elif isinstance(value, Mapping):
        for number, (key, entry) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(key)}: "
            yield from _pieces(entry)
        yield "}"
    else:
        yield "["
        for number, entry in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(entry)
        yield "]"


def _is_lazy(value: Any) -> bool:
    """Return whether `value` is an iterator, or a mapping that contains one."""
    if isinstance(value, Mapping):
        return any(map(_is_lazy, value.values()))
    return isinstance(value, Iterator)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # numpy has integers of its own
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    return value


def read_text(path: str | os.PathLike[str]) -> str:
    """Read text in UTF-8, without a byte order mark; raise `UserError` if that is impossible."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, a file was expected") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; raise `UserError` if it is missing or damaged.

    A byte order mark is ignored. A key that occurs twice in one object is refused, because other
    readers would silently keep the last value. Text with half a character (a lone surrogate) is
    refused too, because it can be neither a file name nor printed to a terminal.
    """
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UserError(f"{path}: holds half a character (a lone surrogate); correct it") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be data; is it the right file?") from None
    except ValueError as error:  # a `JSONDecodeError`, a repeated key, a number of 5,000 digits
        raise UserError(f"{path}: not valid JSON ({error}); copy or make the file again") from None


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} occurs twice in one object")
    return found


def read_arrays(path: str | os.PathLike[str], remedy: str = "copy it again") -> dict[str, Any]:
    """Read the arrays of a .npz file; raise `UserError` if it is missing or damaged.

    remedy: ends the error message.
    """
    import numpy as np  # importing the package must not load it

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a complete .npz file ({error}); {remedy}") from None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _temporary_beside(path: Path) -> Path:
    """Make a new hidden file in the folder of `path`, with the same suffix and a short name."""
    prefix, suffix = _temporary_name(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)
    os.close(handle)
    return path.with_name(os.path.basename(name))  # relative if `path` is; mkstemp's is absolute


def _temporary_name(path: Path) -> tuple[str, str]:
    """Return the beginning and the end of a temporary name for `path`."""
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    return f".{path.stem[:LONGEST_PREFIX]}.", suffix


def _cannot_write(path: str | os.PathLike[str], reason: str, number: int | None = None) -> str:
    first_line = reason.partition("\n")[0]
    remedy = REMEDIES.get(number or 0, "make room there, or choose another place")
    return f"{path}: cannot be written ({first_line}); {remedy}"


def _is_about(filename: Any, path: Path) -> bool:
    """Return whether an error is about `path`, a parent folder or a temporary file beside it.

    An error of the device, such as a full disk, names no file and counts as well.
    """
    if not isinstance(filename, str | os.PathLike):
        return True
    named = Path(filename)
    is_temporary = named.parent == path.parent and named.name.startswith(".")
    return is_temporary or named == path or named in path.parents


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
