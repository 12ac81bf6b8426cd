"""Fetch a file over HTTP into a part of it, and go on with what an earlier try has left."""

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

BLOCK = 1 << 20  # bytes that are read at once
PATIENCE = 60.0  # seconds without a byte until a connection counts as broken
TRIES = 5  # connections that may break in one call, as long as each brings bytes


class _Broken(UserError):
    """A connection has ended before the file; the part can be gone on with."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server.

    url: where it is. said: what messages and the progress bar call it.
    size: in bytes; None where it is not known.
    headers: of each request, beside our own.
    page: the message where the server gives a web page and not the file.
    """

    url: str
    said: str
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    page: str = "the server gave a page and not the file; is it reached by a proxy?"


@contextmanager
def fetched(remote: Remote, part: Path) -> Iterator[None]:
    """Append to `part` what it lacks of a file; inside, no other process touches the part.

    Where the size is not known, the version of the file that the server tells lies beside the part,
    which begins anew when the server has another. What has arrived stays in the part.

    Raises `UserError` for a connection that fails or breaks again and again, and for an answer that
    is a web page.
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
    response = _open(remote, start, _told(version) if start else "")
    if response is None:
        return
    with response:
        if "html" in (response.headers.get_content_type() or ""):
            raise UserError(f"{remote.said}: {remote.page}")
        if start and response.status != 206:  # the server sends it from its beginning
            file.truncate(0)
            start = 0
        if remote.size is None and not start:
            _tell(version, response.headers.get("ETag", ""))
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
                "command goes on from there"
            )


def _told(version: Path) -> str:
    try:
        return version.read_text(encoding="latin-1")
    except OSError:
        return ""


def _tell(version: Path, tag: str) -> None:
    """Keep the tag of a file's version; a weak one does not tell the bytes."""
    with writing(version):
        if tag.startswith('"'):
            version.write_text(tag, encoding="latin-1")
        else:
            version.unlink(missing_ok=True)


def _open(remote: Remote, start: int, version: str = "") -> HTTPResponse | None:
    """Return the answer from byte `start` on; None if the file ends there. version: the tag of what
    is here; of another one the server sends all."""
    headers = {"User-Agent": "frozenseg", **remote.headers}
    if start:
        headers["Range"] = f"bytes={start}-"
        headers |= {"If-Range": version} if version else {}
    try:
        request = urllib.request.Request(remote.url, headers=headers)
        return urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # there is no byte at this place
            whole = error.headers.get("Content-Range", "").endswith(f"/{start}")
            return None if whole else _open(remote, 0)
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
            f"{remote.said}: the connection broke ({error}); the same command goes on from there"
        ) from None


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second process from appending to the same part."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(f"{path}: another process is fetching it; wait for it") from None
        # a file system without locks: nothing else is known to write there
