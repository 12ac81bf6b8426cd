"""Segment files with a model and write the results: the work of `frozenseg demo`."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from frozenseg.data.image_files import is_video
from frozenseg.data.results import Predictions, write_panoptic_png
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path
from frozenseg.runtime.background import AsyncWriter, cores, prefetch
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult

logger = logging.getLogger(__name__)

# Bytes of the names of results; file systems take 255, endings included.
LONGEST_NAME = 200


class ImageSegmenter(Protocol):
    """The part of a `Predictor` that is used here."""

    def stream(
        self, images: Iterable[Any], vocabulary: Vocabulary
    ) -> "Iterator[SegmentationResult | UserError]":
        """The results of images, given as paths or (H, W, 3) uint8 RGB, in their order."""


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
    overwrite: bool = False,
) -> Outcome:
    """Segment images and videos; an input that cannot be read does not end the run.

    Into `output` go NAME.png (the picture with its legend) and NAME_panoptic.png of an image,
    NAME.mp4 and NAME_panoptic/000001.png ... of a video, and predictions.json of all
    (`frozenseg.data.results.Predictions`), even if an error or the user ends the run midway. Images
    are read, and results are drawn and written, while the model works.

    overwrite: whether predictions of an earlier run are replaced.
    """
    predictions = Predictions(
        output, names=vocabulary.names, is_thing=vocabulary.is_thing, overwrite=overwrite
    )
    run = _Run(segmenter, output, vocabulary, predictions)
    names = output_names(paths, output)
    for path, name in zip(paths, names, strict=True):
        if name != path.stem:
            logger.info("%s: its results are named %s", path, name)
    inputs = [_Input(*row) for row in zip(itertools.count(), paths, names, strict=False)]
    try:
        with tqdm(total=len(paths), unit=" images", disable=None) as bar:
            for video, group in itertools.groupby(inputs, lambda entry: is_video(entry.path)):
                if not video:
                    run.images(list(group), bar)
                    continue
                for entry in group:
                    run.video(entry)
                    bar.update()
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


class _Input(NamedTuple):
    """A file to segment.

    number: its position among the inputs. name: the name of its results.
    """

    number: int
    path: Path
    name: str


class _Run:
    """Segments inputs and keeps what failed, by the numbers of the inputs."""

    def __init__(
        self,
        segmenter: ImageSegmenter,
        output: Path,
        vocabulary: Vocabulary,
        predictions: Predictions,
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.vocabulary = vocabulary
        self.predictions = predictions
        self.failures: list[tuple[int, str]] = []
        self.losses: list[tuple[int, str]] = []
        self.found: Counter[str] = Counter()

    def images(self, group: list[_Input], bar: "tqdm[Any]") -> None:
        """Segment images; threads draw them, and the lines of the results are added in order."""
        results = self.segmenter.stream([entry.path for entry in group], self.vocabulary)
        with _drawing() as pool, AsyncWriter(cores()) as out:
            for entry, result in zip(group, results, strict=True):
                if isinstance(result, UserError):
                    out.do(self._failed, entry, result)
                else:
                    png = f"{entry.name}_panoptic.png"
                    drawn = pool.submit(self._draw, entry, result, png)
                    out.do(self._add_image, entry, drawn, result, png)
                bar.update()

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

    def _draw(self, entry: _Input, result: "SegmentationResult", png: str) -> None:
        with atomic_path(self.output / f"{entry.name}.png") as temporary:
            # A quarter of the time of Pillow's own level, for files a tenth larger.
            result.draw().save(temporary, compress_level=1)
        write_panoptic_png(self.output / png, result.regions.ids)

    def _add_image(
        self, entry: _Input, drawn: "Future[None]", result: "SegmentationResult", png: str
    ) -> None:
        try:
            drawn.result()
            self._add(result, entry.path.as_posix(), png)
        except WriteError:
            raise  # all images to come would fail too
        except UserError as error:
            self._failed(entry, error)

    def _segment_video(self, entry: _Input) -> None:
        video = read_video(entry.path)
        bar = tqdm(total=video.num_frames or None, unit=" frames", disable=None)
        path = self.output / f"{entry.name}.mp4"
        done = 0
        frames = prefetch(video.frames(), cores())
        writing = video_writer(path, video.fps)
        with writing as append, bar, _drawing() as pool, AsyncWriter(cores()) as out:
            for result in self.segmenter.stream(frames, self.vocabulary):
                if isinstance(result, UserError):
                    raise result
                done += 1
                png = f"{entry.name}_panoptic/{done:06d}.png"
                drawn = pool.submit(self._draw_frame, result, png)
                name = f"{entry.path.as_posix()}#{done}"
                out.do(self._add_frame, append, drawn, result, name, png)
                bar.update()
        if done < video.num_frames:
            lost = f"{done} of the {video.num_frames} frames that it declares can be read"
            self.losses.append((entry.number, f"{entry.path}: {lost}"))

    def _draw_frame(self, result: "SegmentationResult", png: str) -> np.ndarray:
        write_panoptic_png(self.output / png, result.regions.ids)
        # Without a legend: its width depends on the names in view, and all frames have one size.
        return np.asarray(result.draw(legend=False))

    def _add_frame(
        self,
        append: Callable[[np.ndarray], None],
        drawn: "Future[np.ndarray]",
        result: "SegmentationResult",
        name: str,
        png: str,
    ) -> None:
        append(drawn.result())
        self._add(result, name, png)

    def _add(self, result: "SegmentationResult", file_name: str, png: str) -> None:
        regions = result.regions
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


def _drawing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="drawing")
