"""The command lines, one module each; `tools/` and `demo/` hold thin scripts that call them.

Installed, they are subcommands of `frozenseg`: `frozenseg demo --help`.
"""

import contextlib
import errno
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from frozenseg.allocator import configure_allocator
from frozenseg.engine.interrupt import ends_as_by_ctrl_c
from frozenseg.errors import UserError, nearest, one_line

COMMANDS = {
    "demo": "segment images",
    "train_net": "train a model, or evaluate it (--eval-only)",
    "detectron2_train_net": "the same under detectron2: its trainer, loaders and evaluators",
    "prepare_dataset": "make a benchmark's files out of the published ones",
    "check_dataset": "is a benchmark in place and whole? what to run if not",
    "mean_results": "the mean over folds that were evaluated one by one",
    "score": "score predictions on disk, no model needed",
    "check_reference": "compare our numbers with reference vectors",
    "convert_checkpoint": "published checkpoint <-> our safetensors",
    "pack_weights": "weights in half precision, small enough to ship",
    "analyze_model": "parameters and FLOPs by stage",
    "benchmark": "time and memory of an image or a training step, stage by stage",
    "measure_memory": "peak memory of segmenting one image",
    "benchmark_scoring": "time our scoring beside the usual one",
    "benchmark_deformable": "time deformable attention beside the loop over levels",
    "benchmark_proposals": "time SAM's proposals beside segment-anything's generator",
    "make_small_world": "write the small world, a synthetic benchmark, to disk",
    "train_small_clip": "train the small CLIP on the small world",
    "train_small_sam": "train the small SAM on the small world",
    "make_sam_masks": "write SAM's mask proposals of a data set to disk",
    "small_world_experiment": "what each part of FrozenSeg adds, over several seeds",
    "view_samples": "write augmented training samples as pictures",
}


def run(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main` and exit: 0, its own status, 2 with one line on a `UserError`, or
    130 on Ctrl-C, SIGTERM and SIGHUP.

    Letters that the terminal's encoding lacks are written as escapes. Warnings of libraries stay
    away unless Python is told to show them (-W, PYTHONWARNINGS).
    """
    configure_allocator()  # a command is a process of its own, whose memory it may set up
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # What FFmpeg says of a damaged file comes before our own line, and names none.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    with warnings.catch_warnings(), _log_on_console():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        status = _status(main)
    sys.exit(status)


def _status(main: Callable[[list[str]], int | None]) -> int | None:
    try:
        with ends_as_by_ctrl_c():
            status = main(sys.argv[1:])
        sys.stdout.flush()  # a full disk shows here at the latest
        return status
    except UserError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, e.g. `head`, has gone
        _drop(sys.stdout)
        return 141
    except OSError as error:
        if error.filename is not None:  # a file that no caller knows a remedy for
            return _failed(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        _drop(sys.stdout)
        return _failed(f"standard output: cannot be written ({error.strerror}); make room there")


def _failed(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def _drop(stream: TextIO) -> None:
    """Send what is not yet written nowhere; the interpreter would try again at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # a stream of a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Lines(logging.Formatter):
    """Messages without control characters but the line breaks of tables."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(one_line, super().format(record).split("\n")))


@contextlib.contextmanager
def _log_on_console() -> Iterator[None]:
    """What the package logs goes to the standard error of now, and no longer than the command runs:
    a caller in the same process may close that stream."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(message)s"))
    package = logging.getLogger("frozenseg")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def main() -> None:
    """Entry point of the console script: `frozenseg COMMAND ...`."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: frozenseg COMMAND ...\n\ncommands (each has --help):")
        for name, summary in COMMANDS.items():
            print(f"  {name:20s} {summary}")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1].replace("-", "_")
    if name not in COMMANDS:
        sys.exit(_failed(f"no command {sys.argv[1]!r}; {nearest(name, list(COMMANDS))}"))
    sys.argv = [f"frozenseg {name}", *sys.argv[2:]]
    run_module(name)


def run_module(name: str) -> None:
    """Run a command by its name; modules do so when started by `python -m`, so that what they send
    to other processes is found under their own names."""
    run(importlib.import_module(f"frozenseg.commands.{name}").main)
