"""Track the results of a stream of frames, and reuse results where nothing moves."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from frozenseg.errors import UserError, UserValueError
from frozenseg.results.result import SegmentationResult
from frozenseg.results.selection import checked_threshold
from frozenseg.text.names import shown
from frozenseg.tracking.tracker import Tracker

Outcome = SegmentationResult | UserError

KEEP_SHARE = 0.6  # a region continues its track if its score is at least this share of `threshold`
SMALL = 64  # frames are compared at this height and width, in pixels
# Every 16th frame is segmented in any case, so that no more frames than these wait for a result.
AFRESH = 16


def tracker_of(threshold: float) -> Tracker:
    """Return a tracker whose tracks start at scores of at least `threshold`, 0-1.

    A track continues down to `KEEP_SHARE` of the threshold.
    """
    return Tracker(start=checked_threshold(threshold), keep=KEEP_SHARE * threshold)


def follow(
    segment: Callable[[Iterator[np.ndarray]], Iterator[Outcome]],
    frames: Iterable[np.ndarray],
    *,
    tracker: Tracker | None,
    still: float | None = None,
) -> Iterator[Outcome]:
    """Yield the results of the frames of one video.

    segment: yields the results of frames, in their order, with the threshold `tracker.keep`.
    tracker: gives the regions their identities; None: they have no identities.
    still: the argument `level` of `Still`; None: all frames are segmented.
    """
    if still is None:
        results = segment(iter(frames))
    else:
        motion = Still(still)
        results = motion.spread(segment(motion.moved(frames)))
    return results if tracker is None else tracked(results, tracker)


def tracked(results: Iterable[Outcome], tracker: Tracker) -> Iterator[Outcome]:
    """Yield the results of the frames of one video with the identities of their regions.

    results: the results with the threshold `tracker.keep`. Errors in place of results are yielded
        unchanged.
    """
    for result in results:
        if isinstance(result, SegmentationResult):
            confident = result.filter(threshold=tracker.start).instances
            result = replace(result, panoptic=tracker.update(result.regions), instances=confident)
        yield result


class Still:
    """Skips frames that hardly differ from the last one that was segmented.

    level: a frame is skipped if none of its 8 x 8 parts has a mean difference above this, in grey
        levels 0-255.

    `moved` chooses the frames that the model segments; `spread` reuses their results for the
    others.
    """

    def __init__(self, level: float) -> None:
        if not isinstance(level, int | float | np.number) or not 0 <= level <= 255:
            raise UserValueError(f"still {shown(level)}: must lie in 0-255")
        self.level, self.reused = level, 0
        # The frames that still need a result: None for one that is being segmented, the frame
        # itself for one that reuses the result before it.
        self._waiting: deque[np.ndarray | None] = deque()

    def moved(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the frames (H, W, 3) uint8 that differ from the last one that was yielded."""
        last: np.ndarray | None = None
        shape: tuple[int, ...] = ()  # of the frame at its full size; `last` is scaled down
        for number, frame in enumerate(frames):
            small = cv2.resize(frame, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
            due = number % AFRESH == 0 or frame.shape != shape
            if last is None or due or _difference(small, last) > self.level:
                last, shape = small, frame.shape
                self._waiting.append(None)
                yield frame
            else:
                self._waiting.append(frame)

    def spread(self, results: Iterable[Outcome]) -> Iterator[Outcome]:
        """Yield the results of all frames, in their order.

        results: the results of the frames from `moved`.
        """
        try:
            for result in results:
                yield from self._reused()
                self._waiting.popleft()
                self._last = result
                yield result
        except Exception:  # of the frames: those before it have their results
            yield from self._reused()
            raise
        yield from self._reused()

    def _reused(self) -> Iterator[Outcome]:
        while self._waiting and (frame := self._waiting[0]) is not None:
            self._waiting.popleft()
            self.reused += 1
            last = self._last
            yield replace(last, image=frame) if isinstance(last, SegmentationResult) else last


def _difference(small: np.ndarray, other: np.ndarray) -> float:
    parts = cv2.resize(cv2.absdiff(small, other), (8, 8), interpolation=cv2.INTER_AREA)
    return float(parts.max())
