"""Segment folders of millions of images into Parquet shards, on one machine or on many.

The results are written to OUTPUT/shards, with one row for each image. If a run was stopped, the
same command continues it. `frozenseg batch export OUTPUT --to coco` (or another format) writes the
results as files for other tools.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frozenseg.commands.engine_arguments import add_engine, ray_of
from frozenseg.commands.model_arguments import add_model, device_of, model_options
from frozenseg.commands.part_argument import part_of
from frozenseg.commands.vocabulary_arguments import add_vocabulary, vocabulary_of
from frozenseg.config_keys import KEYS
from frozenseg.data.prediction_lines import WHOLE
from frozenseg.errors import UserError, import_extra, one_line
from frozenseg.files import user_path
from frozenseg.results.selection import THRESHOLD, checked_threshold

if TYPE_CHECKING:
    from frozenseg.batch.run import Engine

SHARD_ROWS = 1000
MOST_ROWS = 100_000  # largest number of rows of a shard; their results must fit in memory


def main(argv: list[str]) -> int | None:
    """Segment the images that are not done yet, and print a summary."""
    if argv[:1] == ["export"]:
        from frozenseg.commands import batch_export

        return batch_export.main(argv[1:])
    arguments = _parser().parse_intermixed_args(argv)
    _check(arguments)
    ray = ray_of(arguments)
    vocabulary, options = vocabulary_of(arguments), model_options(arguments)
    import_extra("pyarrow", "batch", "frozenseg batch")
    # Imported only now, because importing torch takes seconds.
    from frozenseg.batch.listing import list_items
    from frozenseg.batch.run import run
    from frozenseg.batch.worker import Plan

    plan = Plan(
        folder=Path(arguments.output).absolute(),
        model=arguments.config_file,
        weights=arguments.weights,
        options=(*options, *arguments.opts),
        vocabulary=vocabulary,
        threshold=checked_threshold(arguments.threshold),
        task=arguments.task,
    )
    start = time.monotonic()
    outcome = run(
        plan,
        list_items(arguments.inputs, plan.folder) if arguments.inputs else None,
        part=arguments.part,
        shard_rows=arguments.shard_rows or (None if arguments.resume else SHARD_ROWS),
        engine=_engine(arguments.device or [None], ray),
    )
    seconds = time.monotonic() - start
    new = outcome.total - outcome.earlier
    line = f"{new} of {outcome.total} images in {seconds:.1f} s ({new / seconds:.2f}/s)"
    before = f"; {outcome.earlier} were done before" if outcome.earlier else ""
    if outcome.earlier_failed:
        before += f", {outcome.earlier_failed} of them could not be read (their rows say why)"
    print(one_line(f"{line}: {plan.folder}{before}"))
    for error in outcome.errors:
        print(one_line(f"not done: {error}"), file=sys.stderr)
    if more := outcome.failed - len(outcome.errors):
        print(f"not done: {more} more; their rows say why", file=sys.stderr)
    return 1 if outcome.failed or outcome.earlier_failed else None


def _engine(devices: list[str | None], ray: dict[str, Any] | None) -> "Engine":
    if ray is not None:
        from frozenseg.batch.on_ray import make_shards as make_on_ray

        return partial(make_on_ray, **ray)
    from frozenseg.batch.processes import make_shards

    return partial(make_shards, devices=devices)


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.inputs) == arguments.resume:
        raise UserError(
            "--resume takes the images from the existing manifest; give no inputs with it"
            if arguments.resume
            else "nothing to segment: give folders, globs, lists, tar files or URLs"
        )
    if settings := [entry for entry in arguments.inputs if entry in KEYS]:
        raise UserError(
            f"{settings[0]}: is a setting, not an input; give it after --opts, at the end"
        )
    if arguments.shard_rows is not None and not 1 <= arguments.shard_rows <= MOST_ROWS:
        raise UserError(f"--shard-rows {arguments.shard_rows}: must lie in 1-{MOST_ROWS}")
    if arguments.engine == "ray" and arguments.device:
        raise UserError("--device: Ray chooses the devices of its actors; use --actors instead")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg batch",
        description=__doc__,
        epilog="Exit status: 0 if all images were done, 1 if some could not be read, now or in an "
        "earlier run, 2 if the run could not continue, 130 after Ctrl-C or SIGTERM. Finished "
        "shards are kept.",
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a folder, with its subfolders; a glob; an image; a list of images (.txt, or "
        ".parquet with a column path); a tar file of images; or a URL such as s3://bucket/name",
    )
    add_vocabulary(parser)
    add(
        "--output",
        type=user_path,
        required=True,
        help="folder for the results, the same for all parts",
    )
    add(
        "--resume",
        action="store_true",
        help="use the manifest in the output folder instead of listing the images again",
    )
    add(
        "--part",
        type=part_of,
        default=WHOLE,
        metavar="K/N",
        help="make only the K-th of N parts of the shards, e.g. on one of N machines",
    )
    add(
        "--shard-rows",
        type=int,
        help=f"images in a shard; a killed process loses at most one shard (default: {SHARD_ROWS})",
    )
    add(
        "--task",
        choices=("panoptic", "instances"),
        default="panoptic",
        help="what a row holds: things and stuff that do not overlap (default), or instances",
    )
    add(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help=f"lowest score, 0-1, of the segments that are kept (default: {THRESHOLD})",
    )
    add_model(parser)
    add(
        "--device",
        nargs="+",
        type=device_of,
        metavar="DEVICE",
        help="devices, e.g. cuda:0 cuda:1; each runs a process with its own copy of the model, and "
        "a device may be named twice (default: MODEL.DEVICE)",
    )
    add_engine(parser, actors="models")
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs that override the YAML file",
    )
    return parser
