"""Segment images and videos by the names that a user gives."""

import argparse
import itertools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

import frozenseg
from frozenseg.commands.precision_argument import add_precision, precision_options
from frozenseg.data.image_files import is_video, list_images
from frozenseg.data.images import read_image
from frozenseg.data.results import LINES, Predictions, taken, write_panoptic_png
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError, one_line
from frozenseg.files import atomic_path, check_writable, shipped, user_path
from frozenseg.runtime.background import AsyncWriter, batched, prefetch
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from frozenseg.predictor import SegmentationResult

OUTPUT = Path("output/demo")
LONGEST_NAME = 200  # bytes of the names of results; file systems take 255, endings included
MOST_NAMED = 20  # classes in the line that says what was found


class ImageSegmenter(Protocol):
    """The part of a `Predictor` that is used here."""

    def __call__(self, image: np.ndarray, vocabulary: Vocabulary) -> "SegmentationResult":
        """Segment one image (H, W, 3) uint8 RGB."""

    def batch(
        self, images: Sequence[np.ndarray], vocabulary: Vocabulary
    ) -> "list[SegmentationResult]":
        """Segment images of one size; called only with a batch size above 1."""


def main(argv: list[str]) -> int | None:
    """Check all that can be checked without a model, load it, segment, report."""
    arguments = _parser().parse_intermixed_args(argv)
    vocabulary = _vocabulary(arguments)
    if arguments.batch_size < 1:
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
        options=precision_options(arguments) + arguments.options + arguments.opts,
    )
    print(vocabulary.summary(segmenter.training_vocabulary))
    segmenter.embed(vocabulary)  # a name that cannot be encoded is found before the first image

    start = time.monotonic()
    outcome = segment_files(
        segmenter,
        paths,
        output,
        vocabulary=vocabulary,
        batch_size=arguments.batch_size,
        overwrite=arguments.overwrite,
    )
    _report(outcome, len(paths), time.monotonic() - start, output)
    return 1 if outcome.failures or outcome.losses else None


@dataclass
class Outcome:
    """What became of the inputs.

    failures: a line with the reason for each input of which nothing could be done.
    losses: the same for videos that were done in part.
    found: in how many images or frames each class occurs.
    """

    failures: list[str]
    losses: list[str]
    found: Counter[str]


def segment_files(
    segmenter: ImageSegmenter,
    paths: list[Path],
    output: Path,
    *,
    vocabulary: Vocabulary,
    batch_size: int = 1,
    overwrite: bool = False,
) -> Outcome:
    """Segment images and videos; an input that cannot be does not end the run.

    Written to `output`: for an image NAME.png (the picture with its legend) and NAME_panoptic.png,
    for a video NAME.mp4 and NAME_panoptic/000001.png ..., and predictions.json for all
    (`frozenseg.data.results.Predictions`), also if an error or the user ends the run midway. Images
    are read, and results drawn and written, beside the work of the model; batch_size: how many
    images of one size it takes at once. overwrite: predictions of an earlier run are replaced.
    """
    predictions = Predictions(
        output, names=vocabulary.names, is_thing=vocabulary.is_thing, overwrite=overwrite
    )
    run = _Run(segmenter, output, vocabulary, batch_size, predictions)
    names = output_names(paths, output)
    for path, name in zip(paths, names, strict=True):
        if name != path.stem:
            logger.info("%s: its results are named %s", path, name)
    inputs = [_Input(*row) for row in zip(itertools.count(), paths, names, strict=False)]
    try:
        with (
            tqdm(total=len(paths), unit=" images", disable=None) as bar,
            AsyncWriter(batch_size) as out,
        ):
            for group in batched(prefetch(map(_read, inputs), batch_size), batch_size, _size):
                if is_video(group[0].path):
                    out.finish()  # the predictions keep the order
                    run.video(group[0])
                else:
                    run.images(group, out)
                bar.update(len(group))
        predictions.finish()
    except BaseException:
        run.rescue()
        raise
    return Outcome(_in_order(run.failures), _in_order(run.losses), run.found)


def _in_order(lines: list[tuple[int, str]]) -> list[str]:
    """Of the inputs; images are written while others are read."""
    return [line for _, line in sorted(lines)]


def output_names(paths: list[Path], output: Path) -> list[str]:
    """A name for the files of each input: its own, unless they would overwrite others or an input.

    Then the name of its folder is put before it, or a number behind.
    """
    used = {str(path.resolve()).casefold() for path in paths}  # some file systems fold case
    names = []
    for path in paths:
        stem = _shortened(path.stem)
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        folder = _shortened(f"{path.resolve().parent.name}_{path.stem}")
        for name in itertools.chain([stem, folder], numbered):
            files = {
                str((output / f"{name}{ending}").resolve()).casefold()
                for ending in (".png", "_panoptic.png", ".mp4", "_panoptic")
            }
            if used.isdisjoint(files):
                break
        used |= files
        names.append(name)
    return names


def _shortened(name: str) -> str:
    """The beginning of a name that leaves no room for an ending, else all of it."""
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


@dataclass
class _Input:
    """A file to segment. name: of its results. pixels: of an image that is read, else None."""

    number: int
    path: Path
    name: str
    pixels: np.ndarray | None = None
    error: UserError | None = None


def _read(entry: _Input) -> _Input:
    if not is_video(entry.path):
        try:
            entry.pixels = read_image(entry.path)
        except UserError as error:
            entry.error = error
    return entry


def _size(entry: _Input) -> object:
    """What may go into one batch: images of one size."""
    return entry.number if entry.pixels is None else entry.pixels.shape


class _Run:
    """The files that are done so far, and those that could not be, by their number."""

    def __init__(
        self,
        segmenter: ImageSegmenter,
        output: Path,
        vocabulary: Vocabulary,
        batch_size: int,
        predictions: Predictions,
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.predictions = predictions
        self.failures: list[tuple[int, str]] = []
        self.losses: list[tuple[int, str]] = []
        self.found: Counter[str] = Counter()

    def images(self, group: list[_Input], out: AsyncWriter) -> None:
        pixels = [entry.pixels for entry in group if entry.pixels is not None]
        found = self._segment(pixels) if pixels else [entry.error for entry in group]
        for entry, result in zip(group, found, strict=True):
            entry.pixels = None
            out.do(self._write_image, entry, result)

    def video(self, entry: _Input) -> None:
        try:
            self._segment_video(entry)
        except WriteError:
            raise
        except UserError as error:
            self._failed(entry, error)

    def rescue(self) -> None:
        """Keep what is done, in spite of the error that ends the run and is told."""
        try:
            self.predictions.finish()
        except WriteError as error:
            self.predictions.close()
            logger.warning("%s; what is done stands in %s", error, self.predictions.lines)

    def _segment(self, pixels: list[np.ndarray]) -> "list[SegmentationResult | UserError]":
        if len(pixels) > 1:
            try:
                return [*self.segmenter.batch(pixels, self.vocabulary)]
            except UserError:
                pass  # one by one, the complaint finds its image
        found: list[SegmentationResult | UserError] = []
        for image in pixels:
            try:
                found.append(self.segmenter(image, vocabulary=self.vocabulary))
            except UserError as error:
                found.append(error)
        return found

    def _write_image(self, entry: _Input, result: "SegmentationResult | UserError") -> None:
        try:
            if isinstance(result, UserError):
                raise result
            with atomic_path(self.output / f"{entry.name}.png") as temporary:
                result.draw().save(temporary)
            self._write(result, entry.path.as_posix(), f"{entry.name}_panoptic.png")
        except WriteError:
            raise  # so it would be with all images to come
        except UserError as error:
            self._failed(entry, error)

    def _segment_video(self, entry: _Input) -> None:
        video = read_video(entry.path)
        frames = batched(prefetch(video.frames(), self.batch_size), self.batch_size, np.shape)
        bar = tqdm(total=video.num_frames or None, unit=" frames", disable=None)
        path = self.output / f"{entry.name}.mp4"
        done = 0
        with video_writer(path, video.fps) as append, bar, AsyncWriter(self.batch_size) as out:
            for group in frames:
                for result in self._segment(group):
                    done += 1
                    out.do(self._write_frame, append, entry, done, result)
                bar.update(len(group))
        if done < video.num_frames:
            lost = f"{done} of the {video.num_frames} frames that it declares can be read"
            self.losses.append((entry.number, f"{entry.path}: {lost}"))

    def _write_frame(
        self,
        append: Callable[[np.ndarray], None],
        entry: _Input,
        number: int,
        result: "SegmentationResult | UserError",
    ) -> None:
        if isinstance(result, UserError):
            raise result
        # its width depends on the names in view, and all frames must be of one size
        append(np.asarray(result.draw(legend=False)))
        png = f"{entry.name}_panoptic/{number:06d}.png"
        self._write(result, f"{entry.path.as_posix()}#{number}", png)

    def _write(self, result: "SegmentationResult", file_name: str, png: str) -> None:
        regions = result.regions
        write_panoptic_png(self.output / png, regions.ids)
        self.predictions.add(
            file_name=file_name,
            panoptic_file=png,
            panoptic=regions,
            instances=result.instances,
            note=result.note,
        )
        self.found.update(list(dict.fromkeys(segment.name for segment in regions.segments)))

    def _failed(self, entry: _Input, error: UserError) -> None:
        named = str(entry.path) in str(error)
        self.failures.append((entry.number, str(error) if named else f"{entry.path}: {error}"))


def _report(outcome: Outcome, inputs: int, seconds: float, output: Path) -> None:
    """What was done, what was found and what was not; nothing done at all is an error."""
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


def _output_folder(chosen: Path | None, overwrite: bool) -> Path:
    """The folder that was chosen, else the first of output/demo, output/demo_2, ... without
    predictions, or with overwrite output/demo; `Predictions` refuses a chosen one that has some."""
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
        default=1,
        help="images of one size, or frames, at once: faster on a GPU (default: %(default)s)",
    )
    add_precision(parser)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="the published way to KEY VALUE ...")
    add("options", nargs="*", metavar="KEY VALUE", help="settings over those of the YAML file")
    return parser
