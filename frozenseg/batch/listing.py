"""Find the images in the inputs of a batch run: folders, globs, lists, tar files, URLs."""

import glob
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from frozenseg.batch.items import MISSING, Item, file_system
from frozenseg.data.image_files import image_suffixes, is_video, list_images
from frozenseg.errors import UserError, import_extra, one_line, reason_of
from frozenseg.files import is_address, read_text
from frozenseg.notes import note

LISTS = (".txt", ".lst")
MOST_LINKS = 40  # links in a chain, as many as Linux follows
COLUMNS = ("path", "file_name", "url")  # the first of these columns in a Parquet list is read

_Bytes = tuple[int, int]  # where the bytes of a member of a tar file begin, and how many they are


def list_items(inputs: list[str], leave_out: Path | None = None) -> Iterator[Item]:
    """Yield the images in the inputs, each once, in the order of the inputs.

    An input is a folder, which is searched with its subfolders; a glob; a file, which may be an
    image, a tar file of images, or a list of files (.txt or .lst with one path per line, .parquet
    with one of `COLUMNS`); or the URL of any of these except a list. Raises `UserError` for an
    input without an image.

    leave_out: a folder that is not searched.
    """
    seen: set[str] = set()
    for entry in inputs:
        for path, size, time in _files(entry, leave_out):
            if path in seen:
                continue
            seen.add(path)
            if not _has_text_name(path):
                continue
            if path.lower().endswith(".tar"):
                yield from _members(path, time)
            elif is_video(Path(path)):
                note(f"{path}: is a video and is left out; frozenseg demo segments videos")
            else:
                yield Item(path, size=size, mtime_ns=time)


def _has_text_name(path: str) -> bool:
    """Whether a name can be stored in a manifest; a warning names one that cannot."""
    try:
        path.encode()
    except UnicodeEncodeError:
        note(one_line(f"{path}: left out, because its name is not valid UTF-8; rename it"))
        return False
    return True


def _files(entry: str, leave_out: Path | None) -> Iterator[tuple[str, int, int]]:
    """Yield the absolute paths or the URLs of files, their sizes in bytes and their times."""
    suffix = Path(entry).suffix.lower()
    if is_address(entry):
        yield from _remote(entry)
    elif suffix in (*LISTS, ".parquet"):
        folder = os.path.dirname(os.path.abspath(os.path.expanduser(entry)))
        names = _listed(entry) if suffix in LISTS else _column(entry)
        for name in names:
            # A `Path` drops the "./" that some lists begin names with, so that equal files have
            # equal names.
            path = name if is_address(name) else str(Path(folder, os.path.expanduser(name)))
            yield path, *_size_and_time(path)
    else:
        for found in list_images([entry], recursive=True, leave_out=leave_out):
            path = os.path.abspath(found)
            yield path, *_size_and_time(path)


def _size_and_time(path: str) -> tuple[int, int]:
    """Return the size and the time of an `Item`."""
    try:
        if is_address(path):
            return file_system(path)[0].size(path), 0
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return MISSING, 0
    except Exception as error:  # each kind of store raises its own errors
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> UserError:
    what = "the URL and your credentials" if is_address(path) else "its permissions and its drive"
    return UserError(f"{path}: cannot be read ({reason_of(error)}); check {what}")


def _listed(entry: str) -> list[str]:
    """Read the lines of a text file, without empty lines and comments."""
    text = read_text(os.path.expanduser(entry))
    lines = [line.strip() for line in text.split("\n")]  # names may hold other separators
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise UserError(f"{entry}: has no line that names an image; write one path per line")
    return names


def _column(entry: str) -> list[str]:
    pyarrow = import_extra("pyarrow", "batch", "frozenseg batch")
    parquet = import_extra("pyarrow.parquet", "batch", "frozenseg batch")
    path = os.path.expanduser(entry)
    try:
        names = parquet.read_schema(path).names
        column = next((name for name in COLUMNS if name in names), None)
        if column is None:
            raise UserError(
                f"{entry}: has the columns {', '.join(names)}; rename the one with the paths "
                f"to {COLUMNS[0]}"
            )
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{entry}: cannot be read as Parquet ({reason_of(error)})") from None
    if not values or not all(isinstance(value, str) and value for value in values):
        raise UserError(f"{entry}: the column {column} must contain a path in each row")
    return values


def _remote(entry: str) -> Iterator[tuple[str, int, int]]:
    """List a file, a folder or a glob of a remote store in one pass, with the sizes in bytes."""
    try:
        system, path = file_system(entry)
        if glob.has_magic(path):
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            below = system.find(path, detail=True).items()
            found = {name: info for name, info in below if not _is_hidden(name.removeprefix(path))}
        else:
            found = {path: system.info(path)}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{entry}: no such file or folder; correct the URL") from None
    except Exception as error:  # each kind of store raises its own errors
        raise _unreadable(entry, error) from None
    kinds = (*image_suffixes(), ".tar")
    files = [
        (name, info)
        for name, info in sorted(found.items())
        if info["type"] == "file" and (name == path or name.lower().endswith(kinds))
    ]
    if not files:
        raise UserError(f"{entry}: holds no image and no tar file; correct the URL")
    for name, info in files:
        yield system.unstrip_protocol(name), int(info["size"] or 0), 0


def _is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, like "._a.png", which macOS adds to tars."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts if part != "..")


def _members(path: str, time: int) -> Iterator[Item]:
    """Yield the images in a tar file, whose bytes are read later, without unpacking the file.

    If several members have the same name, the last one counts, as when the file is unpacked. A link
    to a file in the archive is an image with the bytes of that file; a warning counts other links,
    and sparse files, whose bytes lie in pieces.
    """
    kinds = tuple(image_suffixes())
    found: dict[str, str] = {}  # the place of each image, by its name
    places: dict[str, _Bytes | str | None] = {}
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not (member.isfile() or member.islnk() or member.issym()):
                    continue
                place = posixpath.normpath(member.name)
                places[place] = _content(member, places)
                is_image = PurePosixPath(member.name).suffix.lower() in kinds
                if is_image and not _is_hidden(member.name):
                    found[f"{path}/{member.name.removeprefix('./')}"] = place
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the list") from None
    # Wrong numbers in a damaged file may cause a `ValueError` or an `OverflowError`.
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: not a tar file, or damaged or compressed ({error}); give plain tar files"
        ) from None
    except Exception as error:  # each kind of store raises its own errors
        raise _unreadable(path, error) from None
    contents = {name: _followed(places, place) for name, place in found.items()}
    if lost := sum(content is None for content in contents.values()):
        note(f"{path}: {lost} links to files that are not in it, or sparse files, are left out")
    if len(contents) == lost:
        raise UserError(f"{path}: this tar file contains no image")
    for name, content in contents.items():
        if content is not None and _has_text_name(name):
            yield Item(name, path, *content, time)


def _content(
    member: tarfile.TarInfo, places: dict[str, _Bytes | str | None]
) -> _Bytes | str | None:
    """Return the bytes of a file, None for a sparse one; the target of a symbolic link, which may
    follow in the archive.

    A hard link has the content that its target has now, as when the archive is unpacked.
    """
    if member.isfile():
        return None if member.issparse() else (member.offset_data, member.size)
    if member.islnk():
        return places.get(posixpath.normpath(member.linkname))
    return posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))


def _followed(places: dict[str, _Bytes | str | None], place: str) -> _Bytes | None:
    """Return the bytes to which a chain of symbolic links leads, if it leads to any."""
    content = places[place]
    for _ in range(MOST_LINKS):
        if not isinstance(content, str):
            return content
        content = places.get(content)
    return None


def _opened(path: str) -> Any:
    if not is_address(path):
        return open(path, "rb")
    system, name = file_system(path)
    return system.open(name, "rb")
