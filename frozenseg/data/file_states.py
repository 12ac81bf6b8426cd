"""Tell whether a file has changed since it was read."""

import os
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

PIECE = 1 << 23  # bytes at each end of a file that the checksum covers


class Stamp(NamedTuple):
    """What the system says of a file: its size in bytes, and when its content was changed."""

    size: int
    mtime_ns: int


class FileState(NamedTuple):
    """The stamp of a file, and a checksum, which shows whether a copy has the same content.

    The checksum covers both ends of a large file only, so that no long video is read twice.
    """

    size: int
    mtime_ns: int
    crc32: int


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file; None if it is gone, or a pipe or device."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def state_of(path: Path, stamp: Stamp | None) -> FileState | None:
    """Return the state of a file; None if it is unknown.

    stamp: taken before the file was read, so that a change since then is noticed later.
    """
    try:
        return None if stamp is None else FileState(*stamp, _checksum(path))
    except OSError:
        return None


def has_changed(path: Path, state: FileState) -> bool:
    """Tell whether the content of a file has changed; it is read only if its time has.

    A file that is gone or cannot be read counts as unchanged.
    """
    stamp = stamp_of(path)
    if stamp is None or stamp == state[:2]:
        return False
    now = state_of(path, stamp)
    return now is not None and (now.size, now.crc32) != (state.size, state.crc32)


def _checksum(path: Path) -> int:
    with open(path, "rb") as file:
        value = zlib.crc32(file.read(PIECE))
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - PIECE))
        return zlib.crc32(file.read(PIECE), value)
