"""Things keep their identities and names through motion, cover, flicker and a stop."""

import json

import numpy as np
import pytest

from frozenseg.errors import UserError
from frozenseg.structures import PanopticResult, Segment
from frozenseg.tracking.tracker import Tracker

NAMES = ("car", "bus", "road")
Thing = tuple[int, int, int, float]
"""Class, left side, top, score; a square of 12 pixels."""


def frame(*things: Thing, road: float = 0.0, size: tuple[int, int] = (40, 100)) -> PanopticResult:
    """Squares, later ones in front, and the road below where it has a score."""
    ids = np.zeros(size, np.int32)
    if road:
        ids[30:] = 9
    for number, (_, left, top, _) in enumerate(things, 1):
        ids[max(0, top) : top + 12, max(0, left) : max(0, left + 12)] = number
    segments = []
    for number in np.unique(ids[ids > 0]).tolist():
        y, x = np.nonzero(ids == number)
        label, score = (2, road) if number == 9 else (things[number - 1][0], things[number - 1][3])
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        segments.append(Segment(number, label, NAMES[label], label < 2, score, len(x), box))
    return PanopticResult(ids, segments)


def tracks(found: PanopticResult) -> dict[int, tuple[str, int]]:
    """Identity -> name and left side."""
    for segment in found.segments:
        assert segment.id == segment.track_id
        assert (found.ids == segment.id).sum() == segment.area
    assert {*np.unique(found.ids).tolist(), 0} == {0, *(s.id for s in found.segments)}
    return {segment.id: (segment.name, segment.box[0]) for segment in found.segments}


def test_two_things_move() -> None:
    tracker = Tracker()
    for step in range(10):
        found = tracker.update(frame((0, 80 - 4 * step, 2, 0.9), (0, 5 * step, 20, 0.9)))
        assert tracks(found) == {1: ("car", 80 - 4 * step), 2: ("car", 5 * step)}


def test_a_crossing_behind_another_thing() -> None:
    """The covered one shrinks, vanishes, and comes back on the other side under its name."""
    tracker, seen = Tracker(), []
    for step in range(20):
        back, front = (0, 4 * step, 10, 0.9), (0, 76 - 4 * step, 10, 0.9)
        seen.append(tracks(tracker.update(frame(back, front))))
    assert seen[0] == {1: ("car", 0), 2: ("car", 76)}
    assert seen[-1] == {1: ("car", 76), 2: ("car", 0)}
    assert set().union(*seen) == {1, 2}


def test_a_thing_that_is_missed_comes_back_under_its_id_while_there_is_patience() -> None:
    for pause, number in ((3, 1), (6, 2)):
        tracker = Tracker(patience=5)
        for step in range(4):
            tracker.update(frame((0, 4 * step, 5, 0.9)))
        for _ in range(pause):
            assert tracks(tracker.update(frame())) == {}
        assert list(tracks(tracker.update(frame((0, 4 * (4 + pause), 5, 0.9))))) == [number]


def test_what_leaves_and_what_enters_are_two() -> None:
    tracker = Tracker()
    for step in range(6):
        tracker.update(frame((0, 88 + 3 * step, 5, 0.9)))
    assert list(tracks(tracker.update(frame((0, 0, 5, 0.9))))) == [2]


def test_a_name_does_not_flicker() -> None:
    tracker = Tracker()
    scores = [(0, 0.9), (0, 0.8), (1, 0.9), (0, 0.9), (1, 0.5)]
    for step, (label, score) in enumerate(scores):
        assert tracks(tracker.update(frame((label, 2 * step, 5, score)))) == {1: ("car", 2 * step)}
    for step in range(5, 12):
        found = tracker.update(frame((1, 2 * step, 5, 0.9)))
    assert tracks(found) == {1: ("bus", 22)}  # the votes have changed


def test_thresholds_have_hysteresis() -> None:
    tracker = Tracker(start=0.5, keep=0.3)
    seen = [
        list(tracks(tracker.update(frame((0, 10, 5, score), road=score))))
        for score in (0.4, 0.6, 0.4, 0.2, 0.4)
    ]
    assert seen == [[], [1, 2], [1, 2], [], [1, 2]]


def test_stuff_has_one_identity_a_class() -> None:
    tracker = Tracker(patience=2)
    first = tracks(tracker.update(frame(road=0.9)))
    for _ in range(10):
        tracker.update(frame((0, 10, 5, 0.9)))
    assert tracks(tracker.update(frame(road=0.9))) == first == {1: ("road", 0)}


def test_regions_without_a_score_are_kept() -> None:
    found = frame((0, 10, 5, float("nan")), road=float("nan"))
    assert len(tracks(Tracker().update(found))) == 2


def test_an_empty_frame() -> None:
    assert tracks(Tracker().update(frame())) == {}


def test_a_restored_tracker_goes_on_as_if_nothing_had_been() -> None:
    random = np.random.default_rng(0)
    starts = ((10, 3, 1), (40, 12, -1), (70, 25, 1))
    frames = []
    for step in range(20):
        things = [
            (int(random.integers(2)), x + 3 * step * way, y, float(random.random()))
            for x, y, way in starts
        ]
        frames.append(frame(*things, road=0.5))
    whole, first, second = Tracker(), Tracker(), Tracker()
    for found in frames[:11]:
        whole.update(found)
        first.update(found)
    second.restore(json.loads(json.dumps(first.state())))
    for found in frames[11:]:
        one, other = whole.update(found), second.update(found)
        assert one.segments == other.segments and np.array_equal(one.ids, other.ids)


@pytest.mark.parametrize(("keep", "start"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_thresholds_that_make_no_sense(keep: float, start: float) -> None:
    with pytest.raises(UserError, match="0 <= keep <= start <= 1"):
        Tracker(keep=keep, start=start)
