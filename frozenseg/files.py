"""Reading and writing files so that a killed run never leaves half a file that looks whole."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from frozenseg.errors import UserError

PACKAGED = "frozenseg://"  # names a file that ships with the package


def local_path(name: str) -> str:
    """`frozenseg://small/clip.safetensors` as a path into the package; other names as they are."""
    if not name.startswith(PACKAGED):
        return name
    return str(resources.files("frozenseg") / "model_zoo" / name.removeprefix(PACKAGED))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because writers such as Pillow choose their
    format by it. Two processes that write the same path do not meet: each has its own temporary
    file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
