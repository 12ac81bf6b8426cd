"""--precision, for the commands that predict: short for MODEL.PRECISION."""

import argparse

from frozenseg.runtime.precision import CHOICES


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision to a command line."""
    parser.add_argument(
        "--precision",
        choices=CHOICES,
        help="short for MODEL.PRECISION (default: that of the configuration, usually auto)",
    )


def precision_options(arguments: argparse.Namespace) -> list[str]:
    """Return the KEY VALUE settings for --precision; an empty list if it is not given."""
    return ["MODEL.PRECISION", arguments.precision] if arguments.precision else []
