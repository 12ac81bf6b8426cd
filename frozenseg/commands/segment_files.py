"""Segment files with a model and write the results: the work of `frozenseg demo`."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from frozenseg.commands.made_again import forget_outdated, remove_results
from frozenseg.commands.missing_pictures import draw_missing
from frozenseg.commands.result_names import Input, is_film, named_inputs
from frozenseg.commands.segment_video import (
    ImageSegmenter,
    VideoOptions,
    VideoRun,
    drawing,
)
from frozenseg.data.file_states import FileState, Stamp, stamp_of, state_of
from frozenseg.data.image_inputs import OneFile
from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import (
    FOLDER,
    PANOPTIC,
    missing_parts,
    panoptic_path,
    standard_files,
    write_panoptic_png,
    write_picture,
    write_standard_files,
)
from frozenseg.data.video import without_password
from frozenseg.errors import UserError, WriteError
from frozenseg.files import remove_temporaries
from frozenseg.runtime.background import AsyncWriter, cores
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What was done with the inputs.

    inputs: how many inputs there were. earlier: how many of them had been done by earlier runs.
    failures: one line with the reason for each input that could not be segmented at all.
    losses: one line for each video that was segmented only in part, in this run or an earlier one,
        and for each image that could not be drawn.
    found: in how many images or frames each class occurs.
    drawn: how many pictures were drawn that earlier runs had left out.
    """

    inputs: int
    earlier: int
    failures: list[str]
    losses: list[str]
    found: Counter[str]
    drawn: int


def segment_files(
    segmenter: ImageSegmenter,
    paths: list[Path | str],
    output: Path,
    lines: PredictionLines,
    *,
    vocabulary: Vocabulary,
    threshold: float = 0.0,
    pictures: bool = True,
    tell: "Callable[[str, SegmentationResult], None] | None" = None,
    video: VideoOptions = VideoOptions(),  # noqa: B008
) -> Outcome:
    """Segment images and videos; an input that cannot be read does not end the run.

    paths: files; cameras and streams are given as text, see `frozenseg.data.video`.

    `output` gets NAME.png, the picture of an image with its legend, or NAME.mp4 for a video.
    `output/predictions` gets panoptic/NAME.png for an image, panoptic/NAME/000001.png ... for a
    video, and the prediction lines and JSON files of all inputs (`frozenseg.data.results`), even if
    an error or the user ends the run early. Images are read, and results are drawn and written,
    while the model works. Inputs that the prediction lines already contain are skipped, except for
    those whose label maps are missing, or whose files have changed since.

    threshold: lowest score of the regions and objects to keep.
    pictures: whether to make NAME.png and NAME.mp4, which takes longer than all other files.
        Pictures of images that earlier runs left out are drawn from the predictions. If False,
        those of replaced runs are removed.
    tell: called with the name (as in the prediction lines) and the result of each image once its
        files are written.
    video: how videos are segmented. The part of a video that a stopped run has done is kept.
    """
    run = _Run(segmenter, output, vocabulary, lines, threshold, pictures, tell, video)
    inputs = [entry for entry in named_inputs(paths, output, lines) if lines.part.has(entry.source)]
    again = forget_outdated(inputs, output, lines)
    done = [entry for entry in inputs if entry.source in lines.done]
    waiting = [entry for entry in inputs if entry.source not in lines.done]
    for entry in inputs:
        run.lost(entry, lines.losses.get(entry.source, ""))
    if (begun := lines.begun) is not None:  # a begun video comes first: its lines stay together
        waiting.sort(key=lambda entry: entry.source != begun.source)
        if not waiting or waiting[0].source != begun.source:
            lines.drop_video()
    lines.claim({entry.source: entry.name for entry in waiting})
    _remove_half_written(inputs, output, alone=lines.part.total == 1)
    with tqdm(total=len(inputs), initial=len(done), unit=" images", disable=None) as bar:
        run.segment(waiting, bar)
    if again or len(waiting) > len(run.failures) or not waiting:
        run.finish(anything_new=bool(waiting))
    drawn = run.draw_missing(done) if pictures else 0
    failures, losses = _in_order(run.failures), _in_order(run.losses)
    return Outcome(len(inputs), len(done), failures, losses, run.found, drawn)


def _remove_half_written(inputs: list[Input], output: Path, alone: bool) -> None:
    """Remove the temporary files of killed runs. alone: whether no other part can be writing."""
    pngs = output / FOLDER / PANOPTIC
    names = {Path(entry.name).parent for entry in inputs}
    videos = {Path(entry.name) for entry in inputs if is_film(entry.path)}
    for folder in {pngs / name for name in names | videos} | {output / name for name in names}:
        remove_temporaries(folder, "*.png", alone=alone)
    for name in names:
        remove_temporaries(output / name, "*.mp4", alone=alone)
    for ending in ("json", "jsonl"):
        remove_temporaries(output / FOLDER, f"*.{ending}", alone=alone)


def _in_order(lines: list[tuple[int, str]]) -> list[str]:
    """Return the lines in the order of the inputs, in which they may not have been added."""
    return [line for _, line in sorted(lines)]


class _Run:
    """Segments the inputs and collects the failures, with the number of the input for each."""

    def __init__(
        self,
        segmenter: ImageSegmenter,
        output: Path,
        vocabulary: Vocabulary,
        lines: PredictionLines,
        threshold: float,
        pictures: bool,
        tell: "Callable[[str, SegmentationResult], None] | None",
        video: VideoOptions,
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
        self.videos = VideoRun(
            segmenter,
            output,
            vocabulary,
            lines,
            threshold=threshold,
            pictures=pictures,
            options=video,
        )

    def segment(self, waiting: list[Input], bar: "tqdm[Any]") -> None:
        """Segment images and videos in their order; whatever ends this keeps what is done."""
        try:
            for film, group in itertools.groupby(waiting, lambda entry: is_film(entry.path)):
                if not film:
                    self.images(list(group), bar)
                    continue
                for entry in group:
                    self.video(entry)
                    bar.update()
        except BaseException:
            self.rescue()
            raise

    def images(self, group: list[Input], bar: "tqdm[Any]") -> None:
        """Segment images; threads draw them, and the prediction lines are added in order."""
        stamps: dict[int, Stamp | None] = {}

        def files() -> Iterator[OneFile]:
            for entry in group:
                stamps[entry.number] = stamp_of(Path(entry.path))
                yield OneFile(entry.path)

        results = self._results(files())
        with drawing() as pool, AsyncWriter(cores()) as out:
            for entry, result in zip(group, results, strict=True):
                stamp = stamps.pop(entry.number)
                if isinstance(result, UserError):
                    out.do(self._failed, entry, result)
                else:
                    png = f"{entry.name}.png"
                    drawn = pool.submit(self._draw, entry, result, png, stamp)
                    out.do(self._add_image, entry, drawn, result, png)
                bar.update()

    def video(self, entry: Input) -> None:
        try:
            self.lost(entry, self.videos.run(entry, self._count))
        except WriteError:
            raise
        except UserError as error:
            self.lines.drop_video()
            self._failed(entry, error)

    def lost(self, entry: Input, loss: str) -> None:
        """Note the part of a video that could not be read; "" if there is none."""
        if loss:
            self.losses.append((entry.number, f"{without_password(str(entry.path))}: {loss}"))

    def finish(self, anything_new: bool) -> None:
        """Write the standard files, unless other parts of the inputs have not ended yet."""
        folder = self.lines.path.parent
        if anything_new or not self.lines.ended:
            self.lines.end()
        if missing := missing_parts(folder):
            logger.warning(
                "%s: the JSON files will be written once part %s of %d has ended too",
                folder,
                ", ".join(map(str, missing)),
                self.lines.part.total,
            )
        elif anything_new or not all(map(Path.exists, standard_files(folder, self.lines.tracked))):
            write_standard_files(folder)

    def rescue(self) -> None:
        """Write the standard files for the inputs that are done when an error ends the run."""
        if self.lines.part.total > 1 or self.lines.is_empty():
            return
        try:
            write_standard_files(self.lines.path.parent)
        except WriteError as error:
            logger.warning("%s; the finished predictions are in %s", error, self.lines.path)

    def draw_missing(self, done: list[Input]) -> int:
        """Draw the pictures that earlier runs left out, and return how many were drawn."""
        drawn, reasons = draw_missing(done, self.lines.path, self.output, self.vocabulary)
        self.losses += reasons
        return drawn

    def _draw(
        self, entry: Input, result: "SegmentationResult", png: str, stamp: Stamp | None
    ) -> FileState | None:
        """Write the label map and the picture of an image; return the state of its file."""
        if not self.pictures:  # one of a replaced run would show other classes
            remove_results(entry, self.output)
        # The label map is written first: if this run is killed, the next one knows by the label
        # map that the picture is a result and may be replaced.
        write_panoptic_png(panoptic_path(self.output, png), result.regions.ids)
        if self.pictures:
            write_picture(self.output / entry.picture, result.draw())
        return state_of(Path(entry.path), stamp)

    def _add_image(
        self,
        entry: Input,
        drawn: "Future[FileState | None]",
        result: "SegmentationResult",
        png: str,
    ) -> None:
        try:
            self._add(result, entry.source, png, drawn.result())
            if self.tell is not None:
                self.tell(entry.source, result)
        except WriteError:
            raise  # writing would fail for all later images too
        except UserError as error:
            self._failed(entry, error)

    def _add(
        self, result: "SegmentationResult", source: str, png: str, file: FileState | None
    ) -> None:
        regions = result.regions
        self.lines.add(
            source=source,
            file_name=source,
            panoptic_file=png,
            panoptic=regions,
            instances=result.instances,
            note=result.note,
            file=file,
        )
        self._count(result)

    def _count(self, result: "SegmentationResult") -> None:
        self.found.update({segment.name: 1 for segment in result.regions.segments})

    def _results(self, images: Iterable[Any]) -> "Iterator[SegmentationResult | UserError]":
        return self.segmenter.stream(images, self.vocabulary, threshold=self.threshold)

    def _failed(self, entry: Input, error: UserError) -> None:
        name = without_password(str(entry.path))
        line = str(error) if name in str(error) else f"{name}: {error}"
        self.failures.append((entry.number, line))
