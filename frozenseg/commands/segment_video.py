"""Segment videos, cameras and streams: the part of `frozenseg demo` that handles them."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from frozenseg.commands.made_again import remove_results
from frozenseg.commands.result_names import Input
from frozenseg.commands.stored_results import stored_result
from frozenseg.data.coco_records import track_records
from frozenseg.data.file_states import stamp_of, state_of
from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import panoptic_path, write_panoptic_png
from frozenseg.data.video import Append, Frame, Selection, Video, read_video, video_writer
from frozenseg.errors import UserError
from frozenseg.runtime.background import AsyncWriter, cores, newest, prefetch
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult
    from frozenseg.tracking.tracker import Tracker

# A stopped run can be continued after every MARK_EVERY frames. This is a multiple of
# `frozenseg.results.following.AFRESH`, so that the first frame after the continuation is one that
# is segmented in any case, and never one that reuses the result of an earlier frame.
MARK_EVERY = 16


class ImageSegmenter(Protocol):
    """The method of `Predictor` that is used here."""

    def stream(
        self, images: Iterable[Any], vocabulary: Vocabulary, *, threshold: float
    ) -> "Iterator[SegmentationResult | UserError]":
        """Yield the results of images, given as paths or (H, W, 3) uint8 RGB, in their order."""


@dataclass(frozen=True)
class VideoOptions:
    """How videos are segmented.

    selection: which frames are segmented, and at which size.
    track: whether the same thing keeps one identity over all frames.
    still: see `Predictor.track`.
    codec: codec of the output video, see `frozenseg.data.video.CODECS`.
    legend: whether a legend is drawn beside the frames of the output video.
    """

    selection: Selection = Selection()
    track: bool = True
    still: float | None = None
    codec: str = "h264"
    legend: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that change the predictions and differ from their defaults.

        The keys are the names of the command-line options.
        """
        defaults, chosen = VideoOptions(), self.selection
        pairs = {
            "track": (self.track, defaults.track),
            "reuse-still": (self.still, defaults.still),
            **{
                name.replace("_", "-"): (value, getattr(defaults.selection, name))
                for name, value in vars(chosen).items()
            },
        }
        return {name: value for name, (value, default) in pairs.items() if value != default}


class VideoRun:
    """Segments one video after another, and writes their predictions and output videos."""

    def __init__(
        self,
        segmenter: ImageSegmenter,
        output: Path,
        vocabulary: Vocabulary,
        lines: PredictionLines,
        *,
        threshold: float,
        pictures: bool,
        options: VideoOptions,
    ) -> None:
        """pictures: whether to make output videos. For other arguments see `segment_files`."""
        self.segmenter = segmenter
        self.output, self.vocabulary, self.lines = output, vocabulary, lines
        self.threshold, self.pictures, self.options = threshold, pictures, options

    def run(self, entry: Input, found: Callable[["SegmentationResult"], None]) -> str:
        """Segment a video; return a line about the part that could not be read, or "".

        Frames that a stopped run has done are not segmented again: for the output video, they are
        drawn from their stored predictions. Ctrl-C ends a camera or stream like its normal end.

        found: called with each new result, in order.
        """
        # Imported only now, because importing torch takes seconds.
        from frozenseg.results.following import tracker_of

        file = None  # the state of the file; a camera or stream has none
        if isinstance(entry.path, Path):
            file = state_of(entry.path, stamp_of(entry.path))
        video = read_video(entry.path)
        tracker = tracker_of(self.threshold) if self.options.track else None
        begun = self.lines.begun
        if begun is None:
            # Those of a replaced run may be of other frames, which this one does not overwrite.
            remove_results(entry, self.output)
        elif tracker is not None and begun.tracker is not None:
            tracker.restore(begun.tracker)
        done = 0 if begun is None else begun.frames
        expected = self.options.selection.expected(video.num_frames, video.fps)
        bar = tqdm(total=expected or None, initial=done, unit=" frames", disable=None)
        with (
            self._film(entry, video) as append,
            bar,
            drawing() as pool,
            AsyncWriter(cores()) as out,
        ):
            frames = self._frames(video)
            for frame, result in self._kept(frames, done):
                out.do(_append, append, pool.submit(self._draw, result), frame.time)
            count = done
            try:
                for frame, result in self._new(frames, tracker):
                    png = f"{entry.name}/{frame.number:06d}.png"
                    drawn = pool.submit(self._draw, result, png)
                    out.do(_append, append, drawn, frame.time)
                    out.do(self._add, entry, frame, result, png)
                    count += 1
                    if count % MARK_EVERY == 0:
                        state = None if tracker is None else tracker.state()
                        out.do(self.lines.mark, entry.source, count, state, file)
                    found(result)
                    bar.update()
            except KeyboardInterrupt:
                if not video.live:
                    raise
            if not count:
                raise UserError(f"{video.name}: no frame lies between --start and --end")
        self.lines.end_video(entry.source, count, video.loss, file)
        return video.loss

    def _film(self, entry: Input, video: Video) -> AbstractContextManager[Append]:
        if not self.pictures:
            return nullcontext(_no_picture)
        return video_writer(
            self.output / f"{entry.name}.mp4",
            max(video.fps / self.options.selection.stride, 1.0),
            codec=self.options.codec,
            sound=None if video.live else entry.path,
        )

    def _frames(self, video: Video) -> Iterator[Frame]:
        frames = video.frames(self.options.selection)
        return newest(frames) if video.live else prefetch(frames, cores())

    def _kept(
        self, frames: Iterator[Frame], count: int
    ) -> "Iterator[tuple[Frame, SegmentationResult]]":
        """Consume the first `count` frames, which are done; yield them if they are drawn again."""
        if not count or not self.pictures:
            deque(itertools.islice(frames, count), maxlen=0)
            return
        # `frames` comes last, so that `zip` takes no further frame after the last line.
        for entry, frame in zip(self.lines.frames_begun(), frames, strict=False):
            pixels = frame.pixels
            yield (
                frame,
                stored_result(entry, pixels, output=self.output, vocabulary=self.vocabulary),
            )

    def _new(
        self, frames: Iterator[Frame], tracker: "Tracker | None"
    ) -> "Iterator[tuple[Frame, SegmentationResult]]":
        """Segment the remaining frames, and yield them with their results."""
        from frozenseg.results.following import follow

        taken = deque[Frame]()

        def pixels() -> Iterator[np.ndarray]:
            for frame in frames:
                taken.append(frame)
                yield frame.pixels

        least = self.threshold if tracker is None else tracker.keep
        segment = partial(self.segmenter.stream, vocabulary=self.vocabulary, threshold=least)
        for result in follow(segment, pixels(), tracker=tracker, still=self.options.still):
            if isinstance(result, UserError):
                raise result
            yield taken.popleft(), result

    def _draw(self, result: "SegmentationResult", png: str | None = None) -> np.ndarray:
        """Draw a frame. png: the file to which its label map is written first; None: no file."""
        if png is not None:
            write_panoptic_png(panoptic_path(self.output, png), result.regions.ids)
        if not self.pictures:
            return result.image
        return np.asarray(result.draw(legend="fixed" if self.options.legend else False))

    def _add(self, entry: Input, frame: Frame, result: "SegmentationResult", png: str) -> None:
        self.lines.add(
            source=entry.source,
            file_name=f"{entry.source}#{frame.number}",
            panoptic_file=png,
            panoptic=result.regions,
            instances=result.instances,
            note=result.note,
            time=round(frame.time, 6),
            tracks=track_records(result.regions) if self.options.track else None,
        )


def drawing() -> ThreadPoolExecutor:
    """Return a pool of threads that draw results."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="drawing")


def _append(append: Append, drawn: "Future[np.ndarray]", time: float) -> None:
    append(drawn.result(), time)


def _no_picture(frame: np.ndarray, time: float | None = None) -> None:
    """Do nothing; used in place of appending a frame when no output video is made."""
