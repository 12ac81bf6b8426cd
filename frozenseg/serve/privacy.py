"""Keep the content of requests out of the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# The messages of these modules help people who write a list of classes or a folder of images. In
# the service's log, they would reveal the words and pictures of its users.
SILENCED = ("frozenseg.text", "frozenseg.data", "frozenseg.notes")


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Inside, nothing is logged about the names and images that are read."""
    loggers = [logging.getLogger(name) for name in SILENCED]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
