"""Between results and metrics: each task takes the truth of a record from disk and scores it.

Summaries are in per cent, as papers print them.
"""

import os
from typing import Protocol

from frozenseg.data.annotations import VOID_CLASS, load_panoptic, load_semantic
from frozenseg.data.records import Categories, Record
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.metric import Metric, Scores
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.recall import ProposalRecall
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.structures import SegmentationResult

Summary = dict[str, float]


class Task(Protocol):
    """metric: what is gathered and merged over processes."""

    metric: Metric

    def update(self, record: Record, result: SegmentationResult) -> None:
        """Score one image."""

    def summary(self, scores: Scores) -> Summary:
        """The headline numbers of `metric.compute()`, the most important first."""


class PanopticTask:
    """PQ, SQ and RQ of all classes, things and stuff."""

    def __init__(self, categories: Categories) -> None:
        self.ids = categories.dataset_ids
        pairs = zip(self.ids, categories.is_thing, strict=True)
        self.metric: Metric = PanopticQuality(
            categories=[{"id": number, "isthing": int(thing)} for number, thing in pairs]
        )

    def update(self, record: Record, result: SegmentationResult) -> None:
        assert result.panoptic is not None, "the post-processor was asked for it"
        truth, segments = load_panoptic(record)
        rows = zip(segments.ids, segments.class_ids, segments.is_crowd, strict=True)
        self.metric.update(  # type: ignore[attr-defined]
            record.image_id,
            result.panoptic.ids,
            [
                {"id": segment.id, "category_id": self.ids[segment.class_id]}
                for segment in result.panoptic.segments
            ],
            truth,
            [
                {"id": int(number), "category_id": self.ids[class_id], "iscrowd": int(crowd)}
                for number, class_id, crowd in rows
            ],
            sources=(f"prediction for {record.image_path}", str(record.panoptic_path)),
        )

    def summary(self, scores: Scores) -> Summary:
        return {
            f"{key.upper()}{suffix}": 100 * scores[group][key]
            for group, suffix in (("All", ""), ("Things", "-things"), ("Stuff", "-stuff"))
            for key in ("pq", "sq", "rq")
        }


class SemanticTask:
    """mIoU, fwIoU, mACC, pACC, and the mIoU of seen and unseen classes."""

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric: Metric = SemanticIoU(names=categories.names, seen=seen, ignore=VOID_CLASS)

    def update(self, record: Record, result: SegmentationResult) -> None:
        assert result.semantic is not None, "the post-processor was asked for it"
        self.metric.update(result.semantic, load_semantic(record))  # type: ignore[attr-defined]

    def summary(self, scores: Scores) -> Summary:
        keys = ("mIoU", "mIoU-seen", "mIoU-unseen", "fwIoU", "mACC", "pACC")
        return {key: scores[key] for key in keys}


class DetectionTask:
    """AP of masks or boxes, by the rules of COCO or LVIS."""

    def __init__(
        self, categories: Categories, truth: str | os.PathLike[str], *, kind: str, lvis: bool
    ) -> None:
        self.ids = categories.dataset_ids
        self.prefix = "box " if kind == "bbox" else ""
        self.metric: Metric = (LvisAP if lvis else InstanceAP)(ground_truth=truth, kind=kind)

    def update(self, record: Record, result: SegmentationResult) -> None:
        found = result.instances
        assert found is not None, "the post-processor was asked for it"
        self.metric.update(  # type: ignore[attr-defined]
            record.image_id,
            found.masks,
            found.boxes,
            found.scores,
            [self.ids[class_id] for class_id in found.class_ids],
        )

    def summary(self, scores: Scores) -> Summary:
        return {f"{self.prefix}{key}": 100 * value for key, value in scores.items()}


class RecallTask:
    """Recall of class-free masks, for seen and unseen classes."""

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric: Metric = ProposalRecall(names=categories.names, seen=seen, ignore=VOID_CLASS)

    def update(self, record: Record, result: SegmentationResult) -> None:
        assert result.proposals is not None, "the post-processor was asked for it"
        self.metric.update(result.proposals, load_semantic(record))  # type: ignore[attr-defined]

    def summary(self, scores: Scores) -> Summary:
        return dict(scores)
