"""Segment files with a model and write the results: the work of `frozenseg demo`."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from frozenseg.commands.result_names import Input, named_inputs
from frozenseg.data.image_files import is_video
from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import (
    FOLDER,
    PANOPTIC,
    missing_parts,
    png_bytes,
    standard_files,
    write_panoptic_png,
    write_standard_files,
)
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path, remove_temporaries
from frozenseg.runtime.background import AsyncWriter, cores, prefetch
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult

logger = logging.getLogger(__name__)


class ImageSegmenter(Protocol):
    """The part of a `Predictor` that is used here."""

    def stream(
        self, images: Iterable[Any], vocabulary: Vocabulary, *, threshold: float
    ) -> "Iterator[SegmentationResult | UserError]":
        """Yield the results of images, given as paths or (H, W, 3) uint8 RGB, in their order."""


@dataclass
class Outcome:
    """What became of the inputs.

    inputs: how many there were. earlier: how many of them earlier runs had done.
    failures: a line with the reason for each input of which nothing could be done.
    losses: the same for videos that were done in part.
    found: in how many images or frames each class occurs.
    """

    inputs: int
    earlier: int
    failures: list[str]
    losses: list[str]
    found: Counter[str]


def segment_files(
    segmenter: ImageSegmenter,
    paths: list[Path],
    output: Path,
    lines: PredictionLines,
    *,
    vocabulary: Vocabulary,
    threshold: float = 0.0,
    pictures: bool = True,
    tell: "Callable[[str, SegmentationResult], None] | None" = None,
) -> Outcome:
    """Segment images and videos; an input that cannot be read does not end the run.

    Into `output` go NAME.png, the picture of an image with its legend, and NAME.mp4 of a video.
    Into `output/predictions` go panoptic/NAME.png of an image, panoptic/NAME/000001.png ... of a
    video, and the lines and JSON files of all (`frozenseg.data.results`), even if an error or the
    user ends the run midway. Images are read, and results are drawn and written, while the model
    works. What the lines have already is skipped.

    threshold: the least score of a region or an object that is kept.
    pictures: whether NAME.png and NAME.mp4 are made, which takes longer than all other files.
    tell: is called with each image, named as in the lines, when its files are written.
    """
    run = _Run(segmenter, output, vocabulary, lines, threshold, pictures, tell)
    inputs = [entry for entry in named_inputs(paths, output, lines) if lines.part.has(entry.source)]
    waiting = [entry for entry in inputs if entry.source not in lines.done]
    _remove_half_written(inputs, output, alone=lines.part.total == 1)
    try:
        with tqdm(
            total=len(inputs),
            initial=len(inputs) - len(waiting),
            unit=" images",
            disable=None,
        ) as bar:
            for video, group in itertools.groupby(waiting, lambda entry: is_video(entry.path)):
                if not video:
                    run.images(list(group), bar)
                    continue
                for entry in group:
                    run.video(entry)
                    bar.update()
    except BaseException:
        run.rescue()
        raise
    if len(waiting) > len(run.failures) or not waiting:
        run.finish(anything_new=bool(waiting))
    earlier = len(inputs) - len(waiting)
    failures, losses = _in_order(run.failures), _in_order(run.losses)
    return Outcome(len(inputs), earlier, failures, losses, run.found)


def _remove_half_written(inputs: list[Input], output: Path, alone: bool) -> None:
    """Remove what killed runs were writing when they ended. alone: no other part may be writing."""
    pngs = output / FOLDER / PANOPTIC
    names = {Path(entry.name).parent for entry in inputs}
    videos = {Path(entry.name) for entry in inputs if is_video(entry.path)}
    for folder in {pngs / name for name in names | videos} | {output / name for name in names}:
        remove_temporaries(folder, "*.png", alone=alone)
    for name in names:
        remove_temporaries(output / name, "*.mp4", alone=alone)
    remove_temporaries(output / FOLDER, "*.json", alone=alone)


def _in_order(lines: list[tuple[int, str]]) -> list[str]:
    """Return the lines in the order of the inputs: images are written while others are read."""
    return [line for _, line in sorted(lines)]


class _Run:
    """Segments inputs and keeps what failed, by the numbers of the inputs."""

    def __init__(
        self,
        segmenter: ImageSegmenter,
        output: Path,
        vocabulary: Vocabulary,
        lines: PredictionLines,
        threshold: float,
        pictures: bool,
        tell: "Callable[[str, SegmentationResult], None] | None",
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.vocabulary = vocabulary
        self.lines = lines
        self.threshold = threshold
        self.pictures = pictures
        self.tell = tell
        self.failures: list[tuple[int, str]] = []
        self.losses: list[tuple[int, str]] = []
        self.found: Counter[str] = Counter()

    def images(self, group: list[Input], bar: "tqdm[Any]") -> None:
        """Segment images; threads draw them, and the lines of the results are added in order."""
        results = self._results(entry.path for entry in group)
        with _drawing() as pool, AsyncWriter(cores()) as out:
            for entry, result in zip(group, results, strict=True):
                if isinstance(result, UserError):
                    out.do(self._failed, entry, result)
                else:
                    png = f"{entry.name}.png"
                    drawn = pool.submit(self._draw, entry, result, png)
                    out.do(self._add_image, entry, drawn, result, png)
                bar.update()

    def video(self, entry: Input) -> None:
        try:
            self._segment_video(entry)
        except WriteError:
            raise
        except UserError as error:
            self.lines.drop_video()
            self._failed(entry, error)

    def finish(self, anything_new: bool) -> None:
        """Make the standard files, if this was the last part that has work."""
        folder = self.lines.path.parent
        if anything_new or not self.lines.ended:
            self.lines.end()
        if missing := missing_parts(folder):
            logger.warning(
                "%s: the JSON files will be made when part %s of %d has ended too",
                folder,
                ", ".join(map(str, missing)),
                self.lines.part.total,
            )
        elif anything_new or not all(path.exists() for path in standard_files(folder)):
            write_standard_files(folder)

    def rescue(self) -> None:
        """Make the standard files of the inputs that are done, when an error ends the run."""
        if self.lines.part.total > 1 or self.lines.is_empty():
            return
        try:
            write_standard_files(self.lines.path.parent)
        except WriteError as error:
            logger.warning("%s; what is done stands in %s", error, self.lines.path)

    def _draw(self, entry: Input, result: "SegmentationResult", png: str) -> None:
        if self.pictures:
            with atomic_path(self.output / f"{entry.name}.png") as temporary:
                temporary.write_bytes(png_bytes(result.draw()))
        write_panoptic_png(self._panoptic(png), result.regions.ids)

    def _panoptic(self, png: str) -> Path:
        return self.output / FOLDER / PANOPTIC / png

    def _add_image(
        self, entry: Input, drawn: "Future[None]", result: "SegmentationResult", png: str
    ) -> None:
        try:
            drawn.result()
            self._add(result, entry.source, entry.source, png)
            if self.tell is not None:
                self.tell(entry.source, result)
        except WriteError:
            raise  # all images to come would fail too
        except UserError as error:
            self._failed(entry, error)

    def _segment_video(self, entry: Input) -> None:
        video = read_video(entry.path)
        bar = tqdm(total=video.num_frames or None, unit=" frames", disable=None)
        path = self.output / f"{entry.name}.mp4"
        done = 0
        frames = prefetch(video.frames(), cores())
        writing = video_writer(path, video.fps) if self.pictures else nullcontext(_no_picture)
        with writing as append, bar, _drawing() as pool, AsyncWriter(cores()) as out:
            for result in self._results(frames):
                if isinstance(result, UserError):
                    raise result
                done += 1
                png = f"{entry.name}/{done:06d}.png"
                drawn = pool.submit(self._draw_frame, result, png)
                names = (entry.source, f"{entry.source}#{done}", png)
                out.do(self._add_frame, append, drawn, result, names)
                bar.update()
        self.lines.end_video(entry.source, done)
        if done < video.num_frames:
            lost = f"{done} of the {video.num_frames} frames that it declares can be read"
            self.losses.append((entry.number, f"{entry.path}: {lost}"))

    def _draw_frame(self, result: "SegmentationResult", png: str) -> np.ndarray:
        write_panoptic_png(self._panoptic(png), result.regions.ids)
        if not self.pictures:
            return result.image
        # Without a legend: its width depends on the names in view, and all frames have one size.
        return np.asarray(result.draw(legend=False))

    def _add_frame(
        self,
        append: Callable[[np.ndarray], None],
        drawn: "Future[np.ndarray]",
        result: "SegmentationResult",
        names: tuple[str, str, str],
    ) -> None:
        append(drawn.result())
        self._add(result, *names)

    def _add(self, result: "SegmentationResult", source: str, file_name: str, png: str) -> None:
        regions = result.regions
        self.lines.add(
            source=source,
            file_name=file_name,
            panoptic_file=png,
            panoptic=regions,
            instances=result.instances,
            note=result.note,
        )
        self.found.update(list(dict.fromkeys(segment.name for segment in regions.segments)))

    def _results(self, images: Iterable[Any]) -> "Iterator[SegmentationResult | UserError]":
        return self.segmenter.stream(images, self.vocabulary, threshold=self.threshold)

    def _failed(self, entry: Input, error: UserError) -> None:
        named = str(entry.path) in str(error)
        self.failures.append((entry.number, str(error) if named else f"{entry.path}: {error}"))


def _no_picture(frame: np.ndarray) -> None:
    """Take the place of what appends a frame to a video."""


def _drawing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="drawing")
