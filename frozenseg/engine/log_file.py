"""log.txt of a run: everything that the package logs, with the time, and how the run ended."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frozenseg.errors import UserError, one_line
from frozenseg.files import writing

LOG_FILE = "log.txt"
PACKAGE = "frozenseg"

logger = logging.getLogger(__name__)


FILE_ONLY = {"file_only": True}
"""The `extra` of records that go only to log.txt and to no console, e.g. a table of all classes."""


class LogFile(logging.FileHandler):
    """Appends lines to a file, with local time and level; a resumed run appends to the same file.

    On a full disk, a warning is logged and the file ends, but the run continues.
    """

    def __init__(self, path: Path) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        form = "%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s"
        self.setFormatter(logging.Formatter(form, datefmt="%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Continue without the file; `logging` itself would print a traceback."""
        logging.getLogger(PACKAGE).removeHandler(self)
        reason = sys.exc_info()[1]
        logger.warning("%s cannot be written (%s): it ends here", self.baseFilename, reason)

    def close(self) -> None:
        """Close the file; on a full disk, the failed line fails again here, which is ignored."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Within the `with` block, records of the package from level INFO are also written to log.txt
    in `folder`.

    The host program's handlers still get only what they got before: records below the previous
    level of the package go only to the file. The last line says how the block ended; an unexpected
    exception is logged with its traceback.
    """
    package, start = logging.getLogger(PACKAGE), time.monotonic()
    with _with_handler(package, LogFile(folder / LOG_FILE)):
        try:
            yield
        except UserError as error:
            logger.error("ended by an error: %s", one_line(str(error)), extra=FILE_ONLY)
            raise
        except KeyboardInterrupt:
            logger.error("interrupted", extra=FILE_ONLY)
            raise
        except BaseException:
            logger.exception("ended by a defect", extra=FILE_ONLY)
            raise
        seconds = time.monotonic() - start
        logger.info("ended after %.0f s", seconds, extra=FILE_ONLY)


@contextmanager
def _with_handler(package: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    """Add a handler for records from level INFO, without changing what other handlers get."""
    level, shown = package.level, package.getEffectiveLevel()
    if not package.hasHandlers() and logging.lastResort is not None:
        others = [logging.lastResort]  # Python's handler for warnings if no logging is configured
        package.addHandler(logging.lastResort)
    else:
        others = [*package.handlers, *logging.getLogger().handlers]

    def as_before(record: logging.LogRecord) -> bool:
        of_package = record.name.partition(".")[0] == PACKAGE
        return not of_package or record.levelno >= shown and not hasattr(record, "file_only")

    for other in others:
        other.addFilter(as_before)
    package.addHandler(handler)
    package.setLevel(min(shown, logging.INFO))
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()
        for other in others:
            other.removeFilter(as_before)
            if other is logging.lastResort:
                package.removeHandler(other)
