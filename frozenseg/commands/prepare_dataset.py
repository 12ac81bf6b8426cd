"""Make the files of a benchmark from the published ones, below $DETECTRON2_DATASETS."""

import argparse
import os

from frozenseg.data.benchmarks import data_root
from frozenseg.data.benchmarks.rows import ADE20K_FULL_SIDE
from frozenseg.data.prepare import PREPARATIONS
from frozenseg.data.prepare.options import PreparationOptions
from frozenseg.errors import UserError


def main(argv: list[str]) -> int | None:
    """Prepare the splits of a data set one after the other."""
    arguments = _parser().parse_args(argv)
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: must be at least 1")
    preparation = PREPARATIONS[arguments.dataset]
    splits = arguments.split or preparation.splits[:1]
    unknown = [split for split in splits if split not in preparation.splits]
    if unknown:
        raise UserError(f"--split {unknown[0]}: expected one of {', '.join(preparation.splits)}")
    if arguments.count is not None and (arguments.dataset != "mosaic4" or arguments.count < 1):
        raise UserError(
            f"--count {arguments.count}: must be at least 1, and only applies to mosaic4"
        )
    if arguments.full_size and arguments.dataset != "ade20k_full":
        raise UserError(
            "--full-size: only applies to ade20k_full, the only data set whose images are reduced"
        )
    options = PreparationOptions(
        processes=arguments.processes,
        again=arguments.again,
        count=arguments.count,
        full_size=arguments.full_size,
    )
    for split in splits:
        try:
            preparation.prepare(data_root(), split, options)
        except OSError as error:
            raise UserError(f"{error.filename or data_root()}: {error.strerror or error}") from None
        print(f"{arguments.dataset} {split}: prepared below {data_root()}")
    return None


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {name:15s} {entry.summary}" for name, entry in PREPARATIONS.items())
    parser = argparse.ArgumentParser(
        prog="frozenseg prepare_dataset",
        description=f"{__doc__}\n\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", choices=list(PREPARATIONS), metavar="DATASET", help="one of the above")
    add("--split", nargs="+", help="splits to prepare (default: the one used for evaluation)")
    add(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes, which does not affect the files (default: %(default)s)",
    )
    add(
        "--count",
        type=int,
        help="mosaic4: number of mosaics (default: 1,000, or 200 of the small world)",
    )
    add(
        "--full-size",
        action="store_true",
        help="ade20k_full: keep the size of images and labels (default: reduce their shorter side "
        f"to at most {ADE20K_FULL_SIDE} pixels, as for the published numbers)",
    )
    add(
        "--again",
        action="store_true",
        help="make existing files again, too (default: make only missing ones)",
    )
    return parser
