"""What all metrics share: they take one image at a time, and several processes can be combined."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

State = dict[str, Any]
Scores = dict[str, Any]


class Metric(ABC):
    """Scores a stream of images in memory that does not grow with their pixels.

    Each subclass has `update(...)`, which takes the prediction and the truth of one image and keeps
    counts or run-length codes of them, never the maps themselves. Several processes that each saw a
    part of the images give exactly the numbers of one process: gather the `state()` of all of them,
    in any order, and `merge` them in one metric.
    """

    @abstractmethod
    def reset(self) -> None:
        """Forget all images."""

    def fresh(self) -> "Metric":
        """Return a metric with the same ground truth, in the same memory, that has seen no
        image."""
        found = copy.copy(self)
        found.reset()
        return found

    @abstractmethod
    def compute(self) -> Scores:
        """Return the scores of all images so far: {name: number}, or {group: {name: number}}."""

    @abstractmethod
    def state(self) -> State:
        """All that was kept of the images, as plain lists and numbers that JSON can carry."""

    @abstractmethod
    def add_state(self, state: State) -> None:
        """Take in what another metric kept, as if its images had been seen here."""

    def merge(self, states: Iterable[State]) -> None:
        """Hold the images of `states` in place of its own, which a gather has among them."""
        self.reset()
        for state in states:
            self.add_state(state)


class CountingMetric(Metric):
    """A metric that keeps whole numbers alone, which add up over images and over processes.

    counts: arrays int64 by name. A subclass adds to them in `update`.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        """shapes: of each array of `counts`."""
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
    """Return the mean of the scores (N,) of some classes; NaN where there is none."""
    return float(values.mean()) if len(values) else float("nan")
