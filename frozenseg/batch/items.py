"""The images of a batch run: local files, members of tar files, and files of remote stores."""

import io
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from frozenseg.data.image_inputs import OneFile, OwnFile
from frozenseg.data.images import UnreachableFile
from frozenseg.errors import MissingFileError, UserError, import_extra, reason_of
from frozenseg.files import is_address

MISSING = -1
CONTINUE = "and give the same command, which continues with the rest"


class SourceLost(UserError):
    """The source of images can no longer be reached, so the error is not that of an image."""


class Item(NamedTuple):
    """One image.

    path: its name: the path of a file, a URL, or ARCHIVE/MEMBER.
    archive: the path or URL of the tar file that holds it; "" if it is not in an archive.
    offset: the position in the archive at which its bytes begin.
    size: in bytes; `MISSING` if the file did not exist when the manifest was made.
    mtime_ns: when the file, or the archive, was changed; 0 if that is unknown, as in a store.
    """

    path: str
    archive: str = ""
    offset: int = 0
    size: int = MISSING
    mtime_ns: int = 0


def file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it."""
    if "::" in address:  # fsspec would return names that lack the rest of the chain
        raise UserError(f"{address}: a chain of URLs; give the URL of plain files or tar files")
    fsspec = import_extra("fsspec", "batch", address)
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:  # each kind of store needs its own package
        raise UserError(f"{address}: {error}") from None
    except ValueError as error:
        raise UserError(f"{address}: {error}; give a path or a URL that fsspec supports") from None


def source_of(item: Item) -> Any:
    """Return the image in a form that `Predictor.stream` takes.

    If it is not a plain file, the thread that decodes it fetches its bytes.
    """
    if item.size == MISSING:
        return _Fetched(item.path, partial(_missing, item))
    if item.archive or is_address(item.path):
        return _Fetched(item.path, partial(_fetch, item))
    return OneFile(item.path)


def check_source(item: Item, error: UserError) -> None:
    """Raise `SourceLost` if an image could not be read because its source is gone.

    That is the case if a store does not answer, or if the folder of the image is missing or empty,
    as after a drive was removed.

    error: the error that occurred when the image was read.
    """
    if isinstance(error, SourceLost):
        raise error
    if isinstance(error, UnreachableFile):
        raise SourceLost(f"{error}, {CONTINUE}")
    local = not item.archive and not is_address(item.path)
    if local and item.size != MISSING:
        _check_folder(Path(item.path).parent)


def _check_folder(folder: Path) -> None:
    try:
        with os.scandir(folder) as entries:  # stops at the first entry of a large folder
            if any(entries):
                return
    except PermissionError:  # the folder cannot be listed, but its files may be readable
        return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _lost(str(folder), reason_of(error)) from None
    remedy = "restore it or, if its images were deleted on purpose, put any file there,"
    raise _lost(str(folder), "the folder is missing or empty", remedy)


def _missing(item: Item) -> bytes:
    raise MissingFileError(f"{item.path}: did not exist when the manifest was made")


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
    except UserError as error:  # the store's package is missing; the image is not at fault
        raise SourceLost(f"{error}, {CONTINUE}") from None
    except FileNotFoundError:
        if item.archive:
            raise _lost(place, "no such file") from None
        raise MissingFileError(f"{item.path}: no such file") from None
    except Exception as error:  # each kind of store raises its own errors
        raise _lost(place, reason_of(error)) from None


def _lost(place: str, reason: str, remedy: str = "restore it") -> SourceLost:
    return SourceLost(f"{place}: can no longer be reached ({reason}); {remedy} {CONTINUE}")


class _Fetched(OwnFile):
    """A binary file whose bytes are fetched when they are first needed."""

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
