"""The counts of each scene of a test set, from which any choice of scenes can be scored.

Legend: S scenes, K classes, R choices of scenes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frozenseg.errors import UserError
from frozenseg.evaluation.metric import State
from frozenseg.files import atomic_path, read_arrays

THRESHOLDS = ("0.50", "0.75", "0.90")  # of the IoU, for recall


@dataclass(frozen=True)
class SceneCounts:
    """The counts of S scenes; S is 0 in the arrays of what was not evaluated.

    seen: (K,) whether each class was met in training.
    panoptic: (4, S, K) for each class: matches, the sum of their IoU, misses, false segments.
    semantic: (3, S, K) pixels of each class in the truth, in the prediction, in both.
    recall: (2, S, 4) for unseen, then seen classes: regions, and those found at each threshold.
    oracle: (2, S, K) pixels of each class that is in a scene, when only this class was asked for:
        in both truth and prediction, in at least one of them.
    """

    seen: np.ndarray
    panoptic: np.ndarray
    semantic: np.ndarray
    recall: np.ndarray
    oracle: np.ndarray

    @property
    def scenes(self) -> int:
        """The number of scenes, S."""
        parts = (self.panoptic, self.semantic, self.recall, self.oracle)
        return max(part.shape[1] for part in parts)

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return scores (R,) in per cent of R choices of scenes, by the names that evaluators use.

        weights: (R, S) how often each scene is chosen.
        """
        found: dict[str, np.ndarray] = {}
        groups = {"": self.seen | True, "-seen": self.seen, "-unseen": ~self.seen}
        if self.panoptic.shape[1]:
            matched, iou, missed, false = weights @ self.panoptic  # (R, K) each
            effort = matched + 0.5 * missed + 0.5 * false
            found |= _means("PQ", iou, effort, groups)
        if self.semantic.shape[1]:
            true, predicted, correct = weights @ self.semantic
            union = np.where(true > 0, true + predicted - correct, 0)
            found |= _means("mIoU", correct, union, groups)
        if self.oracle.shape[1]:
            both, either = weights @ self.oracle
            found |= _means("oracle mIoU", both, either, groups)
        if self.recall.shape[1]:
            for letter, counts in zip("US", weights @ self.recall, strict=True):
                for column, threshold in enumerate(THRESHOLDS, start=1):
                    with np.errstate(invalid="ignore"):
                        share = 100 * counts[:, column] / counts[:, 0]
                    found[f"{letter}_Recall@IoU={threshold}"] = share
        return found

    def write(self, path: Path) -> None:
        """Write the counts as .npz."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def read(cls, path: Path) -> "SceneCounts":
        """Read what `write` has written; raises `UserError` if it is missing or damaged."""
        remedy = "delete it and the scores beside it, and the same command makes both again"
        arrays = read_arrays(path, remedy)
        if "seen" in arrays:
            arrays.setdefault("oracle", np.zeros((2, 0, len(arrays["seen"]))))  # old files lack it
        fields = cls.__dataclass_fields__
        if not fields.keys() <= arrays.keys():
            raise UserError(f"{path}: does not hold the counts of scenes; {remedy}")
        return cls(**{name: arrays[name] for name in fields})

    @classmethod
    def of_states(cls, states: Mapping[str, Sequence[State]], seen: np.ndarray) -> "SceneCounts":
        """Return the counts of S scenes, from the metric states of each single scene.

        states: by the name of the task. seen: (K,) whether each class was met in training.
        """
        classes = len(seen)
        empty = {
            "panoptic": (4, 0, classes),
            "semantic": (3, 0, classes),
            "recall": (2, 0, 4),
            "oracle": (2, 0, classes),
        }
        counts = {
            name: np.stack([_COUNTS[name](state, classes) for state in states[name]], axis=1)
            if states.get(name)
            else np.zeros(shape)
            for name, shape in empty.items()
        }
        return cls(seen=seen, **counts)


def _panoptic(state: State, classes: int) -> np.ndarray:
    rows = np.array(state["match_class"], dtype=np.int64)
    return np.stack(
        [
            np.bincount(rows, minlength=classes),
            np.bincount(rows, weights=state["match_iou"], minlength=classes),
            state["missed"],
            state["false"],
        ]
    )


def _semantic(state: State, classes: int) -> np.ndarray:
    return np.array([state[name] for name in ("true", "predicted", "correct")], dtype=float)


def _recall(state: State, classes: int) -> np.ndarray:
    return np.concatenate([np.array(state["regions"])[:, None], state["found"]], axis=1)


def _oracle(state: State, classes: int) -> np.ndarray:
    return np.array(state["pixels"], dtype=float)[:2]


_COUNTS = {"panoptic": _panoptic, "semantic": _semantic, "recall": _recall, "oracle": _oracle}


def _means(
    name: str, parts: np.ndarray, wholes: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the means (R,) of parts / wholes (R, K) over the classes of each group that occur."""
    shares = 100 * parts / np.where(wholes > 0, wholes, 1)
    found = {}
    for suffix, group in groups.items():
        occurs = (wholes > 0) & group
        with np.errstate(invalid="ignore"):
            found[f"{name}{suffix}"] = (shares * occurs).sum(1) / occurs.sum(1)
    return found
