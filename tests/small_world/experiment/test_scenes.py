"""Scores of chosen scenes against the evaluators, which see each scene as often as it is chosen."""

from pathlib import Path

import numpy as np
import pytest

from frozenseg.evaluation.few_shot import ClassMaskIoU
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.recall import ProposalRecall
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.small_world.experiment.scenes import SceneCounts

CLASSES, SCENES, SIDE = 5, 6, 12
SEEN = np.array([True, False, True, False, True])
NAMES = [f"class {number}" for number in range(CLASSES)]


def metrics() -> dict:
    categories = [{"id": number, "isthing": number % 2} for number in range(CLASSES)]
    return {
        "panoptic": PanopticQuality(categories=categories, seen=list(SEEN)),
        "semantic": SemanticIoU(names=NAMES, seen=list(SEEN)),
        "recall": ProposalRecall(names=NAMES, seen=list(SEEN)),
        "oracle": ClassMaskIoU(names=NAMES, seen=list(SEEN)),
    }


def scene(number: int, image_id: str) -> dict:
    """The arguments of `update` for each metric; class 4 is only ever predicted."""
    chance = np.random.default_rng(number)
    truth = chance.integers(4, size=(3, 3)).repeat(4, 0).repeat(4, 1)
    truth[:2, :2] = 255
    noise = chance.random((SIDE, SIDE)) < 0.1
    predicted = np.where(noise, chance.integers(CLASSES, size=(SIDE, SIDE)), truth)
    predicted[predicted == 255] = 4

    def segments(labels: np.ndarray) -> list[dict[str, int]]:
        present = [int(label) for label in np.unique(labels) if label != 255]
        return [{"id": label + 1, "category_id": label, "iscrowd": 0} for label in present]

    ids = [np.where(labels == 255, 0, labels + 1) for labels in (predicted, truth)]
    proposals = predicted == np.arange(CLASSES)[:, None, None]
    return {
        "panoptic": (image_id, ids[0], segments(predicted), ids[1], segments(truth)),
        "semantic": (predicted, truth),
        "recall": (proposals, truth),
        "oracle": (present := np.unique(truth[truth != 255]), proposals[present], truth),
    }


def counts() -> SceneCounts:
    states: dict[str, list] = {"panoptic": [], "semantic": [], "recall": [], "oracle": []}
    for number in range(SCENES):
        for name, arguments in scene(number, str(number)).items():
            metric = metrics()[name]
            metric.update(*arguments)
            states[name].append(metric.state())
    return SceneCounts.of_states(states, SEEN)


@pytest.mark.parametrize("chosen", [[1, 1, 1, 1, 1, 1], [3, 0, 1, 0, 2, 0], [0, 0, 0, 1, 0, 0]])
def test_scores_are_those_of_the_evaluators(chosen: list[int]) -> None:
    whole = metrics()
    for number, times in enumerate(chosen):
        for time in range(times):
            for name, arguments in scene(number, f"{number}, {time}").items():
                whole[name].update(*arguments)
    quality, iou = whole["panoptic"].compute(), whole["semantic"].compute()
    oracle = whole["oracle"].compute()
    expected = {
        "PQ": 100 * quality["All"]["pq"],
        "PQ-seen": 100 * quality["Seen"]["pq"],
        "PQ-unseen": 100 * quality["Unseen"]["pq"],
        **{key: iou[key] for key in ("mIoU", "mIoU-seen", "mIoU-unseen")},
        **whole["recall"].compute(),
        **{f"oracle {key}": oracle[key] for key in ("mIoU", "mIoU-seen", "mIoU-unseen")},
    }
    found = counts().scores(np.array([[0] * SCENES, chosen]))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key][1] == pytest.approx(value, nan_ok=True), key
        assert np.isnan(found[key][0])  # no scene, no score


def test_counts_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = counts()
    written.write(tmp_path / "scenes.npz")
    read = SceneCounts.read(tmp_path / "scenes.npz")
    assert read.scenes == SCENES
    for name, values in vars(written).items():
        np.testing.assert_array_equal(getattr(read, name), values)
