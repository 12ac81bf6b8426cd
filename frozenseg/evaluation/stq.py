"""Segmentation and tracking quality (Weber et al., STEP, 2021), and identity switches."""

from collections.abc import Sequence

import numpy as np

from frozenseg.evaluation.metric import mean
from frozenseg.evaluation.tubes import Tubes, shared_pixels


class TrackingQuality:
    """STQ, the geometric mean of association quality and segmentation quality.

    SQ is the mIoU of the classes that occur, over all pixels of all videos. AQ is the mean over
    true things g of sum(|p and g| IoU(p, g)) / |g|, where the sum runs over the predicted things p
    that share a pixel with g, whatever their classes. All sizes are counted over an entire video.
    Pixels that are void in the ground truth do not count. Those of true crowd regions count for SQ,
    but neither for AQ nor for switches, as in the authors' code.

    Identity switches: a predicted thing covers a true thing in a frame if their IoU is above 0.5. A
    switch is counted whenever the covering thing differs from the last one that covered the same
    true thing.
    """

    def __init__(self, is_thing: Sequence[bool]) -> None:
        """is_thing: whether each class is a thing."""
        self.num_classes = len(is_thing)
        self.confusion = np.zeros((self.num_classes + 1, self.num_classes + 1), np.int64)
        self.associations: list[float] = []
        self.switches, self.frames = 0, 0

    def add(self, found: Tubes, truth: Tubes) -> None:
        """Count a video."""
        (pred, pred_ids), (true, true_ids) = found.compact(), truth.compact()
        shared = shared_pixels(true, pred, (len(true_ids), len(pred_ids)))[1:]
        void = self.num_classes
        true_classes = np.array([truth.classes[number] for number in true_ids], np.int64)
        pred_classes = np.array([void, *(found.classes[number] for number in pred_ids)], np.int64)
        np.add.at(self.confusion, (true_classes[:, None], pred_classes[None]), shared)
        crowds = np.array([number in truth.crowds for number in true_ids], bool)
        shared[crowds] = 0
        true[np.concatenate([[False], crowds])[true]] = 0  # void for identities
        rows = [row for row, number in enumerate(true_ids) if number in truth.things]
        columns = [n for n, number in enumerate(pred_ids, 1) if number in found.things]
        self.associations += _associations(shared, rows, columns)
        self.switches += _switches(true, pred, [row + 1 for row in rows], columns)
        self.frames += len(true)

    def scores(self) -> dict[str, float]:
        """Return {"STQ", "AQ", "SQ"} as fractions, and the counts "switches" and "frames"."""
        rows = self.confusion[:-1]
        both = np.diag(rows)
        union = rows.sum(1) + self.confusion[:, :-1].sum(0) - both
        sq = mean(both[union > 0] / union[union > 0])
        aq = mean(np.array(self.associations))
        stq = float(np.sqrt(aq * sq))
        counts = {"switches": self.switches, "frames": self.frames}
        return {"STQ": stq, "AQ": aq, "SQ": sq, **counts}


def _associations(shared: np.ndarray, rows: list[int], columns: list[int]) -> list[float]:
    """Return the association quality of each true thing.

    shared: (G, P + 1) the numbers of pixels that G true and P predicted segments share; column 0 is
    void. rows, columns: the things among the true and the predicted segments.
    """
    common = shared[np.ix_(rows, columns)].astype(float)  # (things, predicted things)
    true_sizes = shared[rows].sum(1)
    sizes = shared[:, columns].sum(0)
    iou = common / np.maximum(true_sizes[:, None] + sizes - common, 1)
    visible = true_sizes > 0
    return ((common * iou).sum(1)[visible] / true_sizes[visible]).tolist()


def _switches(true: np.ndarray, pred: np.ndarray, rows: list[int], columns: list[int]) -> int:
    """Count the identity switches of the true things `rows`, covered by the predicted `columns`."""
    count, last = 0, dict[int, int]()
    sizes = int(true.max(initial=0)), int(pred.max(initial=0))
    columns = [column for column in columns if column <= sizes[1]]
    for frame, found in zip(true, pred, strict=True):
        shared = shared_pixels(frame, found, sizes)
        for row in rows:
            if row > sizes[0] or not columns:
                continue
            union = shared[row].sum() + shared[1:, columns].sum(0) - shared[row, columns]
            iou = shared[row, columns] / np.maximum(union, 1)
            if iou.max() > 0.5:
                best = columns[int(iou.argmax())]
                count += last.get(row, best) != best
                last[row] = best
    return count
