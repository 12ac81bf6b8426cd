"""Measure how much our numbers differ from reference vectors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from frozenseg.structures import InstanceResult, PanopticResult

BOUND = 1e-3  # the largest error that is accepted
Rows = Iterator[tuple[str, float]]


def tensor_error(ours: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Compute max|ours - expected| / max|expected|; it is infinite if the shapes differ."""
    ours = np.asarray(ours, dtype=np.float64)
    if ours.shape != expected.shape:
        return float("inf")
    largest = max(np.abs(expected).max(initial=0), 1e-30)
    return float(np.abs(ours - expected).max(initial=0) / largest)


def map_error(ours: np.ndarray, expected: np.ndarray) -> float:
    """Compute the share of pixels that differ; it is infinite if the shapes differ."""
    return float((ours != expected).mean()) if ours.shape == expected.shape else float("inf")


def segment_error(panoptic: PanopticResult, expected: list[dict[str, Any]]) -> float:
    """Return 0 if ids, classes and thing flags of all segments are equal, else 1."""
    ours = [(segment.id, segment.is_thing, segment.class_id) for segment in panoptic.segments]
    return float(ours != [(row["id"], row["isthing"], row["category_id"]) for row in expected])


def instance_rows(
    name: str, instances: InstanceResult, scores: np.ndarray, classes: np.ndarray
) -> Rows:
    """Compare instances as sets: both are sorted by score, then by class."""
    order, expected = by_score(instances.scores, instances.class_ids), by_score(scores, classes)
    yield f"{name}_scores", tensor_error(instances.scores[order], scores[expected])
    yield f"{name}_classes", map_error(instances.class_ids[order], classes[expected])


def by_score(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the order of descending score, with equal scores in order of ascending class."""
    return np.lexsort((classes, -scores))
