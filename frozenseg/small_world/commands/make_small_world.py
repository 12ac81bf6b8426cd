"""Write the small world to disk: a synthetic benchmark in COCO panoptic format."""

import argparse
import os
from pathlib import Path

import yaml
from tqdm import tqdm

from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_picture
from frozenseg.data.benchmarks.small_world_files import WorldFiles, small_world_files
from frozenseg.errors import UserError, nearest
from frozenseg.files import atomic_path, user_path
from frozenseg.small_world.export import SPLITS, export_split
from frozenseg.small_world.pictures import write_clips, write_demo, write_sheet
from frozenseg.small_world.vocabulary import world_vocabulary

COUNTS = {"train": 2400, "val": 200, "video_val": 288}
USUAL = ("train", "val")
WHAT = "--output, --sheet, --demo or --clips"
DESCRIBED = "set.yaml"  # gives the splits short dataset names


def main(argv: list[str]) -> int | None:
    """Write the scenes, their annotations and a sheet of pictures."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    try:
        _write(arguments)
    except OSError as error:
        path = error.filename or arguments.output
        raise UserError(f"{path}: cannot be written ({error})") from None
    return None


def _write(arguments: argparse.Namespace) -> None:
    if arguments.sheet is not None:
        write_sheet(arguments.sheet, arguments.seed)
        print(f"{arguments.sheet}: contact sheet")
    if arguments.demo is not None:
        write_demo(arguments.demo)
        print(f"{arguments.demo}: scenes and vocabulary of the demo")
    if arguments.clips is not None:
        for path in write_clips(arguments.clips, arguments.seed):
            print(f"{path}: a clip")
    if arguments.output is None:
        return
    for split in arguments.split or USUAL:
        count = COUNTS[split] if arguments.count is None else arguments.count
        with tqdm(total=count, desc=split, unit="scene") as bar:
            files = export_split(
                arguments.output,
                split,
                count=count,
                seed=arguments.seed,
                processes=arguments.processes,
                progress=bar.update,
                unannotated=arguments.unannotated,
            )
        print(f"{split}: {count} scenes, {dataset_name(files)}")
    described = arguments.output / DESCRIBED
    with atomic_path(described) as temporary:
        temporary.write_text(yaml.safe_dump(_description(arguments.output), sort_keys=False))
    print(f"{described}: describes them, as {described}:{split}")


def _description(root: Path) -> dict[str, dict[str, str]]:
    """Return each existing split in the form that `frozenseg.data.benchmarks.own_yaml` reads."""
    splits = {split: small_world_files(Path(split), split="") for split in SPLITS}
    fields = ("images", "annotations", "labels", "semantic_labels", "instances")
    return {
        split: {field: getattr(files, field).as_posix() for field in fields}
        for split, files in splits.items()
        if (root / files.annotations).is_file()
    }


def dataset_name(files: WorldFiles) -> str:
    """Return the name under which the commands find the files (`frozenseg.data.benchmarks`)."""
    return f"coco_panoptic:{files.annotations}:{files.labels}:{files.images}"


def _check(arguments: argparse.Namespace) -> None:
    if not (arguments.output or arguments.sheet or arguments.demo or arguments.clips):
        raise UserError(f"nothing to do: give {WHAT}")
    check_least(arguments, count=1, seed=0, processes=1)
    known = world_vocabulary().labels
    for name in arguments.unannotated:
        if name not in known:
            raise UserError(f"--unannotated {name}: no such class; {nearest(name, known)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg make_small_world", description=f"{__doc__} It needs {WHAT}."
    )
    add = parser.add_argument
    counts = ", ".join(f"{count} of {split}" for split, count in COUNTS.items())
    add("--output", type=user_path, help="folder of the splits; a stopped run continues there")
    add("--split", nargs="+", choices=list(SPLITS), help="splits to write (default: train val)")
    add("--count", type=int, help=f"scenes or frames of a split (default: {counts})")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    more = "more classes whose masks are left out of the training split"
    add("--unannotated", nargs="+", default=[], metavar="NAME", help=more)
    cores = os.cpu_count() or 1
    add(
        "--processes",
        type=int,
        default=cores,
        help="processes that draw scenes; the files do not depend on it (default: %(default)s)",
    )
    add("--sheet", type=output_picture, help="write a contact sheet (.png)")
    add("--demo", type=user_path, help="write the demo's scenes and vocabulary into this folder")
    add("--clips", type=user_path, help="write three short videos into this folder")
    return parser
