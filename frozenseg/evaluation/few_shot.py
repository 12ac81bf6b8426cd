"""mIoU and FB-IoU of the masks of single classes, as in the few-shot benchmarks."""

from collections.abc import Sequence

import numpy as np

from frozenseg.data.annotations import VOID_CLASS
from frozenseg.errors import UserError
from frozenseg.evaluation.metric import CountingMetric, Scores, mean
from frozenseg.text.names import distinct


class ClassMaskIoU(CountingMetric):
    """IoU of the masks of queried classes, each class in the images in which it is queried.

    Intersections and unions of a class are summed over its images, then divided. "mIoU" is the mean
    over the queried classes (HSNet, arXiv 2104.01538). "FB-IoU" ignores which class is which: it is
    the mean of the IoU of foreground and the IoU of background, each over all pairs of an image and
    a class. All scores are in per cent, and NaN where no class was queried.

    names: the class names, by label. seen: (K,) whether a class was seen in training.
    """

    def __init__(self, *, names: Sequence[str], seen: Sequence[bool]) -> None:
        if len(seen) != len(names):
            raise UserError(f"{len(names)} class names, but {len(seen)} entries in `seen`")
        self.names = distinct(names)
        self.seen = np.array(seen, dtype=bool)
        # Pixels in both prediction and truth, in at least one, in neither, and not in both.
        super().__init__(pixels=(4, len(self.names)))

    def update(self, class_ids: Sequence[int], masks: np.ndarray, gt: np.ndarray) -> None:
        """Count one image.

        class_ids: the labels of the P queried classes. masks: (P, H, W) bool. gt: (H, W) labels,
        `VOID_CLASS` where unlabelled, `BACKGROUND_CLASS` where labelled as none of the classes.
        Raises `UserError` if the shapes do not agree.
        """
        if masks.shape != (len(class_ids), *gt.shape):
            raise UserError(
                f"{len(class_ids)} classes of an image of {gt.shape}, but masks of {masks.shape}"
            )
        known = gt != VOID_CLASS
        for class_id, mask in zip(class_ids, masks, strict=True):
            true, predicted = (gt == class_id)[known], mask[known]
            both = int((true & predicted).sum())
            either = int((true | predicted).sum())
            self.counts["pixels"][:, class_id] += (
                both,
                either,
                len(true) - either,
                len(true) - both,
            )

    def compute(self) -> Scores:
        """Return the mIoU of all, seen and unseen classes, FB-IoU, and "IoU-NAME" of each class."""
        both, either, neither, not_both = self.counts["pixels"]
        scored = either > 0  # a class that is predicted only on unlabelled pixels has no score
        with np.errstate(invalid="ignore"):
            iou = 100 * np.where(scored, both / either, np.nan)
            background, foreground = neither.sum() / not_both.sum(), both.sum() / either.sum()
        scores: Scores = {
            "mIoU": mean(iou[scored]),
            "mIoU-seen": mean(iou[scored & self.seen]),
            "mIoU-unseen": mean(iou[scored & ~self.seen]),
            "FB-IoU": float(100 * (foreground + background) / 2),
        }
        return scores | {f"IoU-{name}": float(v) for name, v in zip(self.names, iou, strict=True)}
