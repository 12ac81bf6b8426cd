"""Reading and writing files so that a killed run never leaves half a file that looks whole."""

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from frozenseg.errors import UserError, WriteError

PACKAGED = "frozenseg://"  # names a file that ships with the package


def local_path(name: str) -> str:
    """`frozenseg://small/clip.safetensors` as a path into the package; other names as they are."""
    if not name.startswith(PACKAGED):
        return name
    return str(resources.files("frozenseg") / "model_zoo" / name.removeprefix(PACKAGED))


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a full disk, a lack of permission and their like raise inside into a `WriteError`
    that names `path`.

    An error about a file elsewhere, such as one that is read inside, goes on as it is.
    """
    try:
        yield
    except SafetensorError as error:  # no OSError, whatever the system has told the library
        raise WriteError(_cannot_write(path, str(error))) from None
    except OSError as error:
        if not _is_about(error.filename, Path(path)):
            raise
        raise WriteError(_cannot_write(path, error.strerror or str(error))) from None


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because writers such as Pillow choose their
    format by it. Two processes that write the same path do not meet: each has its own temporary
    file. A disk that is full and its like are a `WriteError`.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes files that only their owner reads
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_torch(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as `torch.save` does, atomically, and see to it that it is on the disk.

    Through memory: torch's own file writer reports a full disk as a `RuntimeError` about the file's
    inner layout.
    """
    import torch

    whole = io.BytesIO()
    torch.save(content, whole)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(whole.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = None) -> None:
    """Write `value` as JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file; a missing or damaged one is a `UserError` that names it."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, a JSON file was expected") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); copy or make the file again") from None


def _cannot_write(path: str | os.PathLike[str], reason: str) -> str:
    first_line = reason.partition("\n")[0]
    return f"{path}: cannot be written ({first_line}); make room there, or choose another place"


def _is_about(filename: Any, path: Path) -> bool:
    """Whether an error is about `path`, its folders or a temporary file beside it; one of the
    device alone, such as a full disk, names no file."""
    if not isinstance(filename, str | os.PathLike):
        return True
    named = Path(filename)
    is_temporary = named.parent == path.parent and named.name.startswith(".")
    return is_temporary or named == path or named in path.parents


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
