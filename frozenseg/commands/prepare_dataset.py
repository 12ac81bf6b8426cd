"""Make the files of a benchmark out of the published ones, below $DETECTRON2_DATASETS."""

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
        raise UserError(f"--split {unknown[0]}: one of {', '.join(preparation.splits)} expected")
    if arguments.count is not None and (arguments.dataset != "mosaic4" or arguments.count < 1):
        raise UserError(f"--count {arguments.count}: a number of mosaics, for mosaic4 alone")
    if arguments.full_size and arguments.dataset != "ade20k_full":
        raise UserError("--full-size: for ade20k_full alone; no other data set is shrunk")
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
    add("--split", nargs="+", help="splits to prepare (default: the one that is tested on)")
    add(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes; the files do not depend on it (default: %(default)s)",
    )
    add(
        "--count",
        type=int,
        help="mosaic4: number of mosaics (default: 1,000, of the small world 200)",
    )
    add(
        "--full-size",
        action="store_true",
        help="ade20k_full: keep the size of images and labels (default: reduce them to a shorter "
        f"side of at most {ADE20K_FULL_SIDE} pixels, as for the published numbers)",
    )
    add(
        "--again",
        action="store_true",
        help="also make files again that are there (default: only missing ones)",
    )
    return parser
