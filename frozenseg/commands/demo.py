"""Segment images and videos by the names that a user gives."""

import argparse
import contextlib
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from frozenseg.commands.model_arguments import add_model, model_options
from frozenseg.commands.part_argument import part_of
from frozenseg.commands.result_names import is_film
from frozenseg.commands.segment_files import Outcome, segment_files
from frozenseg.commands.video_arguments import add_video, video_options
from frozenseg.commands.vocabulary_arguments import add_vocabulary, vocabulary_of
from frozenseg.data.coco_records import categories_of
from frozenseg.data.image_files import list_images, root_of
from frozenseg.data.notes import note
from frozenseg.data.prediction_lines import (
    WHOLE,
    Header,
    Part,
    PredictionLines,
    check_header,
    has_ended,
    line_files,
)
from frozenseg.data.results import FOLDER, check_own, without_results
from frozenseg.data.video import is_live
from frozenseg.engine.lock import only_writer
from frozenseg.errors import UserError, one_line
from frozenseg.files import check_writable, shipped, user_path
from frozenseg.results.selection import THRESHOLD, checked_threshold
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.predictor import Predictor
    from frozenseg.results.result import SegmentationResult

OUTPUT = Path("output/demo")
MOST_NAMED = 20  # classes in the line that says what was found
MOST_TOLD = 20  # images of which each has a line of its own


def main(argv: list[str]) -> int | None:
    """Check all that can be checked without a model, load it, segment, report."""
    arguments = _parser().parse_intermixed_args(argv)
    vocabulary = _vocabulary(arguments)
    model = model_options(arguments)
    checked_threshold(arguments.threshold)
    if not arguments.input:
        raise UserError("nothing to segment: give --input FILES, a FOLDER, a GLOB or a VIDEO")
    video, paths = video_options(arguments), _inputs(arguments)
    if arguments.output is not None:
        folder = arguments.output / FOLDER
        if not arguments.overwrite:
            check_own(folder)
        check_writable(folder / arguments.part.file_name)
    settings = video.settings() if any(map(is_film, paths)) else {}
    segmenter, header = _model(arguments, model, vocabulary, settings)
    output = _output_folder(arguments, header)
    folder, lock = output / FOLDER, f"{Path(arguments.part.file_name).stem}.lock"
    with only_writer(folder, lock):
        lines = PredictionLines(folder, header, part=arguments.part, overwrite=arguments.overwrite)
        with contextlib.closing(lines):
            start = time.monotonic()
            outcome = segment_files(
                segmenter,
                paths,
                output,
                lines,
                vocabulary=vocabulary,
                threshold=arguments.threshold,
                pictures=not arguments.no_pictures,
                tell=_tell if len(paths) <= MOST_TOLD else None,
                video=video,
            )
    one_image = len(paths) == 1 and not is_film(paths[0])
    _report(outcome, time.monotonic() - start, output, one_image)
    return 1 if outcome.failures or outcome.losses else None


def _inputs(arguments: argparse.Namespace) -> list[Path | str]:
    """Return the files, but for results of earlier runs, and after them the cameras and streams."""
    found = list_images(
        [entry for entry in arguments.input if not is_live(entry)],
        recursive=arguments.recursive,
        leave_out=arguments.output or OUTPUT,
        keep=_without_results,
    )
    return [*found, *filter(is_live, arguments.input)]


def _without_results(entry: str, found: list[Path]) -> list[Path]:
    """Leave out what earlier runs have written, of the files that a folder or glob names."""
    paths = without_results(found, root_of([entry]))
    if not paths:
        raise UserError(f"{entry}: names only results of earlier runs; name your images")
    if len(paths) < len(found):
        note(f"{entry}: {len(found) - len(paths)} results of earlier runs are left out")
    return paths


def _model(
    arguments: argparse.Namespace,
    options: list[str],
    vocabulary: Vocabulary,
    more: dict[str, Any],
) -> tuple["Predictor", Header]:
    """Load the model, encode the names, and say how its predictions are made.

    more: settings beside those of the model.
    """
    from frozenseg.build.prediction_settings import load_with_settings  # torch takes seconds

    segmenter, settings = load_with_settings(
        arguments.config_file,
        weights=arguments.weights,
        options=[*options, *arguments.options, *arguments.opts],
    )
    print(f"model: {arguments.config_file} on {segmenter.model.device}")
    print(vocabulary.summary(segmenter.training_vocabulary, plurals=True))
    segmenter.embed(vocabulary)  # a name that cannot be encoded is found before the first image
    return segmenter, Header(
        categories=categories_of(vocabulary.names, vocabulary.is_thing),
        settings={**settings, "threshold": arguments.threshold, **more},
        root=str(root_of([e for e in arguments.input if not is_live(e)] or ["."])),
    )


def _tell(name: str, result: "SegmentationResult") -> None:
    tqdm.write(one_line(f"{name}: {result.summary()}"))  # above the bar


def _report(outcome: Outcome, seconds: float, output: Path, one_image: bool) -> None:
    """Print what was done and found, and what was not; raise `UserError` if nothing was done."""
    new = outcome.inputs - outcome.earlier - len(outcome.failures)
    if outcome.failures and not outcome.earlier and not new:
        first, inputs = outcome.failures[0], outcome.inputs
        raise UserError(first if inputs == 1 else f"none of {inputs} inputs done: {first}")
    line = f"{new} of {outcome.inputs} in {seconds:.1f} s ({new / seconds:.2f}/s): {output}"
    line += f"; {outcome.earlier} were done before" if outcome.earlier else ""
    line += f", {outcome.drawn} of them are drawn now" if outcome.drawn else ""
    print(one_line(line))
    common = outcome.found.most_common()
    named = [f"{name} in {count}" for name, count in common[:MOST_NAMED]]
    more = [f"{len(common) - MOST_NAMED} more classes"] if len(common) > MOST_NAMED else []
    if new and not one_image:  # whose own line has said it
        print(one_line(f"found: {', '.join(named + more) or 'none of the classes'}"))
    for kind, lines in (("not done", outcome.failures), ("not whole", outcome.losses)):
        for line in lines:
            print(one_line(f"{kind}: {line}"), file=sys.stderr)


def _output_folder(arguments: argparse.Namespace, header: Header) -> Path:
    """Return the chosen folder, else the first of output/demo, output/demo_2, ... that is free, or
    holds what a stopped run of the same settings has done.

    With --overwrite, output/demo is taken in place of the latter.
    """
    if arguments.output is not None:
        return Path(arguments.output)
    if arguments.overwrite:
        return OUTPUT
    numbered = (OUTPUT.with_name(f"{OUTPUT.name}_{number}") for number in itertools.count(2))
    folders = itertools.chain([OUTPUT], numbered)
    return next(folder for folder in folders if _free(folder / FOLDER, header, arguments.part))


def _free(folder: Path, header: Header, part: Part) -> bool:
    files = line_files(folder)
    if part in files and has_ended(files[part]):
        return False
    try:
        check_own(folder)
        check_header(folder, header, part)
    except UserError:
        return False
    return True


def _vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    """Return the classes that are asked for. Without those and without an input, `arguments` get
    two scenes that ship with the package."""
    if not arguments.input and arguments.vocabulary is None and arguments.vocabulary_file is None:
        print("no --input: two scenes that ship with the package, and the names of their world")
        scenes = shipped("demo") / "images"
        arguments.input = [str(scenes / f"scene_{number}.png") for number in (1, 2)]
        return Vocabulary.packaged("small_world")
    return vocabulary_of(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg demo",
        description=__doc__,
        epilog="A class is a thing unless COCO knows it as stuff. Exit status: 0 if all inputs "
        "were done; 1 if some were not, or a video only in part (their names are printed last); 2 "
        "if none was, or the results could not be written; 130 after Ctrl-C or SIGTERM. Finished "
        "results are kept, and the same command continues with the rest.",
    )
    add = parser.add_argument
    files = "image files, folders, globs, videos, the number of a camera, or an rtsp:// address "
    files += "(default: without a vocabulary, two scenes that ship with the package)"
    add("--input", "--video-input", nargs="+", action="extend", help=files)
    add("--recursive", action="store_true", help="search subfolders too")
    add_vocabulary(parser)
    add(
        "--output",
        type=user_path,
        help="folder for the results; results there of the same model, classes and settings are "
        f"not made again (default: {OUTPUT}, or {OUTPUT}_2, ...)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the predictions of an earlier run there; pictures of other inputs stay",
    )
    add(
        "--part",
        type=part_of,
        default=WHOLE,
        metavar="K/N",
        help="do the K-th of N shares of the inputs; the last to end makes the JSON files of all",
    )
    add(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help=f"lowest score, 0-1, of the regions and objects that are kept (default: {THRESHOLD})",
    )
    add("--no-pictures", action="store_true", help="write only the predictions, which is faster")
    add_video(parser)
    add_model(parser)
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        help="KEY VALUE pairs, as in the published command lines",
    )
    add(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    return parser
