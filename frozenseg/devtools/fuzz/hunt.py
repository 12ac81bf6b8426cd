"""Give readers damaged files, and keep files that make a reader fail in the wrong way."""

import logging
import random
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from frozenseg.devtools.fuzz.targets import Target
from frozenseg.errors import UserError

SECONDS = 20.0  # of processor time, after which a reader counts as hung
MEMORY = 6 * 2**30  # additional bytes of address space; a small file must not need more
KEPT = 20  # leaks of a target that are kept as files; later ones are only counted
AT_ONCE = 100  # files of one target before the next target


class _Hung(BaseException):
    """Raised when a reader takes too long; `except Exception` in a reader does not catch it."""


@dataclass
class Count:
    """The number of files that a target was given, that it refused, and that made it leak."""

    files: int = 0
    refused: int = 0
    leaks: int = 0


class Hunt:
    """Damaged files for some targets. With the same seed, file N of a target is always the same."""

    def __init__(self, targets: list[Target], folder: Path, seed: int) -> None:
        """
        folder: receives `now.*`, the file being read, which remains there if a reader ends the
            process; its subfolder `leaks` receives files that made a reader leak, each with its
            traceback as text.
        """
        self.targets = targets
        self.folder = folder
        self.seed = seed
        self.counts = {target.name: Count() for target in targets}
        self._whole = {target.name: target.whole() for target in targets}

    def run(self, seconds: float, files: int | None = None) -> None:
        """Cycle through the targets until the time is over, or each has read `files` files."""
        end = time.monotonic() + seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        with _bounded(), _silent():
            while time.monotonic() < end:
                for target in self.targets:
                    left = AT_ONCE if files is None else files - self.counts[target.name].files
                    self._some(target, min(left, AT_ONCE), end)
                if files is not None and all(c.files >= files for c in self.counts.values()):
                    return

    def _some(self, target: Target, count: int, end: float) -> None:
        for _ in range(count):
            if time.monotonic() >= end:
                return
            self._one(target, self.counts[target.name])

    def damaged(self, target: Target, number: int) -> bytes:
        """Return the bytes of file `number` of a target."""
        numbers = random.Random(f"{self.seed} {target.name} {number}")
        whole = self._whole[target.name]
        data, other = numbers.choice(whole), numbers.choice(whole)
        return numbers.choice(target.damages)(data, other, numbers)

    def _one(self, target: Target, count: Count) -> None:
        data = self.damaged(target, count.files)
        path = self.folder / f"now{target.suffix}"
        path.write_bytes(data)
        try:
            with _timed():
                target.read(path)
        except UserError as error:
            count.refused += 1
            if "\n" in str(error):
                self._keep(target, count, data, f"not one line: {error!s}")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            self._keep(target, count, data, traceback.format_exc())
        count.files += 1

    def _keep(self, target: Target, count: Count, data: bytes, reason: str) -> None:
        count.leaks += 1
        if count.leaks <= KEPT:
            leaks = self.folder / "leaks"
            leaks.mkdir(exist_ok=True)
            name = f"{target.name.replace(' ', '_')}_{self.seed}_{count.files}"
            (leaks / f"{name}{target.suffix}").write_bytes(data)
            (leaks / f"{name}.txt").write_text(reason, errors="backslashreplace")


@contextmanager
def _timed() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Hung(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _bounded() -> Iterator[None]:
    """Let the process allocate at most `MEMORY` bytes in addition to those that it has."""
    low, high = resource.getrlimit(resource.RLIMIT_AS)
    held = 0
    with suppress(OSError):  # only Linux has this file
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        held = pages * resource.getpagesize()
    if held:
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, high))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (low, high))


@contextmanager
def _silent() -> Iterator[None]:
    """Switch off logging; the readers' warnings would be thousands of lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
