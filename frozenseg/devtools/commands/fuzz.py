"""Give every reader damaged files; any error other than a one-line message is a leak."""

import argparse
import math
from pathlib import Path

from frozenseg.commands.number_arguments import check_least
from frozenseg.devtools.fuzz.hunt import Hunt
from frozenseg.devtools.fuzz.targets import TARGETS
from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path


def main(argv: list[str]) -> int:
    """Run the readers, print the numbers of refused files and of leaks; return 1 for a leak."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, files=1)
    names = [target.name for target in TARGETS]
    for name in arguments.only:
        if name not in names:
            raise UserError(f"--only {name}: no such reader; {nearest(name, names)}")
    chosen = [target for target in TARGETS if target.name in (arguments.only or names)]
    hunt = Hunt(chosen, arguments.output, arguments.seed)
    hunt.run(arguments.minutes * 60, arguments.files)
    print(f"{'kind of file':16s} {'files':>8s} {'refused':>8s} {'leaks':>6s}")
    for name, count in hunt.counts.items():
        print(f"{name:16s} {count.files:8d} {count.refused:8d} {count.leaks:6d}")
    leaks = sum(count.leaks for count in hunt.counts.values())
    if leaks:
        print(f"files that made a reader fail, with tracebacks: {arguments.output / 'leaks'}")
    return 1 if leaks else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg fuzz", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=_minutes, default=1.0, help="time for all readers (default: %(default)s)")
    add("--files", type=int, help="stop when each reader has been given this many files")
    add("--seed", type=int, default=0, help="random seed; the same seed gives the same files")
    add("--only", nargs="+", default=[], metavar="KIND", help='kinds of files, e.g. "label maps"')
    add(
        "--output",
        type=user_path,
        default=Path("output/fuzz"),
        help="folder (default: %(default)s)",
    )
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text}: a number of minutes above 0 was expected")
    return value
