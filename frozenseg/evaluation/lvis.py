"""Average precision on LVIS, whose images are annotated for some of the categories only."""

import os
from collections.abc import Mapping
from typing import Any

from frozenseg.data.json_fields import flag, wholes
from frozenseg.data.rle import hotcoco
from frozenseg.errors import UserError
from frozenseg.evaluation.ground_truth import load_truth
from frozenseg.evaluation.instance import COCO_KEYS, DetectionMetric, summarize
from frozenseg.evaluation.metric import Scores

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


class LvisAP(DetectionMetric):
    """AP of the lvis package, with APr, APc, APf for rare, common, frequent categories; fractions,
    NaN where there was nothing to find.

    Of each image the 300 detections of highest score count, over all categories together.
    Detections of a category count only where it is annotated or known to be absent
    (`neg_category_ids`); where its annotation is not exhaustive (`not_exhaustive_category_ids`),
    surplus detections are no mistakes. Crowd regions do not exist here: they are objects like
    others.

    ground_truth: an LVIS file or its content. kind: "segm" (masks) or "bbox" (boxes).
    """

    keys = (*COCO_KEYS, "APr", "APc", "APf")

    def __init__(
        self,
        *,
        ground_truth: str | os.PathLike[str] | Mapping[str, Any],
        kind: str = "segm",
        max_detections: int = 300,
    ) -> None:
        truth = load_truth(
            ground_truth,
            boxes=kind == "bbox",
            image_fields=LVIS_LISTS,
            category_fields=("frequency",),
            annotation_fields=("ignore",),
        )
        source = "ground truth" if isinstance(ground_truth, Mapping) else os.fspath(ground_truth)
        _check_lvis(truth.dataset, source)
        ids = truth.categories.dataset_ids
        super().__init__(sizes=truth.sizes, category_ids=ids, kind=kind)
        self.categories = truth.categories
        for annotation in truth.dataset["annotations"]:
            annotation["iscrowd"] = 0  # hotcoco would excuse matches with crowds, lvis does not
        self.max_detections = max_detections
        self._numbers = truth.numbers
        self._coco = hotcoco().COCO(truth.dataset)

    def compute(self) -> Scores:
        found = [
            {**result, "image_id": self._numbers[result["image_id"]]} for result in self._results()
        ]
        results = hotcoco().LVISResults(self._coco, found, max_dets=self.max_detections)
        return summarize(hotcoco().LVISeval(self._coco, results, self.kind), self.keys)


def _check_lvis(dataset: Mapping[str, Any], source: str) -> None:
    """UserError unless the fields that only LVIS has are there; its lists become whole numbers."""
    for image in dataset["images"]:
        for key in LVIS_LISTS:
            listed = image.get(key)
            if not isinstance(listed, list):
                raise UserError(
                    f"{source}: image {image['id']} has no list {key!r}; is it an LVIS file?"
                )
            where = f"{source}: image {image['id']}"
            image[key] = wholes([(where, [{key: number} for number in listed])], key)
    for category in dataset["categories"]:
        if category.get("frequency") not in ("r", "c", "f"):
            raise UserError(
                f"{source}: category {category['id']} has no 'frequency' of r, c, f; "
                "is it an LVIS file?"
            )
    for i, annotation in enumerate(dataset["annotations"]):
        if flag(annotation, "ignore", f"{source}: object {i}", False):
            raise UserError(f"{source}: annotations with 'ignore' are no part of LVIS; remove them")
