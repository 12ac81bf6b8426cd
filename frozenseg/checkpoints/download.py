"""Download published weights on request: interrupted downloads are resumed, and files are checked.

Nothing is downloaded unless the user asks for it. A file gets its final name only after its size
and its SHA-256 have been checked, as far as they are known
(`frozenseg.checkpoints.published_files`). Where no digest is known, the file must begin and end as
a file of tensors does.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from frozenseg.checkpoints.hub import fetch_hub_file
from frozenseg.checkpoints.published_files import PublishedFile
from frozenseg.checkpoints.resuming import Remote, fetched
from frozenseg.checkpoints.tensor_files import check_whole
from frozenseg.errors import UserError
from frozenseg.files import sha256_of, writing

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
DRIVE_PAGE = "https://drive.google.com/file/d/"


@dataclass(frozen=True)
class Download:
    """A published file that is on this machine.

    path: where the file is. sha256: its digest. checked: whether the digest was compared with a
    published one; False if none is published.
    """

    path: Path
    sha256: str
    checked: bool


def download(row: PublishedFile) -> Download:
    """Fetch a file, or check the one that is already here; shows a progress bar on standard error.

    A download that was interrupted earlier is resumed. Raises `UserError` for a connection that
    fails or breaks, for a file that is not the published one, and for a web page in place of the
    file.
    """
    if row.on_hub is not None:
        path, sha256, checked = fetch_hub_file(*row.on_hub)
        return Download(path, sha256, checked)
    if row.path.is_file():
        return _checked(row, row.path)
    part = row.path.with_name(f"{row.saved_as}.part")
    with fetched(_remote(row), part):
        done = _checked(row, part)
        with writing(row.path):
            os.replace(part, row.path)
    return Download(row.path, done.sha256, done.checked)


def _remote(row: PublishedFile) -> Remote:
    if not row.address.startswith("drive:"):
        return Remote(url=row.address, said=row.address, size=row.size)
    drive_id = row.address.removeprefix("drive:")
    page = (
        "Google Drive gave a web page instead of the file (it asks for confirmation, or too many "
        f"people fetched the file today); open {DRIVE_PAGE}{drive_id} in a browser, and save the "
        f"file as {row.path}"
    )
    return Remote(url=f"{DRIVE}{drive_id}", said=row.address, size=row.size, page=page)


def _checked(row: PublishedFile, path: Path) -> Download:
    """Check a complete file against the published size and digest; raises `UserError` if wrong.

    A wrong file is deleted if it is the part of a download, because resuming it could never yield
    the published file.
    """
    size, remedy = path.stat().st_size, "fetch it again"
    sha256 = "" if row.size not in (None, size) else sha256_of(path)
    wrong = ""
    if not sha256:
        wrong = f"has {size:,} bytes, but the published file has {row.size:,}"
    elif row.sha256 and sha256 != row.sha256:
        wrong = f"has the SHA-256 {sha256}, but the published file has {row.sha256}"
    elif not row.sha256 and not _is_tensors(path):
        wrong = f"has {size:,} bytes that are not a complete file of tensors"
    if not wrong:
        return Download(path, sha256, bool(row.sha256))
    if path == row.path:
        remedy = "move it away, and fetch it again"
    else:
        path.unlink()
    raise UserError(f"{path}: is not the published file: it {wrong}; {remedy}")


def _is_tensors(path: Path) -> bool:
    try:
        check_whole(path)
    except UserError:
        return False
    return True
