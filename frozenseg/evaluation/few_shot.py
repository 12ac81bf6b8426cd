"""Masks of single classes, as the few-shot benchmarks count them: mIoU and FB-IoU."""

from collections.abc import Sequence

import numpy as np

from frozenseg.data.annotations import VOID_CLASS
from frozenseg.errors import UserError
from frozenseg.evaluation.metric import Metric, Scores, State
from frozenseg.text.names import distinct


class ClassMaskIoU(Metric):
    """IoU of masks that were asked for class by class, each in images that have the class.

    Intersections and unions of a class are summed over all its images, then divided; "mIoU" is the
    mean over classes that were asked for (HSNet, arXiv 2104.01538). "FB-IoU" forgets
    classes: the mean of the IoU of foreground and of background over all questions. All in per
    cent, NaN where nothing was asked.

    names: of the classes, by label. seen: (K,) whether a class was met in training.
    """

    def __init__(self, *, names: Sequence[str], seen: Sequence[bool]) -> None:
        if len(seen) != len(names):
            raise UserError(f"{len(names)} class names, but {len(seen)} entries in `seen`")
        self.names = distinct(names)
        self.seen = np.array(seen, dtype=bool)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        shape = (4, len(self.names))
        self._counts = np.zeros(shape, dtype=np.int64)  # both, either, neither, not both

    def update(self, class_ids: Sequence[int], masks: np.ndarray, gt: np.ndarray) -> None:
        """Count one image. class_ids: P labels that were asked for; masks: (P, H, W) bool; gt:
        (H, W) labels, `VOID_CLASS` where nothing is known, `BACKGROUND_CLASS` where it is none."""
        if masks.shape != (len(class_ids), *gt.shape):
            raise UserError(
                f"{len(class_ids)} classes of an image of {gt.shape}, but masks of {masks.shape}"
            )
        known = gt != VOID_CLASS
        for class_id, mask in zip(class_ids, masks, strict=True):
            true, predicted = (gt == class_id)[known], mask[known]
            both = int((true & predicted).sum())
            either = int((true | predicted).sum())
            self._counts[:, class_id] += (both, either, len(true) - either, len(true) - both)

    def compute(self) -> Scores:
        """Return the scores of all images so far."""
        both, either, neither, not_both = self._counts
        asked = either > 0  # a class that is found on unknown pixels alone has no score
        with np.errstate(invalid="ignore"):
            iou = 100 * np.where(asked, both / either, np.nan)
            background, foreground = neither.sum() / not_both.sum(), both.sum() / either.sum()
        scores: Scores = {
            "mIoU": _mean(iou[asked]),
            "mIoU-seen": _mean(iou[asked & self.seen]),
            "mIoU-unseen": _mean(iou[asked & ~self.seen]),
            "FB-IoU": float(100 * (foreground + background) / 2),
        }
        return scores | {f"IoU-{name}": float(v) for name, v in zip(self.names, iou, strict=True)}

    def state(self) -> State:
        """Return what was kept of the images, as JSON can carry it."""
        return {"counts": self._counts.tolist()}

    def add_state(self, state: State) -> None:
        """Add what another metric kept."""
        self._counts += np.array(state["counts"], dtype=np.int64)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
