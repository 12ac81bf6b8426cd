"""A lock on the output folder, so that only one run writes there."""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from frozenseg.errors import UserError
from frozenseg.files import WITHOUT_LOCKS, writing

logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"


@contextmanager
def only_writer(folder: Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Within the `with` block, this process alone holds the lock of the folder.

    Raises `UserError` that names the process that already holds it. The operating system keeps the
    lock, on a file that is removed at the end of the block. A killed process loses its lock, so a
    file that it leaves behind locks nothing. Forked processes do not inherit the lock.
    """
    path = folder / name
    file = _locked(path)
    try:
        with writing(path):
            os.truncate(file, 0)
            os.write(file, json.dumps(_holder()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int:
    """Open and lock the file; try again if its previous holder removes it in the meantime."""
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 1000, 0)
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(_held(path, holder)) from None
            if error.errno not in WITHOUT_LOCKS:
                raise
            logger.warning(
                "%s: this file system has no locks (%s); make sure that no second run writes to "
                "the folder",
                path.parent,
                error.strerror,
            )
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)


def _holder() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _held(path: Path, content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = f"its name is not yet in {path.name}"
    return (
        f"{path.parent}: another run is at work there ({who}); wait until it has ended, end it, or "
        "give another output folder"
    )
