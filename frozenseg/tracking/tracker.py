"""Give the regions of a video identities, by the overlap of masks with moving tracks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from frozenseg.errors import UserValueError
from frozenseg.structures import PanopticResult, Segment
from frozenseg.tracking.track import Track


class Tracker:
    """Finds the things of one frame again in the next frame; each video needs its own tracker.

    A track predicts where its thing is in the next frame: its last shape, moved at constant speed.
    Things of that frame are assigned to tracks by their overlap with these predictions. The
    assignments are optimal (Hungarian method) and are made in four rounds:

    1. things of the track's class, by the IoU of masks;
    2. things of any class, by a higher IoU of masks, because the class of a thing may flicker;
    3. things of the track's class, by the IoU of boxes, because thin masks hardly overlap;
    4. things of the track's class, by the share of the smaller mask that lies in the other mask,
       because only a part of a covered thing is visible.

    A track whose thing is not found is kept for a while. The class of a track is the one with the
    most votes: the scores of its segments of that class, summed over the frames. Stuff has one
    identity for each class.

    start: the least score, 0-1, with which a region starts a track.
    keep: the least score with which a region continues a track, at most `start` (hysteresis).
        Regions that neither start nor continue a track are left out.
    overlap: the least IoU, of masks or boxes, with a track of the same class.
    other_class: the least IoU of masks with a track of another class.
    within: the least share of the smaller mask, in the last round.
    patience: for how many frames a track is kept while its thing is not found.

    Example:
        >>> tracker = Tracker(start=0.5, keep=0.3)
        >>> for result in segmenter.stream(frames, "car; road", threshold=tracker.keep):
        ...     tracked = tracker.update(result.regions)
    """

    def __init__(
        self,
        *,
        start: float = 0.25,
        keep: float = 0.15,
        overlap: float = 0.3,
        other_class: float = 0.5,
        within: float = 0.6,
        patience: int = 15,
    ) -> None:
        if not 0 <= keep <= start <= 1:
            raise UserValueError(f"keep {keep:g}, start {start:g}: must be 0 <= keep <= start <= 1")
        self.start, self.keep = start, keep
        self.overlap, self.other_class, self.within = overlap, other_class, within
        self.patience = patience
        self.tracks: list[Track] = []
        self._stuff: dict[int, tuple[int, int]] = {}  # class -> its id, frames since seen
        self._last = 0  # the last id that was given

    def update(self, found: PanopticResult) -> PanopticResult:
        """Return the regions of the next frame with their identities.

        The `id` of a segment and the ids of its pixels become its `track_id`; a thing gets the
        class of its track. Pixels of regions that are left out become 0.
        """
        for track in self.tracks:
            track.move()
        things = [s for s in found.segments if s.is_thing and _score(s) >= self.keep]
        named = self._stuff_of(s for s in found.segments if not s.is_thing)
        chosen = self._assign(things, found.ids)
        for number, segment in enumerate(things):
            if number in chosen:
                track = chosen[number]
                track.see(segment, found.ids)
            elif _score(segment) >= self.start:
                track = Track.of(self._next_id(), segment, found.ids)
                self.tracks.append(track)
            else:
                continue
            label = track.class_id
            named.append((segment, track.id, label, track.names[label]))
        self.tracks = [track for track in self.tracks if track.missed <= self.patience]
        return _renumbered(found, named)

    def state(self) -> dict[str, Any]:
        """Return the data on which the next frames depend; it can be written as JSON."""
        return {
            "tracks": [track.state() for track in self.tracks],
            "stuff": [[label, *seen] for label, seen in self._stuff.items()],
            "last": self._last,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a tracker that had the same parameters."""
        self.tracks = [Track.from_state(track) for track in state["tracks"]]
        self._stuff = {label: (number, missed) for label, number, missed in state["stuff"]}
        self._last = state["last"]

    def _next_id(self) -> int:
        self._last += 1
        return self._last

    def _stuff_of(self, segments: Iterable[Segment]) -> "list[_Named]":
        """Return the stuff segments that are kept, with the identities of their classes."""
        self._stuff = {label: (number, n + 1) for label, (number, n) in self._stuff.items()}
        named = []
        for segment in segments:
            number, missed = self._stuff.get(segment.class_id, (0, self.patience + 1))
            if _score(segment) < (self.keep if missed <= self.patience else self.start):
                continue
            number = number or self._next_id()
            self._stuff[segment.class_id] = number, 0
            named.append((segment, number, segment.class_id, segment.name))
        return named

    def _assign(self, things: list[Segment], ids: np.ndarray) -> dict[int, Track]:
        """Return the tracks of things, by the index of the thing in the list."""
        if not things or not self.tracks:
            return {}
        iou, share = self._overlaps(things, ids)
        boxes = _box_iou([track.box for track in self.tracks], [s.box for s in things])
        labels = np.array([track.class_id for track in self.tracks])
        same = labels[:, None] == np.array([segment.class_id for segment in things])
        chosen: dict[int, Track] = {}
        free = np.ones(iou.shape, bool)
        for score, least, allowed in (
            (iou, self.overlap, same),
            (iou, self.other_class, True),
            (boxes, self.overlap, same),
            (share, self.within, same),
        ):
            worth = np.where(free & allowed & (score >= least), score, 0.0)
            for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
                if worth[row, column] > 0:
                    chosen[int(column)] = self.tracks[row]
                    free[row], free[:, column] = False, False
        return chosen

    def _overlaps(self, things: list[Segment], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for T tracks and N things, both (T, N): the IoU, and the share of the smaller mask
        that lies in the other mask."""
        numbers = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
        numbers[[segment.id for segment in things]] = np.arange(1, len(things) + 1)
        index, total = numbers[ids], len(things)
        rows = [track.counts(index, total) for track in self.tracks]
        shared = np.array([counts for counts, _ in rows], float)
        own = np.array([size for _, size in rows], float)[:, None]
        areas = np.array([segment.area for segment in things], float)
        return shared / (own + areas - shared), shared / np.minimum(own, areas).clip(min=1)


Box = tuple[float, ...]
_Named = tuple[Segment, int, int, str]
"""A segment, its identity, its class, and the name of the class."""


def _score(segment: Segment) -> float:
    """Return the score; regions of a semantic result, which have none (NaN), count as 1."""
    return 1.0 if np.isnan(segment.score) else segment.score


def _box_iou(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """Return the IoU (T, N) of T and N boxes."""
    one, other = np.array(boxes, float)[:, None], np.array(others, float)[None]
    low, high = np.maximum(one, other)[..., :2], np.minimum(one, other)[..., 2:]
    first, second = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (one, other))
    shared = (high - low).clip(min=0).prod(-1)
    return shared / (first + second - shared)


def _renumbered(found: PanopticResult, named: list[_Named]) -> PanopticResult:
    """Return only the named segments, with their identities as ids."""
    numbers = np.zeros(int(found.ids.max(initial=0)) + 1, np.int32)
    numbers[[segment.id for segment, *_ in named]] = [number for _, number, *_ in named]
    segments = [
        replace(segment, id=number, track_id=number, class_id=label, name=name)
        for segment, number, label, name in named
    ]
    return PanopticResult(numbers[found.ids], segments)
