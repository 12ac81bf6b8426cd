"""Segment images and videos by the names that a user gives."""

import argparse
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import frozenseg
from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.commands.segment_files import Outcome, segment_files
from frozenseg.data.image_files import list_images
from frozenseg.data.results import LINES, Predictions, taken
from frozenseg.errors import UserError, one_line
from frozenseg.files import check_writable, shipped, user_path
from frozenseg.text.vocabulary import Vocabulary

OUTPUT = Path("output/demo")
MOST_NAMED = 20  # classes in the line that says what was found


def main(argv: list[str]) -> int | None:
    """Check all that can be checked without a model, load it, segment, report."""
    arguments = _parser().parse_intermixed_args(argv)
    vocabulary = _vocabulary(arguments)
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if not arguments.input:
        raise UserError("nothing to segment: give --input FILES, a FOLDER, a GLOB or a VIDEO")
    paths = list_images(arguments.input)
    output = _output_folder(arguments.output, arguments.overwrite)
    if arguments.overwrite:  # what is there stays until the first image is about to be segmented
        check_writable(output / LINES)
    else:
        predictions = Predictions(output, names=vocabulary.names, is_thing=vocabulary.is_thing)
        predictions.close()  # one may write there, and no other run does
    segmenter = frozenseg.load(
        arguments.config_file,
        weights=arguments.weights,
        options=[
            *precision_options(arguments),
            *_batch_options(arguments),
            *arguments.options,
            *arguments.opts,
        ],
    )
    print(vocabulary.summary(segmenter.training_vocabulary))
    segmenter.embed(vocabulary)  # a name that cannot be encoded is found before the first image

    start = time.monotonic()
    outcome = segment_files(
        segmenter,
        paths,
        output,
        vocabulary=vocabulary,
        overwrite=arguments.overwrite,
    )
    _report(outcome, len(paths), time.monotonic() - start, output)
    return 1 if outcome.failures or outcome.losses else None


def _report(outcome: Outcome, inputs: int, seconds: float, output: Path) -> None:
    """Print what was done and found, and what was not; raise `UserError` if nothing was done."""
    done = inputs - len(outcome.failures)
    if not done:
        first = outcome.failures[0]
        raise UserError(first if inputs == 1 else f"none of {inputs} inputs done: {first}")
    print(one_line(f"{done} of {inputs} in {seconds:.1f} s ({done / seconds:.2f}/s): {output}"))
    common = outcome.found.most_common()
    named = [f"{name} in {count}" for name, count in common[:MOST_NAMED]]
    more = [f"{len(common) - MOST_NAMED} more classes"] if len(common) > MOST_NAMED else []
    print(one_line(f"found: {', '.join(named + more) or 'none of the classes'}"))
    for kind, lines in (("not done", outcome.failures), ("not whole", outcome.losses)):
        for line in lines:
            print(one_line(f"{kind}: {line}"), file=sys.stderr)


def _batch_options(arguments: argparse.Namespace) -> list[str]:
    size = arguments.batch_size
    return [] if size is None else ["TEST.IMS_PER_BATCH", str(size)]


def _output_folder(chosen: Path | None, overwrite: bool) -> Path:
    """Return the chosen folder, else the first of output/demo, output/demo_2, ... that is free.

    With overwrite, output/demo is taken in place of the latter. `Predictions` refuses a chosen
    folder that has predictions.
    """
    if chosen is not None:
        return chosen
    if overwrite:
        return OUTPUT
    numbered = (OUTPUT.with_name(f"{OUTPUT.name}_{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([OUTPUT], numbered) if not taken(folder))


def _vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    """Return the classes that are asked for. Without those and without an input, `arguments` get
    two scenes that ship with the package."""
    if not arguments.input and arguments.vocabulary is None and arguments.vocabulary_file is None:
        print("no --input: two scenes that ship with the package, and the names of their world")
        scenes = shipped("demo") / "images"
        arguments.input = [str(scenes / f"scene_{number}.png") for number in (1, 2)]
        return Vocabulary.packaged("small_world")
    if (arguments.vocabulary is None) == (arguments.vocabulary_file is None):
        raise UserError('name the classes by either --vocabulary "a, b; c" or --vocabulary-file F')
    if arguments.vocabulary_file is None:
        vocabulary = Vocabulary.parse(arguments.vocabulary, arguments.things)
        return replace(vocabulary, source="--vocabulary")
    return Vocabulary.parse(Vocabulary.from_file(arguments.vocabulary_file), arguments.things)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frozenseg demo",
        description=__doc__,
        epilog="A class is a thing unless COCO knows it as stuff. Exit status: 0 if all inputs "
        "were done, 1 if some were not, or a video in part (their names come last), 2 if none was, "
        "or the results could not be written; 130 after Ctrl-C or SIGTERM: what was done is kept.",
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        action="extend",
        help="image files, a folder, a glob, or videos; without it, two scenes",
    )
    add("--vocabulary", help='classes separated by ";", their synonyms by ",": "car, truck; road"')
    add(
        "--vocabulary-file",
        type=user_path,
        help="file with one class a line, name,synonym or id:name,synonym, or JSON",
    )
    add("--things", help='the classes that are countable things, in the same form ("": none)')
    add(
        "--output",
        type=user_path,
        help=f"folder without results of an earlier run (default: {OUTPUT}, or {OUTPUT}_2, ...)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the predictions of an earlier run there; pictures of other inputs stay",
    )
    add("--config-file", default="small", help="model: a YAML file, a folder, or a shipped name")
    add("--weights", help="checkpoint of the trained parts, instead of the model's own")
    add(
        "--batch-size",
        type=int,
        help="images of one padded size, or frames, that the model takes at once, faster on a GPU: "
        "short for TEST.IMS_PER_BATCH",
    )
    add_precision(parser)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="the published way to KEY VALUE ...")
    add("options", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML file")
    return parser
