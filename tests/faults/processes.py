"""Run one command in a process of its own, which is not trusted to end or to stay small.

Each process is forked from a server that has imported the package, so it starts in milliseconds,
and no case sees what another one has left behind.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
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
    process = _processes.Process(target=_command, args=([*arguments], folder, path, largest_file))
    process.start()
    process.join(seconds)
    hung = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it, if it hangs, and children that it has left
    process.join()
    text = path.read_text(errors="backslashreplace") if path.exists() else ""
    return Outcome(process.exitcode, hung, text)


def _command(arguments: list[str], folder: Path, output: Path, largest_file: int | None) -> None:
    os.setsid()
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
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
