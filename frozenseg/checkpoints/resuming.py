"""Download a file over HTTP, and resume the partial file that an earlier attempt has left."""

import errno
import fcntl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from frozenseg.errors import UserError
from frozenseg.files import writing

BLOCK = 1 << 20  # the maximum number of bytes that are read at once
PATIENCE = 60.0  # seconds without any data after which a connection counts as broken
TRIES = 5  # connections that are tried in one call, as long as each of them brings some data


class _Broken(UserError):
    """A connection ended before the file was complete; the download can be resumed."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server.

    url: its address.
    said: its name in messages and in the progress bar.
    size: its size in bytes; None if it is not known.
    headers: headers to add to each request.
    page: the error message if the server sends a web page instead of the file.
    """

    url: str
    said: str
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: str = "the server gave a page instead of the file; is it reached through a proxy?"


@contextmanager
def fetched(remote: Remote, part: Path) -> Iterator[None]:
    """Append to the file `part` what it still lacks; no other process touches it in the meantime.

    The lock on `part` lasts until the end of the `with` block. If the size of the file is not
    known, its version, as the server states it (the ETag), is stored beside `part`; if the server
    has another version by now, the download starts from the beginning. After an error, the data
    that has arrived stays in `part`.

    Raises `UserError` for a connection that fails or breaks repeatedly, and for a web page in place
    of the file.
    """
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, "ab")
    with file:
        _lock(file, part)
        version = part.with_name(f"{part.name}.version")
        for tried in range(1, TRIES + 1):
            before = file.tell()
            try:
                _fetch(remote, file, version)
                break
            except _Broken:
                if tried == TRIES or file.tell() <= before:
                    raise
        with writing(part):
            file.flush()
            version.unlink(missing_ok=True)
        yield


def _fetch(remote: Remote, file: BinaryIO, version: Path) -> None:
    start = file.tell()
    if start and start == remote.size:
        return
    response = _open(remote, start, _read_version(version) if start else "")
    if response is None:
        return
    with response:
        if "html" in (response.headers.get_content_type() or ""):
            raise UserError(f"{remote.said}: {remote.page}")
        if start and response.status != 206:  # the server sends the file from its beginning
            file.truncate(0)
            file.seek(0)  # otherwise `tell` would count the removed bytes until the next flush
            start = 0
        if remote.size is None and not start:
            _write_version(version, response.headers.get("ETag", ""))
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else remote.size
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=remote.said, leave=False
        )
        with bar:
            for block in _blocks(response, remote):
                with writing(file.name):
                    file.write(block)
                bar.update(len(block))
        if total is not None and file.tell() < total:
            raise _Broken(
                f"{remote.said}: broke off after {file.tell():,} of {total:,} bytes; the same "
                "command continues from there"
            )


def _read_version(version: Path) -> str:
    try:
        return version.read_text(encoding="latin-1")
    except OSError:
        return ""


def _write_version(version: Path, tag: str) -> None:
    """Store the ETag of a file; a weak one is not stored, since it does not identify the bytes."""
    with writing(version):
        if tag.startswith('"'):
            version.write_text(tag, encoding="latin-1")
        else:
            version.unlink(missing_ok=True)


def _open(remote: Remote, start: int, version: str = "") -> HTTPResponse | None:
    """Return the response with the file from byte `start` on; None if the file ends there.

    version: the ETag of the part that is here; if the server has another version, it sends the
    entire file. "" sends no ETag.
    """
    headers = {"User-Agent": "frozenseg", **remote.headers}
    if start:
        headers["Range"] = f"bytes={start}-"
        headers |= {"If-Range": version} if version else {}
    try:
        request = urllib.request.Request(remote.url, headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # the file has no byte at this position
            is_complete = error.headers.get("Content-Range", "").endswith(f"/{start}")
            return None if is_complete else _open(remote, 0)
        raise UserError(f"{remote.said}: the server answers {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{remote.said}: cannot be reached ({reason}); try again later") from None


def _blocks(response: HTTPResponse, remote: Remote) -> Iterator[bytes]:
    try:
        while block := response.read1(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise _Broken(
            f"{remote.said}: the connection broke ({error}); the same command continues from there"
        ) from None


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second process from appending to the same part."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(f"{path}: another process is fetching it; wait for it") from None
        # Other errors mean a file system without locks; the download then proceeds without one.
