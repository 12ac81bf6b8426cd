import json

import numpy as np
import pytest

from frozenseg.data.rle import encode_masks
from frozenseg.errors import UserError
from frozenseg.evaluation.recall import ProposalRecall

NAMES, SEEN = ["a", "b", "c", "d"], [True, False, True, False]
RNG = np.random.default_rng(1)


def make_image(num_proposals: int) -> tuple[np.ndarray, np.ndarray]:
    gt = np.full((30, 25), 255, dtype=np.uint8)
    for label in RNG.permutation(4):
        y, x = RNG.integers(0, 20, 2)
        gt[y : y + 15, x : x + 15] = label
    proposals = [
        (gt == RNG.integers(0, 4)) ^ (RNG.random(gt.shape) < 0.1) for _ in range(num_proposals)
    ]
    return np.array(proposals).reshape(-1, *gt.shape), gt


IMAGES = [make_image(n) for n in (3, 0, 5, 1, 4, 6)]


def scored(images) -> ProposalRecall:
    metric = ProposalRecall(names=NAMES, seen=SEEN)
    for proposals, gt in images:
        metric.update(proposals, gt)
    return metric


def test_equals_masks_one_by_one():
    scores = scored(IMAGES).compute()
    for letter, group in (("S", True), ("U", False)):
        for threshold in (0.5, 0.75, 0.9):
            found = []
            for proposals, gt in IMAGES:
                for label in range(4):
                    region = gt == label
                    if SEEN[label] == group and region.any():
                        ious = [(p & region).sum() / (p | region).sum() for p in proposals]
                        found.append(any(iou > threshold for iou in ious))
            key = f"{letter}_Recall@IoU={threshold:.2f}"
            assert scores[key] == pytest.approx(100 * np.mean(found))
    assert 0 < scores["S_Recall@IoU=0.50"] < 100


def test_an_iou_at_the_threshold_is_not_above_it():
    gt = np.zeros((1, 4), dtype=int)
    half = np.array([[[1, 1, 0, 0]]], dtype=bool)
    assert scored([(half, gt)]).compute()["S_Recall@IoU=0.50"] == 0


def test_codes_equal_masks_and_processes_equal_one():
    parts = [
        scored([(encode_masks(p), gt) for p, gt in part]).state()
        for part in (IMAGES[4:], IMAGES[:4])
    ]
    together = ProposalRecall(names=NAMES, seen=SEEN)
    together.merge(json.loads(json.dumps(parts)))
    assert together.compute() == scored(IMAGES).compute()


def test_truth_against_itself_is_perfect():
    images = [(gt == np.arange(4)[:, None, None], gt) for _, gt in IMAGES]
    assert set(scored(images).compute().values()) == {100.0}


def test_no_region_is_no_number_and_bad_input():
    metric = ProposalRecall(names=NAMES, seen=SEEN)
    metric.update(np.zeros((0, 2, 2), bool), np.full((2, 2), 255))
    assert all(np.isnan(value) for value in metric.compute().values())
    with pytest.raises(UserError, match="label 9"):
        metric.update(np.zeros((0, 2, 2), bool), np.full((2, 2), 9))
    with pytest.raises(UserError, match=r"masks have shape \(1, 3, 2\)"):
        metric.update(np.zeros((1, 3, 2), bool), np.zeros((2, 2), int))
