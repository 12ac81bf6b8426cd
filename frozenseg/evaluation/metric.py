"""The interface of all metrics: they take one image at a time, and can merge several processes."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

State = dict[str, Any]
Scores = dict[str, Any]


class Metric(ABC):
    """Scores a stream of images without keeping their pixels in memory.

    Each subclass has `update(...)`, which takes the prediction and the ground truth of one image
    and keeps counts or run-length codes of them, never the maps themselves. Several processes that
    each saw a part of the images give exactly the same scores as one process: gather the `state()`
    of all of them, in any order, and `merge` them in one metric.
    """

    @abstractmethod
    def reset(self) -> None:
        """Forget all images."""

    def fresh(self) -> "Metric":
        """Return a metric that shares the ground truth of this one, but has seen no image."""
        found = copy.copy(self)
        found.reset()
        return found

    @abstractmethod
    def compute(self) -> Scores:
        """Return the scores of all images so far: {name: number}, or {group: {name: number}}."""

    @abstractmethod
    def state(self) -> State:
        """Return all that was kept of the images, as lists and numbers that JSON can hold."""

    @abstractmethod
    def add_state(self, state: State) -> None:
        """Add the state of another metric, as if this one had seen its images."""

    def merge(self, states: Iterable[State]) -> None:
        """Replace the state of this metric by `states`, which after a gather include its own."""
        self.reset()
        for state in states:
            self.add_state(state)


class CountingMetric(Metric):
    """A metric that keeps only integer counts, which are summed over images and processes.

    counts: arrays int64 by name. A subclass adds to them in `update`.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        """shapes: the shape of each array of `counts`, by name."""
        self._shapes = shapes
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.counts = {name: np.zeros(size, np.int64) for name, size in self._shapes.items()}

    def state(self) -> State:
        """Return the counts as lists."""
        return {name: array.tolist() for name, array in self.counts.items()}

    def add_state(self, state: State) -> None:
        """Add the counts of another metric."""
        for name, array in self.counts.items():
            array += np.array(state[name], dtype=np.int64)


def mean(values: np.ndarray) -> float:
    """Return the mean of the scores (N,) of some classes; NaN if N is 0."""
    return float(values.mean()) if len(values) else float("nan")
