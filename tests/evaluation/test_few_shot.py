"""mIoU and FB-IoU of masks asked for class by class, against pixels counted one by one."""

import math

import numpy as np
import pytest

from frozenseg.errors import UserError
from frozenseg.evaluation.few_shot import ClassMaskIoU

NAMES, SEEN = ["cat", "dog", "sky", "sea"], [True, False, True, False]


def cases() -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """Three images with classes 0-2, unknown pixels, and masks that are right now and then."""
    chance = np.random.default_rng(0)
    found = []
    for height, width in ((5, 7), (6, 4), (8, 8)):
        gt = chance.integers(-1, 3, (height, width))
        classes = [int(label) for label in np.unique(gt) if label >= 0]
        masks = np.stack([(gt == k) ^ (chance.random(gt.shape) < 0.3) for k in classes])
        found.append((classes, masks, gt))
    return found


def filled() -> ClassMaskIoU:
    metric = ClassMaskIoU(names=NAMES, seen=SEEN)
    for case in cases():
        metric.update(*case)
    return metric


def test_equals_counting_pixels_one_by_one() -> None:
    both, either = [0] * 4, [0] * 4
    kinds = {"foreground": [0, 0], "background": [0, 0]}
    for classes, masks, gt in cases():
        for k, mask in zip(classes, masks, strict=True):
            for label, predicted in zip(gt.flat, mask.flat, strict=True):
                if label < 0:
                    continue
                true = label == k
                both[k] += int(true and predicted)
                either[k] += int(true or predicted)
                kinds["foreground"][0] += int(true and predicted)
                kinds["foreground"][1] += int(true or predicted)
                kinds["background"][0] += int(not true and not predicted)
                kinds["background"][1] += int(not (true and predicted))
    scores = filled().compute()
    iou = [100 * a / b for a, b in zip(both[:3], either[:3], strict=True)]
    assert scores["mIoU"] == pytest.approx(sum(iou) / 3)
    assert scores["mIoU-seen"] == pytest.approx((iou[0] + iou[2]) / 2)
    assert scores["mIoU-unseen"] == pytest.approx(iou[1])  # "sea" was never asked for
    assert math.isnan(scores["IoU-sea"])
    shares = [100 * a / b for a, b in kinds.values()]
    assert scores["FB-IoU"] == pytest.approx(sum(shares) / 2)


def test_truth_against_itself_and_against_its_contrary() -> None:
    metric = ClassMaskIoU(names=NAMES, seen=SEEN)
    for classes, _, gt in cases():
        metric.update(classes, np.stack([gt == k for k in classes]), gt)
    assert metric.compute()["mIoU"] == metric.compute()["FB-IoU"] == 100
    metric.reset()
    for classes, _, gt in cases():
        metric.update(classes, np.stack([gt != k for k in classes]), gt)
    assert metric.compute()["mIoU"] == metric.compute()["FB-IoU"] == 0


def test_processes_that_share_the_images_give_the_same() -> None:
    parts = []
    for case in cases():
        metric = ClassMaskIoU(names=NAMES, seen=SEEN)
        metric.update(*case)
        parts.append(metric.state())
    merged = ClassMaskIoU(names=NAMES, seen=SEEN)
    merged.merge(reversed(parts))
    assert merged.state() == filled().state()


def test_nothing_asked_and_wrong_shapes() -> None:
    metric = ClassMaskIoU(names=NAMES, seen=SEEN)
    metric.update([], np.zeros((0, 3, 3), dtype=bool), np.full((3, 3), -1))
    assert all(math.isnan(value) for value in metric.compute().values())
    with pytest.raises(UserError, match="2 classes of an image"):
        metric.update([0, 1], np.zeros((1, 3, 3), dtype=bool), np.zeros((3, 3), dtype=int))
    with pytest.raises(UserError, match="4 class names, but 1"):
        ClassMaskIoU(names=NAMES, seen=[True])


def test_a_class_found_on_unknown_pixels_alone_has_no_part() -> None:
    metric = ClassMaskIoU(names=NAMES, seen=SEEN)
    gt = np.array([[0, -2, -1]])
    metric.update([0, 1], np.array([[[1, 0, 0]], [[0, 0, 1]]], dtype=bool), gt)
    assert metric.compute()["mIoU"] == 100


def test_background_counts_and_unknown_pixels_do_not() -> None:
    metric = ClassMaskIoU(names=NAMES, seen=SEEN)
    gt = np.array([[0, -2, -2, -1]])  # a cat, two pixels of no class, one that nobody knows
    metric.update([0], np.ones((1, 1, 4), dtype=bool), gt)
    assert metric.compute()["IoU-cat"] == pytest.approx(100 / 3)
