"""Average precision of detections by COCO's rules; hotcoco computes the same as pycocotools."""

import contextlib
import io
import math
import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from frozenseg.data.coco_json import ImageId
from frozenseg.data.detection_truth import load_truth
from frozenseg.data.rle import Masks, as_rles, hotcoco
from frozenseg.errors import UserError
from frozenseg.evaluation.metric import Metric, Scores, State

COCO_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class DetectionMetric(Metric):
    """Keeps the detections of each image, with masks as run-length codes; a subclass scores them.

    keys: the names of the scores, which a subclass defines.
    sizes: {image id: (height, width)} of all images that may be scored.
    category_ids: the ids of all categories of the ground truth.
    kind: "segm" for masks, "bbox" for boxes.
    """

    keys: tuple[str, ...]

    def __init__(
        self, *, sizes: Mapping[Any, tuple[int, int]], category_ids: Sequence[int], kind: str
    ) -> None:
        if kind not in ("segm", "bbox"):
            raise UserError(f"kind {kind!r} of detections; known: segm, bbox")
        self.sizes = dict(sizes)
        self.category_ids = set(category_ids)
        self.kind = kind
        self.reset()

    def reset(self) -> None:
        """Remove the detections of all images."""
        self._detections: dict[Any, list[dict[str, Any]]] = {}

    def update(
        self,
        image_id: int | str,
        masks: Masks | None,
        boxes: np.ndarray | None,
        scores: Sequence[float] | np.ndarray,
        category_ids: Sequence[int] | np.ndarray,
    ) -> None:
        """Keep the N detections of one image; their order decides between equal scores.

        masks: (N, H, W) or N run-length codes, for kind "segm". The area of a detection is the area
            of its mask, as in detectron2.
        boxes: (N, 4) as x0, y0, x1, y1 in pixels, for kind "bbox".
        scores: N finite numbers. category_ids: N ids of the ground truth's categories.
        """
        where = f"image {image_id}"
        if image_id not in self.sizes:
            raise UserError(f"{where}: not among the images of the ground truth")
        if image_id in self._detections:
            raise UserError(f"{where} was scored twice")
        regions = self._regions(image_id, masks, boxes)
        if not len(regions) == len(scores) == len(category_ids):
            raise UserError(
                f"{where}: {len(regions)} regions, {len(scores)} scores and "
                f"{len(category_ids)} categories; there must be one of each per detection"
            )
        numbers, labels = list(map(float, scores)), list(map(int, category_ids))
        for score in numbers:
            if not math.isfinite(score):
                raise UserError(f"{where}: score {score} is not a finite number")
        for label in labels:
            if label not in self.category_ids:
                raise UserError(f"{where}: category {label} is not among the categories")
        self._detections[image_id] = [
            {"image_id": image_id, **region, "score": score, "category_id": label}
            for region, score, label in zip(regions, numbers, labels, strict=True)
        ]

    def _regions(
        self, image_id: int | str, masks: Masks | None, boxes: np.ndarray | None
    ) -> list[dict[str, Any]]:
        given = masks if self.kind == "segm" else boxes
        if given is None:
            raise UserError(
                f"image {image_id}: give masks for kind 'segm', or boxes for kind 'bbox'"
            )
        if masks is not None and self.kind == "segm":
            codes = as_rles(masks, self.sizes[image_id], f"image {image_id}")
            return [{"segmentation": code} for code in codes]
        corners = np.asarray(given, dtype=np.float64).reshape(-1, 4)
        return [
            {"bbox": box}
            for box in np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
        ]

    def state(self) -> State:
        """Return the detections of each image, masks as codes."""
        return {"detections": [[image_id, rows] for image_id, rows in self._detections.items()]}

    def add_state(self, state: State) -> None:
        """Add the detections of images that are not here already."""
        for image_id, rows in state["detections"]:
            if image_id in self._detections:
                raise UserError(f"image {image_id} was scored twice")
            self._detections[image_id] = rows

    def _results(self) -> list[dict[str, Any]]:
        """Return all detections ordered by image id, however the processes shared the images."""
        return [
            result for image_id in sorted(self._detections) for result in self._detections[image_id]
        ]


class InstanceAP(DetectionMetric):
    """COCO's AP, AP50, AP75, APs, APm and APl, as fractions; NaN where there was nothing to find.

    "per_class" holds {category id: AP}. All images of the ground truth count, also those without an
    `update`.

    ground_truth: a COCO instance file or its content; the ids of its images may be text. kind:
    "segm" (masks) or "bbox" (boxes). images: the ids of the images that count; None: all count.
    """

    keys = COCO_KEYS

    def __init__(
        self,
        *,
        ground_truth: str | os.PathLike[str] | Mapping[str, Any],
        kind: str = "segm",
        images: Set[ImageId] | None = None,
    ) -> None:
        truth = load_truth(ground_truth, boxes=kind == "bbox", images=images)
        ids = truth.categories.dataset_ids
        super().__init__(sizes=truth.sizes, category_ids=ids, kind=kind)
        self.categories = truth.categories
        self._numbers = truth.numbers
        self._coco = hotcoco().COCO(truth.dataset)

    def compute(self) -> Scores:
        """Return the scores of `keys`, and {category id: AP} as "per_class", from hotcoco's
        COCOeval."""
        results = [
            {**result, "image_id": self._numbers[result["image_id"]]} for result in self._results()
        ]
        detections = self._coco.load_res(results)
        return summarize(hotcoco().COCOeval(self._coco, detections, self.kind), self.keys)


def summarize(evaluator: Any, keys: Sequence[str]) -> Scores:
    """Run an evaluator of hotcoco; return the scores of `keys`, and {category id: AP} as
    "per_class".

    A score for which there are no objects is -1 in hotcoco and NaN here.
    """
    evaluator.evaluate()
    evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):  # hotcoco always prints its table
        evaluator.summarize()
    results = evaluator.get_results()
    assert evaluator.eval is not None, "accumulated above"
    # (thresholds, recalls, categories), for objects of all areas and the largest maxDets
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    known = precision >= 0
    averages = np.where(known, precision, 0).sum((0, 1)) / np.maximum(known.sum((0, 1)), 1)
    per_class = np.where(known.any((0, 1)), averages, np.nan).tolist()
    scores = {key: float(results[key]) for key in keys}
    return {key: value if value >= 0 else math.nan for key, value in scores.items()} | {
        "per_class": dict(zip(map(str, evaluator.params.cat_ids), per_class, strict=True))
    }
