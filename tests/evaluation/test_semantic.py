import json

import numpy as np
import pytest

from frozenseg.errors import UserError
from frozenseg.evaluation.semantic import SemanticIoU

NAMES = ["a", "b", "c", "only predicted", "nowhere"]
RNG = np.random.default_rng(0)
GT = RNG.choice([0, 1, 2, 255], size=(6, 30, 40)).astype(np.uint8)
PRED = np.where(RNG.random(GT.shape) < 0.6, GT, RNG.integers(0, 4, GT.shape))
PRED[PRED == 255] = 3


def scored(images) -> SemanticIoU:
    metric = SemanticIoU(names=NAMES, seen=[True, False, True, True, False])
    for i in images:
        metric.update(PRED[i], GT[i])
    return metric


def test_equals_masks_class_by_class():
    scores = scored(range(6)).compute()
    valid = GT != 255
    iou, accuracy, frequency = [], [], []
    for label in range(3):
        true, predicted = GT == label, (PRED == label) & valid
        both = (true & predicted).sum()
        iou.append(100 * both / (true | predicted).sum())
        accuracy.append(100 * both / true.sum())
        frequency.append(true.sum() / valid.sum())
        assert scores[f"IoU-{NAMES[label]}"] == pytest.approx(iou[-1])
        assert scores[f"ACC-{NAMES[label]}"] == pytest.approx(accuracy[-1])
    assert scores["mIoU"] == pytest.approx(np.mean(iou))  # classes without truth have no part
    assert scores["mACC"] == pytest.approx(np.mean(accuracy))
    assert scores["fwIoU"] == pytest.approx(np.dot(iou, frequency))
    assert scores["pACC"] == pytest.approx(100 * (PRED == GT)[valid].mean())
    assert scores["mIoU-seen"] == pytest.approx((iou[0] + iou[2]) / 2)
    assert scores["mIoU-unseen"] == pytest.approx(iou[1])
    assert np.isnan(scores["IoU-only predicted"]) and np.isnan(scores["ACC-nowhere"])


def test_processes_together_equal_one():
    together = SemanticIoU(names=NAMES, seen=[True, False, True, True, False])
    parts = [scored(part).state() for part in ([4, 1], [], [0, 2, 3, 5])]
    together.merge(json.loads(json.dumps(parts)))
    assert repr(together.compute()) == repr(scored(range(6)).compute())  # NaN equals NaN


def test_truth_against_itself_is_perfect():
    metric = SemanticIoU(names=NAMES)
    metric.update(GT, GT)
    scores = metric.compute()
    assert {scores[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")} == {100.0}


def test_sixteen_bits_and_pixels_without_prediction():
    metric = SemanticIoU(names=[str(i) for i in range(500)], ignore=65535)
    metric.update(
        np.array([[499, 65535, 255]], dtype=np.uint16), np.array([[499, 499, 65535]], np.uint16)
    )
    scores = metric.compute()
    assert scores["mIoU"] == scores["pACC"] == 50  # abstaining is wrong, ignored pixels are not


def test_bad_labels():
    metric = SemanticIoU(names=NAMES)
    with pytest.raises(UserError, match="ground truth: label 200 is not a class"):
        metric.update(np.zeros((1, 2), int), np.array([[0, 200]]))
    with pytest.raises(UserError, match="prediction: label -1 is not a class"):
        metric.update(np.array([[0, -1]]), np.zeros((1, 2), int))
    with pytest.raises(UserError, match="shape"):
        metric.update(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(UserError, match="choose another ignore label"):
        SemanticIoU(names=["x"] * 847)


def test_what_is_found_where_no_class_is_counts_as_wrong():
    """Pixels that are known to be of no class are those of one more class, which has no score."""
    truth = np.where(GT == 2, -2, GT.astype(int))
    metric = SemanticIoU(names=NAMES[:2], background=-2)
    found = np.where(PRED < 2, PRED, 255)
    metric.update(found, truth)
    scores = metric.compute()
    valid = GT != 255
    for label in range(2):
        true, predicted = GT == label, (found == label) & valid
        iou = 100 * (true & predicted).sum() / (true | predicted).sum()
        assert scores[f"IoU-{NAMES[label]}"] == pytest.approx(iou)
    with pytest.raises(UserError, match="prediction: label -2 is not a class"):
        metric.update(truth, truth)
