"""Graphs that are made when they are first needed, and kept on disk for the next time.

A file that is damaged or was not completed is made again. Of several processes that need one graph,
one makes it and the others wait.
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

LARGEST = 20_000_000_000  # bytes of all graphs on disk; one of the published sizes has 1.3
SUM = ".crc32"
"""What the name of the file ends in that holds the checksum of a graph. It is written last."""


class GraphStore:
    """Opens graphs from a folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], device: str) -> None:
        """identity: all that decides a graph beside what `open` is told; JSON can hold it.

        device: where graphs run, as of `open_session`.
        """
        self.folder, self.identity, self.device = folder, dict(identity), device
        self.lock = threading.Lock()

    def open(self, name: str, make: Callable[[Path], object]) -> AnySession:
        """Open a graph. name: what it is, for messages too. make: writes and checks its file."""
        key = json.dumps({**self.identity, "graph": name}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.onnx"
        with self.lock, _alone(self.folder):
            if not _is_whole(path):
                logger.warning(
                    "%s: makes its graph of %s, which takes a while; it is kept in %s",
                    self.device,
                    name,
                    self.folder,
                )
                with torch.inference_mode(False):  # nothing can be traced in it
                    make(path)
                with atomic_path(path.with_suffix(SUM)) as temporary:
                    temporary.write_text(_checksum(path), encoding="ascii")
                prune(self.folder, LARGEST)
            return self.session(path)

    def session(self, path: Path) -> AnySession:
        """Open a file where graphs run."""
        return open_session(path, self.device)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of the folder, where its file system has
    locks. Elsewhere two processes may make one graph, each as a whole."""
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
    """Return the checksum of a graph, and of the file of its weights where they exceed 2 GB."""
    value = 0
    weights = path.with_name(f"{path.name}.data")
    for each in (path, weights) if weights.exists() else (path,):
        with open(each, "rb") as file:
            while part := file.read(1 << 24):
                value = zlib.crc32(part, value)
    return f"{value:08x}"
