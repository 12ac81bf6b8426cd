"""Panoptic quality (Kirillov et al., Panoptic Segmentation, 2019), by the rules of panopticapi."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frozenseg.data.records import Categories, Segments
from frozenseg.errors import UserError
from frozenseg.evaluation.metric import Metric, Scores, State

MAX_ID = 2**24 - 1  # ids are written as three bytes in the PNGs of the COCO panoptic format


@dataclass
class _Regions:
    """The N segments of one id map.

    ids: (N,) the ids in the map. classes: (N,) positions in the list of categories. is_crowd: (N,)
    bool. index: (H * W,) for each pixel the position of its segment plus 1, or 0 for void.
    """

    ids: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    index: np.ndarray


class PanopticQuality(Metric):
    """PQ, SQ and RQ, as fractions, over all categories, things and stuff, and per category.

    A predicted and a true segment of one category match if their IoU, without the void pixels of
    the prediction, exceeds 0.5. True crowd segments match nothing and never count as missed. A
    predicted segment without a match is not a false positive if more than half of it lies in void
    or in the last crowd of its category. The means are taken over the categories that occur in the
    ground truth or in a prediction; other categories, and a group in which no category occurs, have
    no score (NaN).

    categories: [{"id", "isthing", ...}]; the ids may have any order and gaps. seen: whether each
        category was seen in training; with it, the groups Seen and Unseen are scored too.
    """

    def __init__(
        self, *, categories: Sequence[Mapping[str, Any]], seen: Sequence[bool] | None = None
    ) -> None:
        self.category_ids = [category["id"] for category in categories]
        if seen is not None and len(seen) != len(self.category_ids):
            raise UserError(f"{len(categories)} categories, but {len(seen)} entries in `seen`")
        self.seen = None if seen is None else np.array(seen, dtype=bool)
        self.is_thing = np.array([bool(category["isthing"]) for category in categories], dtype=bool)
        self._row = {category_id: row for row, category_id in enumerate(self.category_ids)}
        if len(self._row) != len(self.category_ids):
            raise UserError("a category id is listed twice among the categories")
        self.reset()

    def reset(self) -> None:
        """Remove all images, their matches and their misses."""
        self._images: set[int | str] = set()
        self._missed, self._false = np.zeros((2, len(self.category_ids)), dtype=np.int64)
        self._match_class: list[np.ndarray] = []
        self._match_iou: list[np.ndarray] = []

    def update(
        self,
        image_id: int | str,
        pred_ids: np.ndarray,
        pred_segments: Sequence[Mapping[str, Any]],
        gt_ids: np.ndarray,
        gt_segments: Sequence[Mapping[str, Any]],
        sources: tuple[str, str] | None = None,
    ) -> np.ndarray:
        """Count one image and return the pixels (G,) of its true segments.

        pred_ids, gt_ids: (H, W) segment ids, 0 for void.
        pred_segments, gt_segments: [{"id", "category_id"}], with "iscrowd" in the ground truth.
            Areas are counted here; panopticapi reads the "area" of the ground truth, which is the
            same in correct files.
        sources: the names of the prediction and of the ground truth in error messages.
        """
        if image_id in self._images:
            raise UserError(f"image {image_id} was scored twice")
        named = sources or (f"image {image_id}, prediction", f"image {image_id}, ground truth")
        if pred_ids.shape != gt_ids.shape:
            raise UserError(
                f"{named[0]}: size {pred_ids.shape}, but its ground truth has {gt_ids.shape} "
                "(height, width)"
            )
        pred = self._regions(pred_ids, pred_segments, named[0])
        gt = self._regions(gt_ids, gt_segments, named[1])
        width = len(pred.ids) + 1
        shared = np.bincount(
            gt.index * np.int32(width) + pred.index, minlength=(len(gt.ids) + 1) * width
        ).reshape(len(gt.ids) + 1, width)
        pred_areas, gt_areas = shared.sum(axis=0)[1:], shared.sum(axis=1)[1:]
        _check_agreement(pred_ids, pred, pred_areas, named[0])
        if (pred_areas == 0).any():
            absent = pred.ids[pred_areas == 0][0]
            raise UserError(f"{named[0]}: segment {absent} is listed, but has no pixel in the map")
        # A true segment may have no pixel; it counts as missed.
        _check_agreement(gt_ids, gt, gt_areas, named[1])
        self._count(pred, pred_areas, gt, gt_areas, shared[:, 1:])
        self._images.add(image_id)
        return gt_areas

    def _regions(
        self, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], source: str
    ) -> _Regions:
        """Check the listed segments, and find the segment of each pixel of the map."""
        flat = np.ascontiguousarray(ids).ravel()
        if not all(0 < segment["id"] <= MAX_ID for segment in segments) or (
            flat.min(initial=0) < 0 or flat.max(initial=0) > MAX_ID
        ):
            raise UserError(f"{source}: segment ids are 1 to {MAX_ID}, and 0 for void")
        segment_ids = np.array([segment["id"] for segment in segments], dtype=np.int64)
        largest = max(flat.max(initial=0), segment_ids.max(initial=0))
        if len(np.unique(segment_ids)) != len(segment_ids):
            raise UserError(f"{source}: a segment id is listed twice")
        unknown = [s["category_id"] for s in segments if s["category_id"] not in self._row]
        if unknown:
            raise UserError(f"{source}: category {unknown[0]} is not among the categories")
        # A lookup table is far cheaper than sorting the pixels, and the operating system allocates
        # only those pages of a large table that are written.
        rows = np.zeros(int(largest) + 1, dtype=np.int32)
        rows[segment_ids] = np.arange(1, len(segments) + 1)
        return _Regions(
            ids=segment_ids,
            classes=np.array([self._row[s["category_id"]] for s in segments], dtype=np.int64),
            is_crowd=np.array([bool(s.get("iscrowd", 0)) for s in segments], dtype=bool),
            index=rows.take(flat),
        )

    def _count(
        self,
        pred: _Regions,
        pred_areas: np.ndarray,
        gt: _Regions,
        gt_areas: np.ndarray,
        shared: np.ndarray,
    ) -> None:
        """Count the matches of P predicted and G true segments, the true segments that are missed,
        and the false positives.

        shared: (G + 1, P) pixels of each predicted segment in void (row 0) and in each true
        segment.
        """
        in_void, intersection = shared[0], shared[1:]
        same_class = gt.classes[:, None] == pred.classes
        union = gt_areas[:, None] + pred_areas - intersection - in_void
        candidate = same_class & ~gt.is_crowd[:, None] & (intersection > 0) & (union > 0)
        iou = np.divide(intersection, union, out=np.zeros(union.shape), where=candidate)
        match = iou > 0.5

        missed = ~gt.is_crowd & ~match.any(axis=1)
        in_crowd = np.zeros_like(in_void)
        crowd = same_class & gt.is_crowd[:, None]
        if crowd.any():  # panopticapi keeps only the last of several crowds of one category
            last = len(crowd) - 1 - crowd[::-1].argmax(axis=0)
            in_last = intersection[last, np.arange(len(pred_areas))]
            in_crowd = np.where(crowd.any(axis=0), in_last, 0)
        excused = (in_void + in_crowd) / pred_areas > 0.5
        false = ~match.any(axis=0) & ~excused

        num_classes = len(self.category_ids)
        self._missed += np.bincount(gt.classes[missed], minlength=num_classes)
        self._false += np.bincount(pred.classes[false], minlength=num_classes)
        self._match_class.append(gt.classes[np.nonzero(match)[0]])
        self._match_iou.append(iou[match])

    def compute(self) -> Scores:
        """Return {"pq", "sq", "rq", "n"} of each group, and {"pq", "sq", "rq"} of each category.

        n is the number of categories of the group that occur.
        """
        classes, iou = self._matches()
        # A fixed order of summation: the scores do not depend on how processes share the images.
        order = np.lexsort((iou, classes))
        num_classes = len(self.category_ids)
        matched = np.bincount(classes, minlength=num_classes)
        iou_sum = np.bincount(classes[order], weights=iou[order], minlength=num_classes)
        present = matched + self._missed + self._false > 0
        divisor = np.where(present, matched + 0.5 * self._missed + 0.5 * self._false, 1)
        pq, sq, rq = iou_sum / divisor, iou_sum / np.maximum(matched, 1), matched / divisor
        pq, sq, rq = (np.where(present, values, np.nan) for values in (pq, sq, rq))

        scores: Scores = {}
        groups = {"All": present, "Things": self.is_thing, "Stuff": ~self.is_thing}
        if self.seen is not None:
            groups |= {"Seen": self.seen, "Unseen": ~self.seen}
        for name, group in groups.items():
            rows = np.flatnonzero(group & present)
            means = [float(v[rows].mean()) if len(rows) else math.nan for v in (pq, sq, rq)]
            scores[name] = dict(zip(("pq", "sq", "rq"), means, strict=True)) | {"n": len(rows)}
        scores["per_class"] = {
            str(category_id): {"pq": float(pq[i]), "sq": float(sq[i]), "rq": float(rq[i])}
            for i, category_id in enumerate(self.category_ids)
        }
        return scores

    def _matches(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the class and the IoU of all matched pairs, (M,) each."""
        return (
            np.concatenate([np.zeros(0, dtype=np.int64), *self._match_class]),
            np.concatenate([np.zeros(0), *self._match_iou]),
        )

    def state(self) -> State:
        """Return the misses and false positives of each category, and the category and IoU of each
        match."""
        classes, iou = self._matches()
        return {
            "images": sorted(self._images, key=str),
            "missed": self._missed.tolist(),
            "false": self._false.tolist(),
            "match_class": classes.tolist(),
            "match_iou": iou.tolist(),
        }

    def add_state(self, state: State) -> None:
        """Add the images of another metric, none of which may be here already."""
        twice = self._images.intersection(state["images"])
        if twice:
            raise UserError(f"image {min(twice, key=str)} was scored twice")
        self._images.update(state["images"])
        self._missed += np.array(state["missed"], dtype=np.int64)
        self._false += np.array(state["false"], dtype=np.int64)
        self._match_class.append(np.array(state["match_class"], dtype=np.int64))
        self._match_iou.append(np.array(state["match_iou"], dtype=np.float64))


def listed_segments(segments: Segments, categories: Categories) -> list[dict[str, int]]:
    """Return the segments of an annotation in the form that `PanopticQuality.update` takes."""
    rows = zip(segments.ids, segments.class_ids, segments.is_crowd, strict=True)
    return [
        {
            "id": int(number),
            "category_id": categories.dataset_ids[class_id],
            "iscrowd": int(crowd),
        }
        for number, class_id, crowd in rows
    ]


def _check_agreement(id_map: np.ndarray, regions: _Regions, areas: np.ndarray, source: str) -> None:
    """Raise `UserError` if the map holds an id that is not among its segments."""
    if np.count_nonzero(id_map) != areas.sum():
        flat = id_map.ravel()
        stray = flat[(flat != 0) & (regions.index == 0)][0]
        raise UserError(f"{source}: id {stray} is in the map, but not among its segments")
