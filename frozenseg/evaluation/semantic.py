"""Semantic segmentation: intersection over union and accuracy, as detectron2 computes them."""

from collections.abc import Sequence

import numpy as np

from frozenseg.errors import UserError
from frozenseg.evaluation.metric import CountingMetric, Scores, mean
from frozenseg.text.names import distinct


class SemanticIoU(CountingMetric):
    """mIoU, fwIoU, mACC and pACC, and the IoU and ACC of each class, in per cent.

    Only pixels with a class or with `background` in the ground truth count. A class that never
    occurs in the ground truth has no score (NaN) and does not enter the means, even if it was
    predicted, as in detectron2's SemSegEvaluator. All sums are integers, so the order of the images
    does not matter.

    names: the class names, by label. seen: (K,) whether a class was seen in training; adds
    "mIoU-seen" and "mIoU-unseen". ignore: the label of pixels without a class; in a prediction it
    means that the model gives the pixel no class, which counts as wrong. background: the label of
    pixels that are known to belong to no class, so that any class predicted there is wrong; None:
    there is no such label.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        seen: Sequence[bool] | None = None,
        ignore: int = 255,
        background: int | None = None,
    ) -> None:
        if seen is not None and len(seen) != len(names):
            raise UserError(f"{len(names)} class names, but {len(seen)} entries in `seen`")
        check_ignore(ignore, len(names))
        self.names = distinct(names)
        self.seen = None if seen is None else np.array(seen, dtype=bool)
        self.ignore, self.background = ignore, background
        shape = (len(self.names),)
        super().__init__(true=shape, predicted=shape, correct=shape)

    def update(self, pred: np.ndarray, gt: np.ndarray) -> None:
        """Count the pixels of one image.

        pred, gt: (H, W) labels, 0 to K-1 or `ignore`; in `gt` also `background`.
        """
        if pred.shape != gt.shape:
            raise UserError(f"the prediction has shape {pred.shape}, the ground truth {gt.shape}")
        num_classes = len(self.names)
        true = self._labels(gt, "ground truth", self.background)
        predicted = self._labels(pred, "prediction")
        labelled = true != num_classes
        true, predicted = true[labelled], predicted[labelled]
        counts = self.counts
        counts["true"] += np.bincount(true, minlength=num_classes)[:num_classes]
        counts["predicted"] += np.bincount(predicted, minlength=num_classes + 1)[:num_classes]
        counts["correct"] += np.bincount(true[true == predicted], minlength=num_classes)

    def _labels(self, labels: np.ndarray, source: str, background: int | None = None) -> np.ndarray:
        """Return the labels as (H * W,) int64, with K in place of `ignore`, and K + 1 in place of
        `background`."""
        num_classes = len(self.names)
        flat = labels.ravel().astype(np.int64)
        is_background = flat == background
        outside = ((flat < 0) | (flat >= num_classes)) & ~is_background
        wrong = flat[outside & (flat != self.ignore)]
        if len(wrong):
            raise UserError(
                f"{source}: label {wrong[0]} is not a class; labels are 0 to {num_classes - 1}, "
                f"or {self.ignore} for no class"
            )
        flat[flat == self.ignore] = num_classes
        flat[is_background] = num_classes + 1
        return flat

    def compute(self) -> Scores:
        """Return the means, then "IoU-NAME" and "ACC-NAME" of each class."""
        true, predicted, correct = (self.counts[key] for key in ("true", "predicted", "correct"))
        present = true > 0
        with np.errstate(invalid="ignore"):
            iou = 100 * np.where(present, correct / (true + predicted - correct), np.nan)
            accuracy = 100 * (correct / true)
            weight = true / true.sum()
            pixel_accuracy = 100 * (correct.sum() / true.sum())
        scores: Scores = {
            "mIoU": mean(iou[present]),
            "fwIoU": float((iou * weight)[present].sum()) if present.any() else float("nan"),
        }
        if self.seen is not None:
            scores["mIoU-seen"] = mean(iou[present & self.seen])
            scores["mIoU-unseen"] = mean(iou[present & ~self.seen])
        scores |= {f"IoU-{name}": float(v) for name, v in zip(self.names, iou, strict=True)}
        scores |= {"mACC": mean(accuracy[present]), "pACC": float(pixel_accuracy)}
        scores |= {f"ACC-{name}": float(v) for name, v in zip(self.names, accuracy, strict=True)}
        return scores


def check_ignore(ignore: int, num_classes: int) -> None:
    """Raise `UserError` if the label of pixels without a class is also the label of a class."""
    if 0 <= ignore < num_classes:
        raise UserError(
            f"label {ignore} cannot mean both 'ignore' and a class; with {num_classes} classes "
            "choose another ignore label, such as 65535 for 16-bit maps"
        )
