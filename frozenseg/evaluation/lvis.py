"""Average precision on LVIS, whose images are annotated for only some of the categories."""

import os
from collections.abc import Mapping, Set
from typing import Any

from frozenseg.data.coco_json import ImageId
from frozenseg.data.detection_truth import load_lvis_truth
from frozenseg.data.rle import hotcoco, rle_area
from frozenseg.evaluation.instance import COCO_KEYS, DetectionMetric, summarize
from frozenseg.evaluation.metric import Scores


class LvisAP(DetectionMetric):
    """AP as the lvis package computes it, with APr, APc, APf for rare, common, frequent categories.

    Scores are fractions, and NaN where there was nothing to find. In each image only the
    `max_detections` detections with the highest scores count, over all categories together. Of
    these, detections with an empty mask or box are left out.
    Detections of a category count only in images where it is annotated or known to be absent
    (`neg_category_ids`). Where its annotation is not exhaustive (`not_exhaustive_category_ids`),
    unmatched detections are not false positives. LVIS has no crowd regions: an object that is
    marked as crowd counts like any other.

    ground_truth: an LVIS file or its content. kind: "segm" (masks) or "bbox" (boxes). images: the
    ids of the images that count; None: all count.
    """

    keys = (*COCO_KEYS, "APr", "APc", "APf")

    def __init__(
        self,
        *,
        ground_truth: str | os.PathLike[str] | Mapping[str, Any],
        kind: str = "segm",
        max_detections: int = 300,
        images: Set[ImageId] | None = None,
    ) -> None:
        truth = load_lvis_truth(ground_truth, boxes=kind == "bbox", images=images)
        ids = truth.categories.dataset_ids
        super().__init__(sizes=truth.sizes, category_ids=ids, kind=kind)
        self.categories = truth.categories
        self.max_detections = max_detections
        self._numbers = truth.numbers
        self._coco = hotcoco().COCO(truth.dataset)

    def compute(self) -> Scores:
        """Return the scores of `keys`, and {category id: AP} as "per_class", from hotcoco's
        LVISeval."""
        detections = [
            {**result, "image_id": self._numbers[image_id]}
            for image_id in sorted(self._detections)
            for result in self._best(image_id)
            if not _is_empty(result)
        ]
        results = hotcoco().LVISResults(self._coco, detections, max_dets=self.max_detections)
        return summarize(hotcoco().LVISeval(self._coco, results, self.kind), self.keys)

    def _best(self, image_id: ImageId) -> list[dict[str, Any]]:
        """Return the detections of an image that count, empty ones included, best first."""
        ranked = sorted(self._detections[image_id], key=lambda result: -result["score"])
        return ranked[: self.max_detections]


def _is_empty(result: dict[str, Any]) -> bool:
    """Tell whether the package lvis leaves a detection out, because its area is not above 0."""
    if "bbox" in result:
        return result["bbox"][2] * result["bbox"][3] <= 0
    return rle_area(result["segmentation"]) <= 0
