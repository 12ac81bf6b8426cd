"""--precision, in the commands that predict: short for MODEL.PRECISION."""

import argparse

from frozenseg.runtime.precision import CHOICES


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision to a command line."""
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        help="short for MODEL.PRECISION (default: the configuration's; auto by default)",
    )


def precision_options(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that --precision stands for; none where it is not given."""
    return ["MODEL.PRECISION", arguments.precision] if arguments.precision else []
