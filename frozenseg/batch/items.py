"""The images of a batch run: local files, members of tar files, and files of remote stores."""

import io
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from frozenseg.data.image_inputs import OneFile
from frozenseg.data.images import UnreachableFile
from frozenseg.errors import MissingFileError, UserError, import_extra
from frozenseg.files import is_address

MISSING = -1
GO_ON = "and give the same command, which goes on with the rest"


class SourceLost(UserError):
    """The place that images come from cannot be reached any more; no image of it is at fault."""


class Item(NamedTuple):
    """One image.

    path: what names it, a file, an address, or ARCHIVE/MEMBER.
    archive: the tar file or the address of one that holds it; "" if none does.
    offset: where its bytes begin in the archive.
    size: in bytes; `MISSING` if there was no such file when the manifest was made.
    """

    path: str
    archive: str = ""
    offset: int = 0
    size: int = MISSING


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it, by fsspec."""
    if "::" in address:  # what fsspec finds in it has names without the rest of the chain
        raise UserError(f"{address}: a chain of addresses; give that of plain files or tar files")
    fsspec = import_extra("fsspec", "batch", address)
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:  # each store has a package of its own
        raise UserError(f"{address}: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{address}: {error}; give a path or an address that fsspec knows"
        ) from None


def source_of(item: Item) -> Any:
    """Return the image in a form that `Predictor.stream` takes; what is not a plain file is fetched
    by the thread that decodes it."""
    if item.size == MISSING:
        return _Fetched(item.path, partial(_missing, item))
    if item.archive or is_address(item.path):
        return _Fetched(item.path, partial(_fetch, item))
    return OneFile(item.path)


def check_source(item: Item, error: UserError) -> None:
    """Raise `SourceLost` if an image could not be read because the place that it comes from is
    gone: it does not answer, or the folder is gone or empty, as that of a drive that was taken
    away."""
    if isinstance(error, SourceLost):
        raise error
    if isinstance(error, UnreachableFile):
        raise SourceLost(f"{error}, {GO_ON}")
    local = not item.archive and not is_address(item.path)
    if local and item.size != MISSING:
        _check_folder(Path(item.path).parent)


def _check_folder(folder: Path) -> None:
    try:
        with os.scandir(folder) as entries:  # a folder of millions is not read to its end
            if any(entries):
                return
    except PermissionError:  # files in it may be read
        return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _lost(str(folder), reason_of(error)) from None
    deleted = "bring it back, or where its images were deleted make it with any file in it,"
    raise _lost(str(folder), "no such folder, or an empty one", deleted)


def _missing(item: Item) -> bytes:
    raise MissingFileError(f"{item.path}: no such file when the manifest was made")


def _fetch(item: Item) -> bytes:
    place = item.archive or item.path
    try:
        if is_address(place):
            system, path = file_system(place)
            end = item.offset + item.size if item.archive else None
            return bytes(system.cat_file(path, start=item.offset or None, end=end))
        with open(place, "rb") as file:
            file.seek(item.offset)
            return file.read(item.size)
    except UserError as error:  # no package for the store, which is no fault of the image
        raise SourceLost(f"{error}, {GO_ON}") from None
    except FileNotFoundError:
        if item.archive:
            raise _lost(place, "no such file") from None
        raise MissingFileError(f"{item.path}: no such file") from None
    except Exception as error:  # every store has errors of its own
        raise _lost(place, reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """Say in a few words why a file system or a store could not do what it was asked for."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _lost(place: str, reason: str, remedy: str = "bring it back") -> SourceLost:
    return SourceLost(f"{place}: cannot be reached any more ({reason}); {remedy} {GO_ON}")


class _Fetched(io.RawIOBase):
    """A binary file whose bytes are fetched when they are first asked for."""

    def __init__(self, name: str, fetch: Any) -> None:
        self.name = os.fspath(name)
        self._fetch = fetch
        self._content: io.BytesIO | None = None

    @property
    def content(self) -> io.BytesIO:
        if self._content is None:
            self._content = io.BytesIO(self._fetch())
        return self._content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.content.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.content.seek(offset, whence)

    def tell(self) -> int:
        return self.content.tell()
