"""Recall of class-agnostic mask proposals, for seen and unseen classes."""

from collections.abc import Sequence

import numpy as np

from frozenseg.data.rle import Masks, as_rles, encode_masks, rle_iou
from frozenseg.errors import UserError
from frozenseg.evaluation.metric import CountingMetric, Scores
from frozenseg.evaluation.semantic import check_ignore


class ProposalRecall(CountingMetric):
    """Share of (image, class) regions that some proposal covers, in per cent (FrozenSeg, Tab. 8).

    In each image, all pixels of a class are one region. It is found at a threshold if its IoU with
    a proposal is above the threshold. Regions are pooled over all images, not averaged per class;
    pixels without a class stay in the union. Scores are "S_Recall@IoU=0.50" for seen classes and
    "U_..." for unseen ones, and NaN where there was no region.

    names: the class names, by label. seen: (K,) whether a class was seen in training. ignore: the
    label of pixels without a class.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        seen: Sequence[bool],
        thresholds: Sequence[float] = (0.5, 0.75, 0.9),
        ignore: int = 255,
    ) -> None:
        if len(seen) != len(names):
            raise UserError(f"{len(names)} class names, but {len(seen)} entries in `seen`")
        check_ignore(ignore, len(names))
        self.names = list(names)
        self.seen = np.array(seen, dtype=bool)
        self.thresholds = np.array(thresholds, dtype=np.float64)
        self.ignore = ignore
        self.keys = tuple(
            f"{letter}_Recall@IoU={threshold:.2f}" for letter in "SU" for threshold in thresholds
        )
        super().__init__(regions=(2,), found=(2, len(self.thresholds)))  # rows: unseen, seen

    def update(self, proposals: Masks, gt: np.ndarray) -> None:
        """Count one image.

        proposals: (P, H, W) masks or P run-length codes; P may be 0. gt: (H, W) labels.
        """
        codes = as_rles(proposals, (gt.shape[0], gt.shape[1]), "proposals")
        labels = np.unique(gt)
        labels = labels[labels != self.ignore]
        if len(labels) and (labels[0] < 0 or labels[-1] >= len(self.names)):
            wrong = labels[0] if labels[0] < 0 else labels[-1]
            raise UserError(
                f"ground truth: label {wrong} is not one of the {len(self.names)} classes"
            )
        seen = self.seen[labels].astype(np.int64)
        self.counts["regions"] += np.bincount(seen, minlength=2)
        if not len(labels) or not codes:
            return
        regions = encode_masks(gt == labels[:, None, None])
        iou = rle_iou(codes, regions)  # (P, regions)
        np.add.at(self.counts["found"], seen, iou.max(axis=0)[:, None] > self.thresholds)

    def compute(self) -> Scores:
        """Return the recall of each group at each threshold, in the order of `keys`."""
        regions = self.counts["regions"][::-1, None]  # seen first, as in `keys`
        with np.errstate(invalid="ignore"):
            shares = 100 * self.counts["found"][::-1] / regions
        return dict(zip(self.keys, shares.ravel().tolist(), strict=True))
