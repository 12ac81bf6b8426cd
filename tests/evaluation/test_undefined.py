"""A score of nothing is NaN in memory and null in JSON, never a number that could be averaged."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.data.records import Categories
from frozenseg.data.rle import encode_masks
from frozenseg.evaluation.few_shot import ClassMaskIoU
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.metric import Metric
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.recall import ProposalRecall
from frozenseg.evaluation.results_file import summary_lines
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.evaluation.tasks import (
    DetectionEvaluator,
    MosaicEvaluator,
    OracleEvaluator,
    PanopticEvaluator,
    RecallEvaluator,
    SemanticEvaluator,
    Task,
    WholeEvaluator,
)
from frozenseg.files import json_text

NAMES = ("a", "b", "c", "d")
CATEGORIES = Categories(names=NAMES, is_thing=(True, True, False, False), dataset_ids=(7, 3, 9, 1))
SIDE = 12
maps = st.lists(st.integers(-1, 3), min_size=9, max_size=9)  # a class, or none, in 3 x 3 blocks
settled = settings(derandomize=True, deadline=None, max_examples=40)


def _map(values: list[int]) -> np.ndarray:
    return np.kron(np.array(values).reshape(3, 3), np.ones((4, 4), dtype=np.int64)).astype(int)


def _objects(labels: np.ndarray) -> dict[str, Any]:
    """LVIS truth: one object for each class that is on the map."""
    classes = [label for label in np.unique(labels).tolist() if label >= 0]
    codes = encode_masks(labels == np.array(classes).reshape(-1, 1, 1)) if classes else []
    image = {"id": 1, "height": SIDE, "width": SIDE}
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    return {
        "images": [image],
        "categories": [
            {"id": number, "name": name, "frequency": letter}
            for number, name, letter in zip(CATEGORIES.dataset_ids, NAMES, "rcff", strict=True)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": CATEGORIES.dataset_ids[label],
                "segmentation": code,
                "area": int((labels == label).sum()),
                "bbox": [0, 0, SIDE, SIDE],
                "iscrowd": 0,
            }
            for i, (label, code) in enumerate(zip(classes, codes, strict=True))
        ],
    }


def _listed(ids: np.ndarray) -> list[dict[str, int]]:
    present = [number for number in np.unique(ids).tolist() if number]
    return [{"id": n, "category_id": CATEGORIES.dataset_ids[n - 1]} for n in present]


def _metrics(truth: np.ndarray, found: np.ndarray, seen: list[bool]) -> Iterator[Metric]:
    """All metrics, fed with one map as truth and another as prediction."""
    things = [{"id": n, "isthing": n > 3} for n in CATEGORIES.dataset_ids]
    panoptic = PanopticQuality(categories=things, seen=seen)
    panoptic.update(1, found + 1, _listed(found + 1), truth + 1, _listed(truth + 1))
    yield panoptic
    semantic = SemanticIoU(names=NAMES, seen=seen, ignore=-1)
    semantic.update(found, truth)
    yield semantic
    recall = ProposalRecall(names=NAMES, seen=seen, ignore=-1)
    recall.update(np.stack([found == label for label in range(4)]), truth)
    yield recall
    few = ClassMaskIoU(names=NAMES, seen=seen)
    few.update([0, 2], np.stack([found == 0, found == 2]), truth)
    yield few
    for metric in (InstanceAP, LvisAP):
        for kind in ("segm", "bbox"):
            detections = metric(ground_truth=_objects(truth), kind=kind)
            masks = np.stack([found == label for label in range(4)])
            boxes = np.tile([0.0, 0.0, SIDE, SIDE], (4, 1))
            detections.update(1, masks, boxes, [0.9, 0.5, 0.5, 0.1], CATEGORIES.dataset_ids)
            yield detections


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for entry in value.values():
            yield from _numbers(entry)
    else:
        yield value


@settled
@given(maps, maps, st.lists(st.booleans(), min_size=4, max_size=4))
def test_no_score_is_ever_below_0(truth: list[int], found: list[int], seen: list[bool]) -> None:
    for metric in _metrics(_map(truth), _map(found), seen):
        scores = metric.compute()
        for number in _numbers(scores):
            assert math.isnan(number) or 0 <= number <= 100, (type(metric), scores)
        written = json.loads(json_text(scores), parse_constant=pytest.fail)
        undefined = [math.isnan(number) for number in _numbers(scores)]
        assert [number is None for number in _numbers(written)] == undefined


def _tasks(labels: np.ndarray, seen: list[bool]) -> list[Task]:
    truth = _objects(labels)
    tasks: list[Task] = [
        task(CATEGORIES, seen)
        for task in (
            PanopticEvaluator,
            SemanticEvaluator,
            OracleEvaluator,
            MosaicEvaluator,
            WholeEvaluator,
            RecallEvaluator,
        )
    ]
    for metric in (InstanceAP, LvisAP):
        for kind in ("segm", "bbox"):
            average = metric(ground_truth=truth, kind=kind)
            tasks.append(DetectionEvaluator(CATEGORIES, seen, average))
    return tasks


def test_the_names_of_all_scores_are_known_before_the_first_image() -> None:
    for task in _tasks(np.zeros((SIDE, SIDE), dtype=int), [True] * 4):
        assert tuple(task.summary(task.metric.compute())) == task.names


@settled
@given(maps, st.lists(st.booleans(), min_size=4, max_size=4))
def test_summaries_of_no_prediction(truth: list[int], seen: list[bool]) -> None:
    """Nothing is found: a score is 0 where there was something to find, else undefined."""
    for task in _tasks(_map(truth), seen):
        for name, value in task.summary(task.metric.compute()).items():
            assert math.isnan(value) or value == 0, name


def test_what_no_image_holds_is_undefined_in_every_metric() -> None:
    nothing = np.full((SIDE, SIDE), -1)
    for metric in _metrics(nothing, nothing, [True, False, True, False]):
        scores = metric.compute()
        numbers = {key: value for key, value in scores.items() if key != "per_class"}
        counts = [value for value in _numbers(numbers) if isinstance(value, int)]
        assert not any(counts)
        floats = [value for value in _numbers(numbers) if not isinstance(value, int)]
        if isinstance(metric, ClassMaskIoU):
            continue  # the background that was asked about is there
        assert floats and all(map(math.isnan, floats)), (type(metric), scores)


def test_sizes_that_no_object_has() -> None:
    """Small objects alone: there is no AP of large ones."""
    truth = _objects(_map([0, 0, -1, -1, 1, 1, -1, -1, -1]))
    metric = InstanceAP(ground_truth=truth)
    scores = metric.compute()
    assert scores["AP"] == scores["APs"] == 0
    assert math.isnan(scores["APm"]) and math.isnan(scores["APl"])
    assert {key for key, value in scores["per_class"].items() if math.isnan(value)} == {"9", "1"}
    summary = DetectionEvaluator(CATEGORIES, [True] * 4, metric).summary(scores)
    *scored, nothing = summary_lines(summary)
    assert not any("nan" in line for line in scored)
    assert nothing.endswith(f"(nan): {', '.join(k for k, v in summary.items() if math.isnan(v))}")
    assert sum(map(math.isnan, summary.values())) == 3
