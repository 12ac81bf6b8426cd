"""Score the panoptic results of videos, with the identities of a tracker and without."""

import base64
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from frozenseg.errors import UserError
from frozenseg.evaluation.metric import Metric, Scores, State
from frozenseg.evaluation.stq import TrackingQuality
from frozenseg.evaluation.tubes import Tubes
from frozenseg.evaluation.vpq import VideoPanopticQuality
from frozenseg.structures import PanopticResult, Segment
from frozenseg.tracking.tracker import Tracker

Entry = dict[str, Any]


class VideoQuality(Metric):
    """VPQ, STQ and identity switches of videos, with tracks and without.

    Frames may come in any order, and to several processes: they are kept, compressed, and tracked
    in the order of the video when the scores are computed. Without tracks, regions of different
    frames have the same identity if they have the same id and the same class.

    is_thing: whether each class is a thing. make_tracker: makes a new tracker for each video.
    """

    def __init__(
        self,
        *,
        is_thing: Sequence[bool],
        make_tracker: Callable[[], Tracker] = Tracker,
    ) -> None:
        self.is_thing, self.make_tracker = list(is_thing), make_tracker
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._videos: dict[str, dict[str, Entry]] = {}

    def update(
        self,
        video: str,
        frame: str,
        found: PanopticResult,
        truth_ids: np.ndarray,
        truth_classes: Mapping[int, int],
        crowds: Collection[int] = (),
    ) -> None:
        """Keep a frame.

        video, frame: their names; frames are ordered by the number at the end of their names.
        truth_ids: (H, W) int, 0 for void; an identity has the same id in all frames of a video.
        truth_classes: the class of each id. crowds: the ids of crowd regions.
        """
        if found.ids.shape != truth_ids.shape:
            raise UserError(
                f"{video}, {frame}: the prediction has shape {found.ids.shape}, the ground truth "
                f"{truth_ids.shape}"
            )
        frames = self._videos.setdefault(video, {})
        if frame in frames:
            raise UserError(f"{video}: frame {frame} was scored twice")
        frames[frame] = {
            "size": list(truth_ids.shape),
            "found": _packed(found.ids),
            "segments": [_row(segment) for segment in found.segments],
            "truth": _packed(truth_ids),
            "classes": [[int(number), int(label)] for number, label in truth_classes.items()],
            "crowds": [int(number) for number in crowds],
        }

    def compute(self) -> Scores:
        """Return {"with tracks": scores, "without": scores}.

        Scores are {"VPQ", ..., "STQ", "AQ", "SQ"}, as fractions, and the counts "switches" and
        "frames".
        """
        return {
            "with tracks": self._scores(self._tracked),
            "without": self._scores(lambda frames: _by_id_and_class(map(_found, frames))),
        }

    def _tracked(self, frames: Sequence[Entry]) -> Tubes:
        tracker = self.make_tracker()
        return _last_classes(tracker.update(_found(entry)) for entry in frames)

    def _scores(self, tubes_of: Callable[[Sequence[Entry]], Tubes]) -> Scores:
        quality, tracking = VideoPanopticQuality(self.is_thing), TrackingQuality(self.is_thing)
        for name in sorted(self._videos):
            of_video = self._videos[name]
            frames = [of_video[frame] for frame in sorted(of_video, key=_place)]
            sizes = sorted({tuple(entry["size"]) for entry in frames})
            if len(sizes) > 1:
                raise UserError(
                    f"{name}: its frames have sizes {sizes[0]} and {sizes[-1]} (height, width); "
                    "all frames of a video need the same size: resize them, or name them as two "
                    "videos"
                )
            truth, found = _truth(frames, self.is_thing), tubes_of(frames)
            quality.add(name, found, truth)
            tracking.add(found, truth)
        return {**quality.scores(), **tracking.scores()}

    def state(self) -> State:
        """Return the frames."""
        return {"videos": {name: dict(frames) for name, frames in self._videos.items()}}

    def add_state(self, state: State) -> None:
        """Add the frames of another metric."""
        for name, frames in state["videos"].items():
            mine = self._videos.setdefault(name, {})
            if twice := mine.keys() & frames.keys():
                raise UserError(f"{name}: frame {min(twice)} was scored twice")
            mine.update(frames)


def _place(frame: str) -> tuple[int, str]:
    """Return the sort key of a frame: its number, because not all names pad it with zeros."""
    digits = frame[len(frame.rstrip("0123456789")) :]
    return int(digits or 0), frame


def _packed(ids: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(ids.astype(np.int32).tobytes(), 1)).decode()


def _unpacked(text: str, size: Sequence[int]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int32).reshape(size)


def _row(segment: Segment) -> list[Any]:
    box = [int(side) for side in segment.box]
    return [segment.id, segment.class_id, segment.is_thing, segment.score, segment.area, box]


def _found(entry: Entry) -> PanopticResult:
    segments = [
        Segment(number, label, str(label), thing, score, area, tuple(box))
        for number, label, thing, score, area, box in entry["segments"]
    ]
    return PanopticResult(_unpacked(entry["found"], entry["size"]), segments)


def _truth(frames: Sequence[Entry], is_thing: Sequence[bool]) -> Tubes:
    ids = np.stack([_unpacked(entry["truth"], entry["size"]) for entry in frames])
    classes = {number: label for entry in frames for number, label in entry["classes"]}
    things = {number for number, label in classes.items() if is_thing[label]}
    return Tubes(ids, classes, things, {number for entry in frames for number in entry["crowds"]})


def _last_classes(frames: Iterator[PanopticResult]) -> Tubes:
    """Return the tubes of tracked frames; a track has the class of its last frame."""
    maps, last = [], dict[int, Segment]()
    for found in frames:
        maps.append(found.ids)
        last.update({segment.id: segment for segment in found.segments})
    classes = {number: segment.class_id for number, segment in last.items()}
    things = {number for number, segment in last.items() if segment.is_thing}
    return Tubes(np.stack(maps), classes, things)


def _by_id_and_class(frames: Iterator[PanopticResult]) -> Tubes:
    """Return the tubes of frames without tracks; regions are joined by id and class."""
    numbers: dict[tuple[int, int], int] = {}
    maps, things = [], set[int]()
    for found in frames:
        table = np.zeros(int(found.ids.max(initial=0)) + 1, np.int32)
        for segment in found.segments:
            number = numbers.setdefault((segment.id, segment.class_id), len(numbers) + 1)
            table[segment.id] = number
            things.update({number} if segment.is_thing else ())
        maps.append(table[found.ids])
    return Tubes(np.stack(maps), {number: label for (_, label), number in numbers.items()}, things)
