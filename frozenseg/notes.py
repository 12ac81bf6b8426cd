"""Warnings that are logged once, however often a file is read."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1024)  # bounded, so the oldest messages may be logged again
def note(message: str) -> None:
    """Log a warning; the same message is logged only once per process."""
    logger.warning("%s", message)


_said: set[str] = set()


def note_first(topic: str, message: str) -> None:
    """Log only the first warning of each topic, because many files may have the same fault."""
    if topic not in _said:
        _said.add(topic)
        logger.warning("%s", message)


def left_out(names: Iterable[str], total: int) -> str:
    """Return e.g. "4 of 10 files left out: .heic (3), .txt (1)", the most frequent suffix first."""
    suffixes = Counter(PurePath(name).suffix.lower() or "no suffix" for name in names)
    listed = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes.most_common())
    return f"{suffixes.total()} of {total} files left out: {listed}"
