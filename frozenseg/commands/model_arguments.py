"""--config-file, --weights, --batch-size, --precision and --backend: the options for the model.

Also the type of --device, for the commands that start a process on each device.
"""

import argparse
import re

from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.config_keys import BACKENDS
from frozenseg.errors import UserError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the model, and say how it runs, to a command line."""
    add = parser.add_argument
    add(
        "--config-file",
        default="small",
        help="the model: a name (small, frozenseg-convnext-large, ...), a YAML file, or the folder "
        "of a run (default: %(default)s)",
    )
    add("--weights", help="a checkpoint to use instead of the model's own")
    add(
        "--batch-size",
        type=int,
        help="number of images of the same padded size, or of frames, that the model processes at "
        "once; larger batches are faster on a GPU (short for TEST.IMS_PER_BATCH)",
    )
    add_precision(parser)
    add_backend(parser)


def model_options(arguments: argparse.Namespace) -> list[str]:
    """Return the KEY VALUE settings for those of these arguments that are given."""
    size = arguments.batch_size
    if size is not None and size < 1:
        raise UserError(f"--batch-size {size}: must be at least 1")
    batch = [] if size is None else ["TEST.IMS_PER_BATCH", str(size)]
    return [*precision_options(arguments), *backend_options(arguments), *batch]


def device_of(text: str) -> str:
    """Check a device name; the type of a --device option that takes several names.

    Such an option also takes the KEY VALUE pairs that follow it; the error message says so.
    """
    if not re.fullmatch(r"auto|(cuda|mps|cpu)(:\d+)?", text):
        raise UserError(
            f"--device {text}: use auto, cuda, cuda:1, mps or cpu; KEY VALUE pairs cannot follow "
            "--device"
        )
    return text


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add --backend to a command line."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="what runs the model on a CPU: short for MODEL.BACKEND (default: pytorch)",
    )


def backend_options(arguments: argparse.Namespace) -> list[str]:
    """Return the KEY VALUE settings for --backend; an empty list if it is not given."""
    return ["MODEL.BACKEND", arguments.backend] if arguments.backend else []
