"""Segment files with a model and write the results: the work of `frozenseg demo`."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

from frozenseg.data.image_files import is_video
from frozenseg.data.images import read_image
from frozenseg.data.results import Predictions, write_panoptic_png
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path
from frozenseg.runtime.background import AsyncWriter, batched, prefetch
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.predictor import SegmentationResult

logger = logging.getLogger(__name__)

# Bytes of the names of results; file systems take 255, endings included.
LONGEST_NAME = 200


class ImageSegmenter(Protocol):
    """The part of a `Predictor` that is used here."""

    def __call__(self, image: np.ndarray, vocabulary: Vocabulary) -> "SegmentationResult":
        """Segment one image (H, W, 3) uint8 RGB."""

    def batch(
        self, images: Sequence[np.ndarray], vocabulary: Vocabulary
    ) -> "list[SegmentationResult]":
        """Segment images of one size; called only with a batch size above 1."""


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
    """Segment images and videos; an input that cannot be read does not end the run.

    Into `output` go NAME.png (the picture with its legend) and NAME_panoptic.png of an image,
    NAME.mp4 and NAME_panoptic/000001.png ... of a video, and predictions.json of all
    (`frozenseg.data.results.Predictions`), even if an error or the user ends the run midway. Images
    are read, and results are drawn and written, while the model works.

    batch_size: the most images of one size that the model takes at once.
    overwrite: whether predictions of an earlier run are replaced.
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
    """The lines in the order of the inputs: images are written while others are read."""
    return [line for _, line in sorted(lines)]


def output_names(paths: list[Path], output: Path) -> list[str]:
    """Choose a name for the results of each input: its own, unless its files would replace others.

    Then the name of its folder is put before it, or a number behind it. No name makes a result
    replace an input or a result of another input.
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
    """Cut a name that leaves no room for an ending."""
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


@dataclass
class _Input:
    """A file to segment.

    number: its position among the inputs.
    name: the name of its results.
    pixels: (H, W, 3) uint8 of an image that has been read; None for a video.
    error: why the image could not be read.
    """

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
    """A key that images of one size share, which may go into one batch."""
    return entry.number if entry.pixels is None else entry.pixels.shape


class _Run:
    """Segments inputs and keeps what failed, by the numbers of the inputs."""

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
        """Finish the predictions of the inputs that are done, when an error ends the run."""
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
                pass  # segmented one by one, the error is that of one image
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
            raise  # all images to come would fail too
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
        # Without a legend: its width depends on the names in view, and all frames have one size.
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
