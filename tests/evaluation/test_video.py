"""VPQ, STQ and identity switches equal their definitions, written as plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.data.records import Categories, Record, Segments
from frozenseg.errors import UserError
from frozenseg.evaluation.stq import TrackingQuality
from frozenseg.evaluation.tasks import VideoEvaluator
from frozenseg.evaluation.tubes import Tubes
from frozenseg.evaluation.video import VideoQuality
from frozenseg.evaluation.vpq import VideoPanopticQuality
from frozenseg.structures import PanopticResult, Prediction, Segment
from tests.data.tiny import encode

THINGS = [True, True, False]


def random_video(seed: int, *, void: float) -> tuple[Tubes, Tubes]:
    """A truth of blobs that move, and a prediction that is often wrong about it."""
    random = np.random.default_rng(seed)
    length, height, width = 7, 8, 10
    truth = np.ones((length, height, width), int)
    for number in (2, 3, 4):
        y, x, way = random.integers(5), random.integers(7), random.integers(-1, 2)
        for t in range(length):
            truth[t, y : y + 3, max(0, x + way * t) : max(0, x + way * t + 4)] = number
    found = truth.copy()
    found[random.random(found.shape) < 0.15] = 4
    found[3:][found[3:] == 2] = 5  # a switch
    found[random.random(found.shape) < 0.05] = 0
    truth[random.random(truth.shape) < void] = 0
    classes = {1: 2, 2: 0, 3: int(random.integers(2)), 4: 1, 5: int(random.integers(2))}
    return _tubes(found, classes), _tubes(truth, {**classes, 4: 0})


def _tubes(ids: np.ndarray, classes: dict[int, int]) -> Tubes:
    present = {number: classes[number] for number in np.unique(ids[ids > 0]).tolist()}
    return Tubes(ids, present, {number for number, label in present.items() if THINGS[label]})


def _tube(ids: np.ndarray, number: int) -> set[tuple[int, ...]]:
    return set(map(tuple, np.argwhere(ids == number).tolist()))


def slow_vpq(videos: list[tuple[Tubes, Tubes]], k: int) -> float:
    iou_sum, tp, fp, fn = ([0.0] * 3, [0] * 3, [0] * 3, [0] * 3)
    for found, truth in videos:
        for first in range(len(truth.ids) - k + 1):
            pred, true = found.ids[first : first + k], truth.ids[first : first + k]
            void = _tube(true, 0)
            used, hit = set(), set()
            for g in truth.classes:
                for p in found.classes:
                    one, other = _tube(true, g), _tube(pred, p)
                    if not one or not other or truth.classes[g] != found.classes[p]:
                        continue
                    iou = len(one & other) / len((one | other) - (void & other))
                    if iou > 0.5:
                        iou_sum[truth.classes[g]] += iou
                        tp[truth.classes[g]] += 1
                        used.add(p)
                        hit.add(g)
            for g in truth.classes:
                fn[truth.classes[g]] += bool(_tube(true, g)) and g not in hit
            for p in found.classes:
                tube = _tube(pred, p)
                if tube and p not in used and len(tube & void) / len(tube) <= 0.5:
                    fp[found.classes[p]] += 1
    qualities = [
        iou_sum[c] / (tp[c] + fp[c] / 2 + fn[c] / 2) for c in range(3) if tp[c] + fp[c] + fn[c]
    ]
    return sum(qualities) / len(qualities)


def slow_stq(videos: list[tuple[Tubes, Tubes]]) -> dict[str, float]:
    both, either, parts = [0] * 3, [0] * 3, []
    for found, truth in videos:
        for place in np.ndindex(truth.ids.shape):
            g, p = int(truth.ids[place]), int(found.ids[place])
            if g == 0:
                continue
            true, pred = truth.classes[g], found.classes.get(p, -1)
            for label in {true, pred} - {-1}:
                either[label] += 1
                both[label] += true == pred
        void = _tube(truth.ids, 0)
        for g in truth.things:
            tube = _tube(truth.ids, g)
            total = 0.0
            for p in found.things:
                other = _tube(found.ids, p) - void
                total += len(tube & other) * len(tube & other) / max(1, len(tube | other))
            parts.append(total / len(tube))
    ious = [b / e for b, e in zip(both, either, strict=True) if e]
    sq, aq = sum(ious) / len(ious), sum(parts) / len(parts)
    return {"STQ": math.sqrt(sq * aq), "AQ": aq, "SQ": sq}


@pytest.mark.parametrize("void", [0.0, 0.3])
def test_the_measures_equal_their_definitions(void: float) -> None:
    videos = [random_video(seed, void=void) for seed in range(4)]
    quality, tracking = VideoPanopticQuality(THINGS, windows=(1, 2, 4)), TrackingQuality(THINGS)
    for number, (found, truth) in enumerate(videos):
        quality.add(str(number), found, truth)
        tracking.add(found, truth)
    scores = quality.scores()
    slow = [slow_vpq(videos, k) for k in (1, 2, 4)]
    assert [scores[f"VPQ {k}"] for k in (1, 2, 4)] == pytest.approx(slow)
    assert scores["VPQ"] == pytest.approx(np.mean(slow)) and 0.1 < scores["VPQ"] < 0.9
    found_scores = tracking.scores()
    for name, value in slow_stq(videos).items():
        assert found_scores[name] == pytest.approx(value) and 0.1 < value < 0.95


def test_a_perfect_video() -> None:
    _, truth = random_video(0, void=0.1)
    quality, tracking = VideoPanopticQuality(THINGS), TrackingQuality(THINGS)
    quality.add("a", truth, truth)
    tracking.add(truth, truth)
    assert quality.scores()["VPQ"] == 1
    assert tracking.scores() == {"STQ": 1, "AQ": 1, "SQ": 1, "switches": 0, "frames": 7}


@pytest.mark.parametrize(("found_there", "sq"), [(0, 75), (5, 100)])
def test_crowds_need_not_be_found(tmp_path: Path, found_there: int, sq: float) -> None:
    """As in the code of VIPSeg and of STEP: the pixels of a crowd count for SQ alone."""
    truth = np.ones((40, 40), int)
    truth[20:], truth[20:, 20:] = 2, 3  # a car and a crowd of cars, under the sky
    listed = Segments(np.array([1, 2, 3]), np.array([2, 0, 0]), np.array([False, False, True]))
    found = np.where(truth == 3, found_there, truth)
    boxes = {1: (0, 0, 40, 20), 2: (0, 20, 20, 40), 5: (20, 20, 40, 40)}
    segments = [
        Segment(n, 2 if n == 1 else 0, "", n != 1, 1.0, int((found == n).sum()), boxes[n])
        for n in np.unique(found[found > 0]).tolist()
    ]
    names, ids = ("car", "bus", "sky"), (1, 2, 3)
    task = VideoEvaluator(Categories(names, tuple(THINGS), ids), [True] * 3)
    for t in range(4):
        path = str(tmp_path / f"street_{t}.png")
        Image.fromarray(encode(truth)).save(path)
        record = Record(t, path, 40, 40, num_classes=3, panoptic_path=path, segments=listed)
        panoptic = PanopticResult(found.astype(np.int32), segments)
        task.update(record, Prediction(size=(40, 40), panoptic=panoptic))
    scores = task.summary(task.metric.compute())
    for key in ("VPQ", "AQ"):
        assert scores[key] == scores[f"untracked {key}"] == 100
    assert scores["SQ"] == scores["untracked SQ"] == sq and scores["identity switches"] == 0


def test_identity_switches() -> None:
    """A thing that is lost and found under its old number has not switched."""
    truth = np.ones((6, 4, 4), int)
    for numbers, switches in (([1] * 6, 0), ([1, 1, 2, 2, 1, 1], 2), ([1, 0, 0, 1, 3, 3], 1)):
        found = truth * np.array(numbers)[:, None, None]
        tracking = TrackingQuality(THINGS)
        tracking.add(_tubes(found, {1: 0, 2: 0, 3: 1}), _tubes(truth, {1: 0}))
        assert tracking.scores()["switches"] == switches


def test_nothing_is_found() -> None:
    _, truth = random_video(0, void=0.0)
    nothing = Tubes(np.zeros_like(truth.ids), {}, set())
    quality, tracking = VideoPanopticQuality(THINGS), TrackingQuality(THINGS)
    quality.add("a", nothing, truth)
    tracking.add(nothing, truth)
    assert quality.scores()["VPQ"] == 0 and tracking.scores()["STQ"] == 0


def test_frames_are_ordered_by_their_numbers() -> None:
    """Names without leading zeros, which come as text in another order."""
    ids = [np.full((4, 4), 1 + t // 6) for t in range(12)]  # another identity from the seventh on

    def scores(name: str) -> str:
        metric = VideoQuality(is_thing=[True])
        for t in reversed(range(12)):
            segment = Segment(1, 0, "cat", True, 1.0, 16, (0, 0, 4, 4))
            found = PanopticResult(np.ones((4, 4), int), [segment])
            metric.update("film", name.format(t), found, ids[t], {1: 0, 2: 0})
        return repr(metric.compute())  # NaN equals NaN

    assert scores("frame_{}") == scores("frame_{:04d}")


def test_frames_of_two_sizes_are_named() -> None:
    quality = VideoQuality(is_thing=[True])
    for frame, size in (("1", (4, 4)), ("2", (4, 6))):
        found = PanopticResult(
            np.ones(size, np.int32), [Segment(1, 0, "a", True, 0.9, 16, (0,) * 4)]
        )
        quality.update("street", frame, found, np.ones(size, int), {1: 0})
    with pytest.raises(UserError, match=r"street: its frames have sizes \(4, 4\) and \(4, 6\)"):
        quality.compute()
