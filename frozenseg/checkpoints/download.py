"""Fetch published weights when a user asks for them: resumed where it broke, checked, then renamed.

Nothing here runs by itself. A file counts only after its size and its SHA-256 have been checked as
far as they are known (`frozenseg.checkpoints.published_files`).
"""

import errno
import fcntl
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from frozenseg.checkpoints.hub import fetch_hub_file
from frozenseg.checkpoints.published_files import PublishedFile
from frozenseg.errors import UserError
from frozenseg.files import sha256_of, writing

BLOCK = 1 << 20  # bytes that are read at once
PATIENCE = 60.0  # seconds without a byte until a connection counts as broken
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
DRIVE_PAGE = "https://drive.google.com/file/d/"


@dataclass(frozen=True)
class Download:
    """A file that is here now.

    path: where it is. sha256: its digest. checked: whether that is the published one; False where
    none is published.
    """

    path: Path
    sha256: str
    checked: bool


def download(row: PublishedFile) -> Download:
    """Fetch a file, or check the one that is here; a progress bar goes to the standard error.

    Raises `UserError` for a connection that fails or breaks, for what is not the published file,
    and for an answer that is a web page. What a broken download has left is gone on with.
    """
    if row.on_hub is not None:
        path, sha256, checked = fetch_hub_file(*row.on_hub)
        return Download(path, sha256, checked)
    if row.path.is_file():
        return _checked(row, row.path)
    part = row.path.with_name(f"{row.saved_as}.part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, "ab")
    with file:
        _lock(file, part)
        _fetch(row, file)
        done = _checked(row, part)
        with writing(row.path):
            os.replace(part, row.path)
    return Download(row.path, done.sha256, done.checked)


def _address(row: PublishedFile) -> str:
    if row.address.startswith("drive:"):
        return DRIVE + row.address.removeprefix("drive:")
    return row.address


def _fetch(row: PublishedFile, file: BinaryIO) -> None:
    """Append to `file` what it lacks."""
    start = file.tell()
    if start and start == row.size:
        return
    response = _open(row, start)
    if response is None:
        return
    with response:
        if "html" in (response.headers.get_content_type() or ""):
            raise UserError(_said_page(row))
        if start and response.status != 206:  # the server sends it from its beginning
            file.truncate(0)
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else row.size
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=row.saved_as, leave=False
        )
        with bar:
            for block in _blocks(response, row):
                with writing(file.name):
                    file.write(block)
                bar.update(len(block))
        with writing(file.name):
            file.flush()
        if total is not None and file.tell() < total:
            raise UserError(
                f"{row.address}: broke off after {file.tell():,} of {total:,} bytes; the same "
                "command goes on from there"
            )


def _open(row: PublishedFile, start: int) -> HTTPResponse | None:
    """Return the answer from byte `start` on; None if the file ends there."""
    headers = {"User-Agent": "frozenseg"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(_address(row), headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # there is no byte at this place
            whole = error.headers.get("Content-Range", "").endswith(f"/{start}")
            return None if whole else _open(row, 0)
        raise UserError(f"{row.address}: the server answers {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{row.address}: cannot be reached ({reason}); try again later") from None


def _blocks(response: HTTPResponse, row: PublishedFile) -> Iterator[bytes]:
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{row.address}: the connection broke ({error}); the same command goes on from there"
        ) from None


def _said_page(row: PublishedFile) -> str:
    if row.address.startswith("drive:"):
        page = DRIVE_PAGE + row.address.removeprefix("drive:")
        return (
            f"{row.address}: Google Drive gave a page and not the file (to confirm, or because too "
            f"many fetched it today); open {page} in a browser, and save it as {row.path}"
        )
    return f"{row.address}: the server gave a page and not the file; is it reached by a proxy?"


def _checked(row: PublishedFile, path: Path) -> Download:
    """Compare a whole file with what is published; one that is not it is removed if it is a part,
    from which no later try could go on."""
    size, remedy = path.stat().st_size, "fetch it again"
    sha256 = "" if row.size not in (None, size) else sha256_of(path)
    wrong = ""
    if not sha256:
        wrong = f"has {size:,} bytes, {row.size:,} are published"
    elif row.sha256 and sha256 != row.sha256:
        wrong = f"has the SHA-256 {sha256}, published is {row.sha256}"
    if not wrong:
        return Download(path, sha256, bool(row.sha256))
    if path == row.path:
        remedy = "move it away, and fetch it again"
    else:
        path.unlink()
    raise UserError(f"{path}: is not the published file: it {wrong}; {remedy}")


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second process from appending to the same part."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(f"{path}: another process is fetching it; wait for it") from None
