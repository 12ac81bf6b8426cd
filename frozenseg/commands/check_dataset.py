"""Check that data sets are in place and complete; without a name, list the benchmarks."""

import argparse
import json
import shlex
from functools import partial

from tqdm import tqdm

from frozenseg.data.benchmarks import BENCHMARKS, data_root, find_benchmark
from frozenseg.data.benchmarks.few_shot_rows import FEW_SHOT_BENCHMARKS
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.checks import check, missing_parts
from frozenseg.data.mending import mend
from frozenseg.errors import UserError
from frozenseg.files import shipped

CONFIG = "convnext_large_eval_ade20k"
FUSIONER = "clip_vit_l14"
SMALL_FUSIONER = "small/fusioner"
GUIDE = shipped("datasets") / "README.md"
SMALL_CONFIG = "small/frozenseg"  # its weights ship with the package


def main(argv: list[str]) -> int | None:
    """Print the findings on each data set; return the status 1 if one has a problem, else 0."""
    arguments = _parser().parse_args(argv)
    if arguments.sample < 0:
        raise UserError(f"--sample {arguments.sample}: give a number of images, or 0 for all")
    if arguments.fix and not arguments.names:
        raise UserError("--fix: name the data set whose JSON should be repaired")
    if not arguments.names:
        _overview()
        return 0
    if arguments.fix:
        for name in arguments.names:
            _fix(name)
        return 0
    whole = [_report(name, arguments.sample) for name in arguments.names]
    return 0 if all(whole) else 1


def _overview() -> None:
    print(f"below {data_root()} (set $DETECTRON2_DATASETS to look elsewhere):")
    for name, row in BENCHMARKS.items():
        missing = missing_parts(row, data_root())
        print(f"  {name:48s} {missing[0].text if missing else 'there'}")
    print("next: frozenseg check_dataset NAME checks one of them and says how to get it")


def _report(name: str, sample: int) -> bool:
    """Print what was found; True if nothing is wrong."""
    row = find_benchmark(name)
    print(name)
    wrong, missing = False, False
    for finding in check(row, data_root(), sample=sample):
        wrong, missing = wrong or finding.wrong, missing or finding.missing
        print(f"  {'problem:' if finding.wrong else 'ok:':9s}{finding.text}")
    print(f"  next:    {_next(name, row, wrong, missing)}")
    return not wrong


def _fix(name: str) -> None:
    """Write a repaired copy of a data set's JSON, and print what was changed."""
    if name in BENCHMARKS:
        raise UserError(f"{name}: its files are published; --fix is for data sets of your own")
    print(name)
    row = find_benchmark(name)
    path, changes = mend(row, data_root(), partial(tqdm, unit="image", disable=None))
    for what, count in changes.items():
        print(f"  fixed:   {count} {what}")
    if not changes:
        print(f"  ok:      nothing to repair in {row.annotations}")
        return
    print(f"  written: {path}")
    print(f"  next:    use it in place of {row.annotations}")


def _next(name: str, row: Benchmark, wrong: bool, missing: bool) -> str:
    """Say what the user should do next with a data set."""
    if name not in BENCHMARKS:
        return _next_of_own(name, row, wrong, missing)
    if not wrong:
        few_shot, small = name in FEW_SHOT_BENCHMARKS, name.startswith("small_world")
        config, weights = CONFIG, "MODEL.WEIGHTS RELEASED.pth "
        if few_shot:
            config = SMALL_FUSIONER if small else FUSIONER
            weights = "MODEL.WEIGHTS model_final.safetensors "
        elif small:
            config, weights = SMALL_CONFIG, ""
        return f"frozenseg evaluate --config-file {config} {weights}DATASETS.TEST {_as_sets(name)}"
    if not row.prepared_by:
        return f"get the data set as {GUIDE} describes it"
    again = "" if missing else " --again"
    return f"frozenseg prepare_dataset {row.prepared_by}{again} (published files: {GUIDE})"


def _as_sets(name: str) -> str:
    """Return a data set's name as the value of DATASETS.TEST, quoted for a command line."""
    return shlex.quote(f"({json.dumps(name, ensure_ascii=False)},)")


def _next_of_own(name: str, row: Benchmark, wrong: bool, missing: bool) -> str:
    if row.reader == "images" and not wrong:
        return (
            f"frozenseg evaluate --config-file {SMALL_CONFIG} TEST.SAVE_PREDICTIONS True "
            f"DATASETS.TEST {_as_sets(name)} (docs/guides/runs.md)"
        )
    if not wrong:
        return (
            f"look at it: frozenseg view_samples --config-file {SMALL_CONFIG} --dataset "
            f"{shlex.quote(name)} --output samples.png; then train (docs/guides/data.md)"
        )
    annotated = row.annotations and row.reader != "images" and not missing
    mendable = f", or try frozenseg check_dataset {shlex.quote(name)} --fix" if annotated else ""
    return f"correct the problems above{mendable}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg check_dataset", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="names or files of data sets, as in DATASETS.TEST"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=20,
        help="number of images to decode, 0 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="write a copy of the JSON beside the original, with everything repaired that can be "
        "repaired safely",
    )
    return parser
