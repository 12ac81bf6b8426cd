"""The command lines, one module each; `tools/` and `demo/` hold thin scripts that call them.

Installed, they are subcommands of `frozenseg`: `frozenseg demo --help`.
"""

import importlib
import logging
import sys
from collections.abc import Callable

from frozenseg.errors import UserError, nearest

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
    """Run a command's `main` and exit: 0, its own status, or 2 with one line on a `UserError`."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("frozenseg")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader, e.g. `head`, has gone
        sys.stderr.close()
        status = 141
    sys.exit(status)


def main() -> None:
    """Entry point of the console script: `frozenseg COMMAND ...`."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: frozenseg COMMAND ...\n\ncommands (each has --help):")
        for name, summary in COMMANDS.items():
            print(f"  {name:20s} {summary}")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1].replace("-", "_")
    if name not in COMMANDS:
        print(
            f"error: no command {sys.argv[1]!r}; {nearest(name, list(COMMANDS))}", file=sys.stderr
        )
        sys.exit(2)
    sys.argv = [f"frozenseg {name}", *sys.argv[2:]]
    run(importlib.import_module(f"frozenseg.commands.{name}").main)
