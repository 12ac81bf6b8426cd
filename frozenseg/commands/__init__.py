"""The command-line interface; each command has a module of its own.

Once the package is installed, they are subcommands of `frozenseg`: `frozenseg demo --help`.
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
from concurrent.futures import BrokenExecutor
from typing import TextIO

import frozenseg
from frozenseg.engine.interrupt import ends_as_by_ctrl_c
from frozenseg.errors import UserError, nearest, one_line
from frozenseg.extensions import take_extensions
from frozenseg.runtime.allocator import configure_allocator

HERE, DEVTOOLS = "frozenseg.commands", "frozenseg.devtools.commands"
SMALL_WORLD = "frozenseg.small_world.commands"
LONGEST_LINE = 1400  # characters of an error message

COMMANDS = {
    "Using a model": {
        "demo": (HERE, "segment images and videos"),
        "batch": (HERE, "segment folders of millions into Parquet shards, on one machine or many"),
        "download": (HERE, "download published weights, with resuming and checking"),
        "export": (HERE, "write a model as a graph that runs without this package"),
        "serve": (HERE, "serve a model over HTTP, with a page to try it on"),
        "score": (HERE, "score predictions on disk, without a model"),
        "convert_checkpoint": (HERE, "convert between published checkpoints and our safetensors"),
    },
    "Data": {
        "prepare_dataset": (HERE, "make a benchmark's files from the published ones"),
        "check_dataset": (
            HERE,
            "check that data sets are in place and complete, and repair a JSON",
        ),
        "view_samples": (HERE, "draw training samples as a run sees them"),
        "make_sam_masks": (HERE, "write SAM's mask proposals of a data set to disk"),
        "make_small_world": (SMALL_WORLD, "write the small world, a synthetic benchmark, to disk"),
    },
    "Training and evaluation": {
        "train_net": (
            HERE,
            "train a model (also: train), or evaluate it (--eval-only; also: evaluate, eval)",
        ),
        "detectron2_train_net": (HERE, "the same with detectron2's trainer"),
        "compare": (HERE, "show the scores, settings and curves of runs side by side"),
        "mean_results": (HERE, "average the scores of folds that were evaluated one by one"),
    },
    "For developers": {
        "analyze_model": (DEVTOOLS, "count parameters and FLOPs by stage"),
        "benchmark": (DEVTOOLS, "measure time and memory of an image or a training step, by stage"),
        "measure_memory": (DEVTOOLS, "measure the peak memory of segmenting one image"),
        "measure_gpu": (
            DEVTOOLS,
            "run tests, comparisons, timings and trainings on this machine's GPU",
        ),
        "benchmark_scoring": (
            DEVTOOLS,
            "compare the speed of our scoring with that of the usual libraries",
        ),
        "benchmark_service": (DEVTOOLS, "time `serve` under load"),
        "benchmark_deformable": (
            DEVTOOLS,
            "compare the speed of deformable attention with a loop over levels",
        ),
        "benchmark_proposals": (
            DEVTOOLS,
            "compare the speed of SAM's proposals with segment-anything's own",
        ),
        "benchmark_export": (DEVTOOLS, "compare exported files with the model"),
        "check_reference": (DEVTOOLS, "compare our numbers with reference vectors"),
        "fuzz": (DEVTOOLS, "give every reader damaged files, and keep those that make one fail"),
        "pack_weights": (DEVTOOLS, "store weights in half precision, small enough to ship"),
        "train_small_clip": (SMALL_WORLD, "train the small CLIP on the small world"),
        "train_small_sam": (SMALL_WORLD, "train the small SAM on the small world"),
        "train_small_vit": (SMALL_WORLD, "train a small ViT on the small world without names"),
        "train_small_bert": (SMALL_WORLD, "train a small BERT on sentences of the small world"),
        "measure_video": (SMALL_WORLD, "measure what tracking gains on clips of the small world"),
        "small_world_probe": (
            SMALL_WORLD,
            "measure what SAM's feature map holds that CLIP's lacks",
        ),
        "small_world_experiment": (
            SMALL_WORLD,
            "measure what each part of FrozenSeg adds, over several seeds",
        ),
    },
}
"""Group -> command -> (package of its module, what the command does)."""

ALIASES = {
    "train": ("train_net",),
    "evaluate": ("train_net", "--eval-only"),
    "eval": ("train_net", "--eval-only"),
}
"""Alias -> the command that it stands for, followed by the first arguments to pass to it."""


def run(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main` and exit with its status.

    The status is 0 or the one that `main` returns, 2 after a `UserError`, which is printed as one
    line, or 130 after Ctrl-C, SIGTERM or SIGHUP.

    Characters that the terminal's encoding lacks are written as escapes. Warnings from libraries
    are hidden unless Python is asked to show them (-W, PYTHONWARNINGS).
    """
    configure_allocator()  # a command has the process to itself, so it may configure the allocator
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # FFmpeg's messages about a damaged file would appear before our own line, and name no file.
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
            status = main(take_extensions(sys.argv[1:]))
        sys.stdout.flush()  # raises here at the latest if the disk is full
        return status
    except UserError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenExecutor:
        return _failed(
            "one of the processes was killed, often because memory ran out; start again with fewer "
            "--processes"
        )
    except (MemoryError, RuntimeError) as error:
        from frozenseg.runtime.memory import is_out_of_memory  # imports torch; --help does not

        if not is_out_of_memory(error):
            raise
        return _failed(f"out of memory ({error}); use smaller images, or fewer at once")
    except BrokenPipeError:  # the reader, e.g. `head`, has gone
        _drop(sys.stdout)
        return 141
    except OSError as error:
        if error.filename is not None:  # a file error that no caller turned into a `UserError`
            return _failed(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        _drop(sys.stdout)
        return _failed(f"standard output: cannot be written ({error.strerror}); free some space")


def _failed(message: str) -> int:
    line = one_line(message)
    if len(line) > LONGEST_LINE:  # it may hold a path of thousands of characters
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    return 2


def _drop(stream: TextIO) -> None:
    """Discard output that is not written yet; otherwise the interpreter retries when it exits."""
    with contextlib.suppress(io.UnsupportedOperation):  # a test may use a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Lines(logging.Formatter):
    """Removes control characters from messages, except for the line breaks of tables."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(one_line, super().format(record).split("\n")))


@contextlib.contextmanager
def _log_on_console() -> Iterator[None]:
    """Inside, what the package logs goes to the current standard error.

    The handler is removed at the end, because a caller in the same process may close that stream.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines("%(message)s"))
    # The engine's log file marks the records that are meant for that file only.
    handler.addFilter(lambda record: not hasattr(record, "file_only"))
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
        print(_usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if sys.argv[1] == "--version":
        print(f"frozenseg {frozenseg.__version__}")
        sys.exit(0)
    name, *first = ALIASES.get(sys.argv[1], (sys.argv[1].replace("-", "_"),))
    if name not in _modules():
        known = [*_modules(), *ALIASES]
        sys.exit(_failed(f"no command {sys.argv[1]!r}; {nearest(name, known)}"))
    sys.argv = [f"frozenseg {sys.argv[1]}", *first, *sys.argv[2:]]
    run_module(name)


def _usage() -> str:
    lines = ["usage: frozenseg COMMAND ...   (frozenseg COMMAND --help explains each)"]
    for group, commands in COMMANDS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:24s} {summary}" for name, (_, summary) in commands.items()]
    last = [
        "Every command:",
        "  --import MODULE          first import your own module that adds benchmarks, encoders, "
        "losses or families",
        "",
        "  --version                print the version of this package",
    ]
    return "\n".join([*lines, "", *last])


def _modules() -> dict[str, str]:
    """Command -> full name of its module."""
    return {
        name: f"{package}.{name}"
        for commands in COMMANDS.values()
        for name, (package, _) in commands.items()
    }


def run_module(name: str) -> None:
    """Run a command by its name.

    Its module is imported inside `run`, so that Ctrl-C ends the command properly during the import
    too, which may take seconds.
    """
    run(lambda arguments: importlib.import_module(_modules()[name]).main(arguments))
