"""A cache on disk for graphs, which are made when they are first needed.

A file that is damaged or incomplete is made again. If several processes need the same graph, one
makes it and the others wait.
"""

import fcntl
import hashlib
import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from frozenseg.export.session import AnySession, open_session
from frozenseg.files import WITHOUT_LOCKS, atomic_path, writing
from frozenseg.tensor_store import prune

logger = logging.getLogger(__name__)

# Largest size of all graphs on disk, in bytes; a graph of a published model size takes 1.3 GB.
LARGEST = 20_000_000_000
SUM = ".crc32"
"""The suffix of the file that holds the checksum of a graph. It is written last."""


class GraphStore:
    """Opens graphs from a folder, and makes those that are missing."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], device: str) -> None:
        """Set up the store.

        folder: where the graphs are stored.
        identity: everything that determines a graph, besides the name given to `open`, as JSON
            values.
        device: where graphs run, see `open_session`.
        """
        self.folder, self.identity, self.device = folder, dict(identity), device
        self.lock = threading.Lock()

    def open(self, name: str, make: Callable[[Path], object]) -> AnySession:
        """Open a graph, and make it first if it is missing or damaged.

        name: what the graph is, also for messages. make: writes and checks its file.
        """
        key = json.dumps({**self.identity, "graph": name}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.onnx"
        with self.lock, _alone(self.folder):
            if not _is_whole(path):
                logger.warning(
                    "%s: making the graph for %s, which takes a while; it will be kept in %s",
                    self.device,
                    name,
                    self.folder,
                )
                with torch.inference_mode(False):  # tracing does not work in inference mode
                    make(path)
                with atomic_path(path.with_suffix(SUM)) as temporary:
                    temporary.write_text(_checksum(path), encoding="ascii")
                prune(self.folder, LARGEST)
            return self.session(path)

    def session(self, path: Path) -> AnySession:
        """Open a file on the device where graphs run."""
        return open_session(path, self.device)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other process is in such a block for the same folder.

    If the folder's file system has no locks, two processes may both make the same graph; each
    writes a complete file.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "w", encoding="ascii")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


def _is_whole(path: Path) -> bool:
    try:
        return path.with_suffix(SUM).read_text(encoding="ascii") == _checksum(path)
    except (OSError, UnicodeDecodeError):
        return False


def _checksum(path: Path) -> str:
    """Return the checksum of a graph and, if its weights exceed 2 GB, of their separate file."""
    value = 0
    weights = path.with_name(f"{path.name}.data")
    for each in (path, weights) if weights.exists() else (path,):
        with open(each, "rb") as file:
            while part := file.read(1 << 24):
                value = zlib.crc32(part, value)
    return f"{value:08x}"
