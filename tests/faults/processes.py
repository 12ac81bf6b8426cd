"""Run commands in processes of their own, which are not trusted to end or to stay small.

Each process is forked from a server that has imported the package, so it starts in milliseconds,
and no case sees what another one has left behind.
"""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = "python"  # the "command" whose one argument is a program that uses the package
MEMORY = 10 * 2**30  # bytes of address space, of which torch alone takes three
IMPORTED = ["demo", "train_net", "score", "check_dataset", "make_sam_masks", "convert_checkpoint"]

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["open_clip", __name__, *(f"frozenseg.commands.{name}" for name in IMPORTED)]
)


@dataclass
class Outcome:
    """How a command ended.

    status: the exit status, or minus the signal that ended it. hung: whether it had to be killed.
    text: what it wrote to standard output and error.
    """

    status: int | None
    hung: bool
    text: str

    @property
    def last_line(self) -> str:
        return self.text.strip().rpartition("\n")[2]


def run_command(
    arguments: Sequence[str],
    folder: Path,
    seconds: float,
    *,
    output: str = "output.txt",
    largest_file: int | None = None,
) -> Outcome:
    """Run `frozenseg ARGUMENTS` in `folder`; after `seconds`, it and its children are killed.

    output: the file for what it writes. largest_file: bytes beyond which no file grows, as on a
    full disk.
    """
    path = folder / output
    process = _start([*arguments], folder, path, path, largest_file)
    process.join(seconds)
    hung = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it, if it hangs, and children that it has left
    process.join()
    text = path.read_text(errors="backslashreplace") if path.exists() else ""
    return Outcome(process.exitcode, hung, text)


class Started:
    """`frozenseg ARGUMENTS`, which runs in `folder` beside the tests and leads a process group of
    its own. It has what tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], folder: Path, log: Path | None = None) -> None:
        """log: the file for all that it writes; without one, only its standard error is kept."""
        self._errors = log or folder / f"errors_{uuid.uuid4().hex}.txt"
        output = log or Path(os.devnull)
        self._process = _start([*arguments], folder, output, self._errors, None)
        assert self._process.pid is not None, "it was started"
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"not over after {timeout} s; it wrote:\n{self._errors.read_text()}")
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Return, at its end, what it wrote to standard error."""
        self.wait(timeout)
        return None, self._errors.read_text(errors="backslashreplace")

    def megabytes(self) -> int:
        """The memory that it has, by /proc; 0 once it is over."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) // 1000 if found else 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)


def _start(
    arguments: list[str], folder: Path, output: Path, errors: Path, largest_file: int | None
) -> multiprocessing.process.BaseProcess:
    process = _processes.Process(
        target=_command, args=(arguments, folder, output, errors, largest_file)
    )
    process.start()
    return process


def _command(
    arguments: list[str], folder: Path, output: Path, errors: Path, largest_file: int | None
) -> None:
    os.setsid()
    for stream, path in ((1, output), (2, errors)):  # which may be one file
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ["FROZENSEG_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    from frozenseg.commands import main, run

    if arguments[0] == PYTHON:
        sys.argv = [PYTHON]
        run(lambda _: exec(arguments[1], {}))
    sys.argv = ["frozenseg", *arguments]
    main()
