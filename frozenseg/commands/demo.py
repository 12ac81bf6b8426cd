"""Segment images and videos by the names that a user gives."""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

import frozenseg
from frozenseg.data.images import is_video, list_images, read_image
from frozenseg.data.results import Predictions, write_panoptic_png
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError
from frozenseg.files import atomic_path
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.predictor import Result

SAVE_EVERY = 30.0  # seconds; what a run that is killed may lose of predictions.json


class Segmenter(Protocol):
    """What `frozenseg.load` gives, as far as it is used here."""

    def __call__(self, image: np.ndarray, vocabulary: Vocabulary) -> "Result": ...


def main(argv: list[str]) -> int | None:
    """Check all that can be checked without a model, load it, segment, report."""
    arguments = _parser().parse_args(argv)
    vocabulary = _vocabulary(arguments)
    if not arguments.input:
        raise UserError("nothing to segment: give --input FILES, a FOLDER, a GLOB or a VIDEO")
    paths = list_images(arguments.input)
    _make_folder(arguments.output)
    segmenter = frozenseg.load(
        arguments.config_file, weights=arguments.weights, options=arguments.options + arguments.opts
    )

    start = time.monotonic()
    failures = segment_files(segmenter, paths, arguments.output, vocabulary=vocabulary)
    done, seconds = len(paths) - len(failures), time.monotonic() - start
    if not done:
        first = failures[0]
        raise UserError(first if len(paths) == 1 else f"none of {len(paths)} inputs read: {first}")
    print(f"{done} of {len(paths)} in {seconds:.1f} s ({done / seconds:.2f}/s): {arguments.output}")
    for failure in failures:
        print(f"not done: {failure}", file=sys.stderr)
    return 1 if failures else None


def segment_files(
    segmenter: Segmenter, paths: list[Path], output: Path, *, vocabulary: Vocabulary
) -> list[str]:
    """Segment images and videos; return one line for each that could not be, with the reason.

    Written to `output`: for an image NAME.png (the picture with its legend) and NAME_panoptic.png,
    for a video NAME.mp4 and NAME_panoptic/000001.png ..., and predictions.json for all
    (`frozenseg.data.results.Predictions`). That file holds what is done so far, also if an error
    or the user ends the run midway.
    """
    predictions = Predictions(names=vocabulary.names, is_thing=vocabulary.is_thing)
    failures: list[str] = []
    saved = time.monotonic()
    try:
        with tqdm(total=len(paths), unit=" images", disable=None) as bar:
            for path, name in zip(paths, output_names(paths, output), strict=True):
                segment = _segment_video if is_video(path) else _segment_image
                try:
                    segment(segmenter, path, output, name, vocabulary, predictions)
                except UserError as error:
                    named = str(path) in str(error)
                    failures.append(str(error) if named else f"{path}: {error}")
                if time.monotonic() - saved > SAVE_EVERY:
                    _save(predictions, output)
                    saved = time.monotonic()
                bar.update()
    finally:
        _save(predictions, output)
    return failures


def output_names(paths: list[Path], output: Path) -> list[str]:
    """A name for the files of each input: its own, unless they would overwrite others or an input.

    Then the name of its folder is put before it, or a number behind.
    """
    taken = {str(path.resolve()).casefold() for path in paths}  # some file systems fold case
    names = []
    for path in paths:
        numbered = (f"{path.stem}_{number}" for number in itertools.count(2))
        folder = path.resolve().parent.name
        for name in itertools.chain([path.stem, f"{folder}_{path.stem}"], numbered):
            files = {
                str((output / f"{name}{ending}").resolve()).casefold()
                for ending in (".png", "_panoptic.png", ".mp4", "_panoptic")
            }
            if taken.isdisjoint(files):
                break
        taken |= files
        names.append(name)
    return names


def _segment_image(
    segmenter: Segmenter,
    path: Path,
    output: Path,
    name: str,
    vocabulary: Vocabulary,
    predictions: Predictions,
) -> None:
    result = segmenter(read_image(path), vocabulary=vocabulary)
    with _writing(output):
        with atomic_path(output / f"{name}.png") as temporary:
            result.draw().save(temporary)
        _write_prediction(result, path.as_posix(), output, f"{name}_panoptic.png", predictions)


def _segment_video(
    segmenter: Segmenter,
    path: Path,
    output: Path,
    name: str,
    vocabulary: Vocabulary,
    predictions: Predictions,
) -> None:
    video = read_video(path)
    frames = tqdm(video.frames(), total=video.num_frames or None, unit=" frames", disable=None)
    with _writing(output), video_writer(output / f"{name}.mp4", video.fps) as append, frames:
        for number, frame in enumerate(frames, start=1):
            result = segmenter(frame, vocabulary=vocabulary)
            # its width depends on the names in view, and all frames must be of one size
            append(np.asarray(result.draw(legend=False)))
            png = f"{name}_panoptic/{number:06d}.png"
            _write_prediction(result, f"{path.as_posix()}#{number}", output, png, predictions)


def _write_prediction(
    result: "Result", file_name: str, output: Path, png: str, predictions: Predictions
) -> None:
    assert result.panoptic is not None, "Result.draw has refused this before"
    write_panoptic_png(output / png, result.panoptic.ids)
    predictions.add(
        file_name=file_name,
        panoptic_file=png,
        panoptic=result.panoptic,
        instances=result.instances,
        note=result.note,
    )


def _save(predictions: Predictions, output: Path) -> None:
    if len(predictions):  # a run that did nothing leaves the file of an earlier one
        with _writing(output):
            predictions.save(output / "predictions.json")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn a full disk and its like into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{output}: cannot write there ({error.strerror or error})") from None


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not os.access(output, os.W_OK | os.X_OK):
        raise UserError(f"--output {output}: may not be written to; choose another folder")


def _vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    if (arguments.vocabulary is None) == (arguments.vocabulary_file is None):
        raise UserError('name the classes by either --vocabulary "a, b; c" or --vocabulary-file F')
    if arguments.vocabulary_file is None:
        return Vocabulary.parse(arguments.vocabulary, arguments.things)
    return Vocabulary.parse(Vocabulary.from_file(arguments.vocabulary_file), arguments.things)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, epilog="A class is a thing unless COCO knows it as stuff."
    )
    add = parser.add_argument
    add("--input", nargs="+", action="extend", help="image files, a folder, a glob, or videos")
    add("--vocabulary", help='classes separated by ";", their synonyms by ",": "car, truck; road"')
    add("--vocabulary-file", help="file with one class a line: name,synonym or id:name,synonym")
    add("--things", help='the classes that are countable things, in the same form ("": none)')
    add("--output", type=Path, default=Path("output/demo"), help="folder (default: %(default)s)")
    add("--config-file", default="small", help="model: a YAML file, a folder, or a shipped name")
    add("--weights", help="checkpoint of the trained parts, instead of the model's own")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="the published way to KEY VALUE ...")
    add("options", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML file")
    return parser
