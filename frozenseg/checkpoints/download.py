"""Fetch published weights when a user asks for them: resumed where it broke, checked, then renamed.

Nothing here runs by itself. A file counts only after its size and its SHA-256 have been checked as
far as they are known (`frozenseg.checkpoints.published_files`). Where no digest is known, it must
begin and end as a file of tensors does.
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
    with fetched(_remote(row), part):
        done = _checked(row, part)
        with writing(row.path):
            os.replace(part, row.path)
    return Download(row.path, done.sha256, done.checked)


def _remote(row: PublishedFile) -> Remote:
    if not row.address.startswith("drive:"):
        return Remote(url=row.address, said=row.address, size=row.size)
    number = row.address.removeprefix("drive:")
    page = (
        "Google Drive gave a page and not the file (to confirm, or because too many fetched it "
        f"today); open {DRIVE_PAGE}{number} in a browser, and save it as {row.path}"
    )
    return Remote(url=f"{DRIVE}{number}", said=row.address, size=row.size, page=page)


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
    elif not row.sha256 and not _is_tensors(path):
        wrong = f"has {size:,} bytes that are no file of tensors, or not a whole one"
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
