"""A digest that shows whether two runs had the same label maps."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from frozenseg.data.records import Record


def label_maps_digest(records: Iterable[Record]) -> str | None:
    """Return the SHA-256 of the names and file sizes of all label maps and panoptic PNGs.

    The files are taken in the order of the records; if there are none, the result is None. Their
    content is not read, because that takes as long as scoring a whole data set.
    """
    paths = [path for r in records for path in (r.panoptic_path, r.semantic_path) if path]
    digest = hashlib.sha256()
    for path in map(Path, paths):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest() if paths else None
