"""Segment images and videos into the classes that are named on the command line."""

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
from frozenseg.notes import note
from frozenseg.results.selection import THRESHOLD, checked_threshold
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.predictor import Predictor
    from frozenseg.results.result import SegmentationResult

OUTPUT = Path("output/demo")
MOST_NAMED = 20  # largest number of classes in the line that says what was found
MOST_REPORTED = 20  # largest number of images for which each result is printed on its own line


def main(argv: list[str]) -> int | None:
    """Check what can be checked without the model; then load it, segment, and report."""
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
                tell=_tell if len(paths) <= MOST_REPORTED else None,
                video=video,
            )
    one_image = len(paths) == 1 and not is_film(paths[0])
    _report(outcome, time.monotonic() - start, output, one_image)
    return 1 if outcome.failures or outcome.losses else None


def _inputs(arguments: argparse.Namespace) -> list[Path | str]:
    """Return the input files without results of earlier runs, then the cameras and streams."""
    found = list_images(
        [entry for entry in arguments.input if not is_live(entry)],
        recursive=arguments.recursive,
        leave_out=arguments.output or OUTPUT,
        keep=_without_results,
    )
    return [*found, *filter(is_live, arguments.input)]


def _without_results(entry: str, found: list[Path]) -> list[Path]:
    """Leave out the results of earlier runs among the files of a folder or glob."""
    paths = without_results(found, root_of([entry]))
    if not paths:
        raise UserError(f"{entry}: contains only results of earlier runs; give your own images")
    if len(paths) < len(found):
        note(f"{entry}: {len(found) - len(paths)} results of earlier runs are left out")
    return paths


def _model(
    arguments: argparse.Namespace,
    options: list[str],
    vocabulary: Vocabulary,
    more: dict[str, Any],
) -> tuple["Predictor", Header]:
    """Load the model, encode the names, and return the model and a header for its predictions.

    more: settings for the header in addition to those of the model.
    """
    # Imported only now, because importing torch takes seconds.
    from frozenseg.build.prediction_settings import load_with_settings

    segmenter, settings = load_with_settings(
        arguments.config_file,
        weights=arguments.weights,
        options=[*options, *arguments.options, *arguments.opts],
    )
    print(f"model: {arguments.config_file} on {segmenter.model.device}")
    print(vocabulary.summary(segmenter.training_vocabulary, plurals=True))
    segmenter.embed(vocabulary)  # fails before the first image if a name cannot be encoded
    return segmenter, Header(
        categories=categories_of(vocabulary.names, vocabulary.is_thing),
        settings={**settings, "threshold": arguments.threshold, **more},
        root=str(root_of([e for e in arguments.input if not is_live(e)] or ["."])),
    )


def _tell(name: str, result: "SegmentationResult") -> None:
    tqdm.write(one_line(f"{name}: {result.summary()}"))  # above the bar


def _report(outcome: Outcome, seconds: float, output: Path, one_image: bool) -> None:
    """Print what was done, found and not done; raise `UserError` if nothing was done."""
    new = outcome.inputs - outcome.earlier - len(outcome.failures)
    if outcome.failures and not outcome.earlier and not new:
        first, inputs = outcome.failures[0], outcome.inputs
        raise UserError(first if inputs == 1 else f"none of {inputs} inputs done: {first}")
    line = f"{new} of {outcome.inputs} in {seconds:.1f} s ({new / seconds:.2f}/s): {output}"
    line += f"; {outcome.earlier} were done before" if outcome.earlier else ""
    line += f", of which {outcome.drawn} were drawn now" if outcome.drawn else ""
    print(one_line(line))
    common = outcome.found.most_common()
    named = [f"{name} in {count}" for name, count in common[:MOST_NAMED]]
    more = [f"{len(common) - MOST_NAMED} more classes"] if len(common) > MOST_NAMED else []
    if new and not one_image:  # the line of a single image has already said it
        print(one_line(f"found: {', '.join(named + more) or 'none of the classes'}"))
    for kind, lines in (("not done", outcome.failures), ("incomplete", outcome.losses)):
        for line in lines:
            print(one_line(f"{kind}: {line}"), file=sys.stderr)


def _output_folder(arguments: argparse.Namespace, header: Header) -> Path:
    """Return the folder given by --output, or choose one.

    Without --output, it is the first of output/demo, output/demo_2, ... that is free or holds the
    results of a stopped run with the same settings; with --overwrite, it is always output/demo.
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
    """Return the requested classes.

    Without a vocabulary and without an input, `arguments.input` is set to two scenes that ship with
    the package, and their classes are returned.
    """
    if not arguments.input and arguments.vocabulary is None and arguments.vocabulary_file is None:
        print("no --input: using two scenes that ship with the package, and their classes")
        scenes = shipped("demo") / "images"
        arguments.input = [str(scenes / f"scene_{number}.png") for number in (1, 2)]
        return Vocabulary.packaged("small_world")
    return vocabulary_of(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg demo",
        description=__doc__,
        epilog="A class is a thing unless it is a stuff class of COCO. Exit status: 0 if all "
        "inputs were done; 1 if some inputs were not done, or a video only in part (their names "
        "are printed last); 2 if no input was done, or the results could not be written; 130 after "
        "Ctrl-C or SIGTERM. Finished results are kept, and the same command continues with the "
        "rest.",
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
        help="folder for the results; results that it already holds, of the same files, model, "
        f"classes and settings, are not made again (default: {OUTPUT}, or {OUTPUT}_2, ...)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the predictions of an earlier run in the output folder; pictures of other "
        "inputs are kept",
    )
    add(
        "--part",
        type=part_of,
        default=WHOLE,
        metavar="K/N",
        help="segment only the K-th of N parts of the inputs; the part that ends last writes the "
        "JSON files of all parts",
    )
    add(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help=f"lowest score (0-1) of the regions and objects to keep (default: {THRESHOLD})",
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
