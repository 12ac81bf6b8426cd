"""What a run is told once, however often a file is read."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1024)  # bounded: what was said longest ago may be said again
def note(message: str) -> None:
    """Log a warning, the same one once per process."""
    logger.warning("%s", message)


_said: set[str] = set()


def note_first(kind: str, message: str) -> None:
    """Log a warning for the first of many files that it would be true of; kinds are few."""
    if kind not in _said:
        _said.add(kind)
        logger.warning("%s", message)


def left_out(names: Iterable[str], total: int) -> str:
    """ "4 of 10 files left out: .heic (3), .txt (1)", the most frequent kind first."""
    kinds = Counter(PurePath(name).suffix.lower() or "no suffix" for name in names)
    listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
    return f"{kinds.total()} of {total} files left out: {listed}"
