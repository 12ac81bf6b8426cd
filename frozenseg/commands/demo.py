"""Segment images and videos by the names that a user gives."""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

import frozenseg
from frozenseg.background import Behind, ahead, groups
from frozenseg.commands.precision_argument import add_precision, precision_options
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
    """What `frozenseg.load` gives, as far as it is used here to segment."""

    def __call__(self, image: np.ndarray, vocabulary: Vocabulary) -> "Result": ...

    def batch(self, images: Sequence[np.ndarray], vocabulary: Vocabulary) -> "list[Result]":
        """Images of one size; asked for only with a batch size above 1."""


def main(argv: list[str]) -> int | None:
    """Check all that can be checked without a model, load it, segment, report."""
    arguments = _parser().parse_args(argv)
    vocabulary = _vocabulary(arguments)
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if not arguments.input:
        raise UserError("nothing to segment: give --input FILES, a FOLDER, a GLOB or a VIDEO")
    paths = list_images(arguments.input)
    _make_folder(arguments.output)
    segmenter = frozenseg.load(
        arguments.config_file,
        weights=arguments.weights,
        options=precision_options(arguments) + arguments.options + arguments.opts,
    )
    print(vocabulary.summary(segmenter.training_vocabulary))
    segmenter.embed(vocabulary)  # a name that cannot be encoded is found before the first image

    start = time.monotonic()
    failures = segment_files(
        segmenter,
        paths,
        arguments.output,
        vocabulary=vocabulary,
        batch_size=arguments.batch_size,
    )
    done, seconds = len(paths) - len(failures), time.monotonic() - start
    if not done:
        first = failures[0]
        raise UserError(first if len(paths) == 1 else f"none of {len(paths)} inputs read: {first}")
    print(f"{done} of {len(paths)} in {seconds:.1f} s ({done / seconds:.2f}/s): {arguments.output}")
    for failure in failures:
        print(f"not done: {failure}", file=sys.stderr)
    return 1 if failures else None


def segment_files(
    segmenter: Segmenter,
    paths: list[Path],
    output: Path,
    *,
    vocabulary: Vocabulary,
    batch_size: int = 1,
) -> list[str]:
    """Segment images and videos; return one line for each that could not be, with the reason.

    Written to `output`: for an image NAME.png (the picture with its legend) and NAME_panoptic.png,
    for a video NAME.mp4 and NAME_panoptic/000001.png ..., and predictions.json for all
    (`frozenseg.data.results.Predictions`). That file holds what is done so far, also if an error
    or the user ends the run midway. Images are read, and results drawn and written, beside the
    work of the model; batch_size: how many images of one size it takes at once.
    """
    run = _Run(segmenter, output, vocabulary, batch_size)
    names = output_names(paths, output)
    inputs = [_Input(*row) for row in zip(itertools.count(), paths, names, strict=False)]
    try:
        with tqdm(total=len(paths), unit=" images", disable=None) as bar, Behind(batch_size) as out:
            for group in groups(ahead(map(_read, inputs), batch_size), batch_size, _size):
                if is_video(group[0].path):
                    out.finish()  # predictions.json keeps the order
                    run.video(group[0])
                else:
                    run.images(group, out)
                bar.update(len(group))
    finally:
        run.save()
    return [line for _, line in sorted(run.failures)]


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
        self, segmenter: Segmenter, output: Path, vocabulary: Vocabulary, batch_size: int
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.predictions = Predictions(names=vocabulary.names, is_thing=vocabulary.is_thing)
        self.failures: list[tuple[int, str]] = []
        self.saved = time.monotonic()

    def images(self, group: list[_Input], out: Behind) -> None:
        pixels = [entry.pixels for entry in group if entry.pixels is not None]
        found = self._segment(pixels) if pixels else [entry.error for entry in group]
        for entry, result in zip(group, found, strict=True):
            entry.pixels = None
            out.do(self._write_image, entry, result)

    def video(self, entry: _Input) -> None:
        try:
            self._segment_video(entry)
        except UserError as error:
            self._failed(entry, error)
        self._save_if_due()

    def save(self) -> None:
        if len(self.predictions):  # a run that did nothing leaves the file of an earlier one
            with _writing(self.output):
                self.predictions.save(self.output / "predictions.json")

    def _segment(self, pixels: list[np.ndarray]) -> "list[Result | UserError]":
        if len(pixels) > 1:
            try:
                return [*self.segmenter.batch(pixels, self.vocabulary)]
            except UserError:
                pass  # one by one, the complaint finds its image
        found: list[Result | UserError] = []
        for image in pixels:
            try:
                found.append(self.segmenter(image, vocabulary=self.vocabulary))
            except UserError as error:
                found.append(error)
        return found

    def _write_image(self, entry: _Input, result: "Result | UserError") -> None:
        try:
            if isinstance(result, UserError):
                raise result
            with _writing(self.output):
                with atomic_path(self.output / f"{entry.name}.png") as temporary:
                    result.draw().save(temporary)
                self._write(result, entry.path.as_posix(), f"{entry.name}_panoptic.png")
        except UserError as error:
            self._failed(entry, error)
        self._save_if_due()

    def _segment_video(self, entry: _Input) -> None:
        video = read_video(entry.path)
        frames = groups(ahead(video.frames(), self.batch_size), self.batch_size, np.shape)
        bar = tqdm(total=video.num_frames or None, unit=" frames", disable=None)
        path = self.output / f"{entry.name}.mp4"
        numbers = itertools.count(1)
        with _writing(self.output), video_writer(path, video.fps) as append, bar:
            with Behind(self.batch_size) as out:
                for group in frames:
                    for result in self._segment(group):
                        out.do(self._write_frame, append, entry, next(numbers), result)
                    bar.update(len(group))

    def _write_frame(
        self,
        append: Callable[[np.ndarray], None],
        entry: _Input,
        number: int,
        result: "Result | UserError",
    ) -> None:
        if isinstance(result, UserError):
            raise result
        # its width depends on the names in view, and all frames must be of one size
        append(np.asarray(result.draw(legend=False)))
        png = f"{entry.name}_panoptic/{number:06d}.png"
        self._write(result, f"{entry.path.as_posix()}#{number}", png)

    def _write(self, result: "Result", file_name: str, png: str) -> None:
        regions = result.regions
        write_panoptic_png(self.output / png, regions.ids)
        self.predictions.add(
            file_name=file_name,
            panoptic_file=png,
            panoptic=regions,
            instances=result.instances,
            note=result.note,
        )

    def _failed(self, entry: _Input, error: UserError) -> None:
        named = str(entry.path) in str(error)
        self.failures.append((entry.number, str(error) if named else f"{entry.path}: {error}"))

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()
            self.saved = time.monotonic()


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
    for option in ("vocabulary", "things"):
        _refuse_file_name(option, getattr(arguments, option))
    if arguments.vocabulary_file is None:
        vocabulary = Vocabulary.parse(arguments.vocabulary, arguments.things)
        return replace(vocabulary, source="--vocabulary")
    return Vocabulary.parse(Vocabulary.from_file(arguments.vocabulary_file), arguments.things)


def _refuse_file_name(option: str, value: str | None) -> None:
    """Names are never read as a file, and one that looks like a file is none that was meant."""
    if value is not None and value.strip().lower().endswith((".txt", ".json", ".csv")):
        raise UserError(
            f"--{option} {value}: class names were expected; a file is given by --vocabulary-file"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, epilog="A class is a thing unless COCO knows it as stuff."
    )
    add = parser.add_argument
    add("--input", nargs="+", action="extend", help="image files, a folder, a glob, or videos")
    add("--vocabulary", help='classes separated by ";", their synonyms by ",": "car, truck; road"')
    add(
        "--vocabulary-file",
        help="file with one class a line, name,synonym or id:name,synonym, or JSON",
    )
    add("--things", help='the classes that are countable things, in the same form ("": none)')
    add("--output", type=Path, default=Path("output/demo"), help="folder (default: %(default)s)")
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
