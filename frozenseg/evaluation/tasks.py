"""Evaluators: each reads the truth of a record from disk and feeds its metric with a prediction.

Their summaries are in per cent, as papers print them.
"""

import math
from typing import Protocol

import numpy as np

from frozenseg.data.annotations import (
    BACKGROUND_CLASS,
    VOID_CLASS,
    load_panoptic,
    load_semantic,
    present_classes,
    scored_classes,
)
from frozenseg.data.records import Categories, Record
from frozenseg.evaluation.few_shot import ClassMaskIoU
from frozenseg.evaluation.instance import DetectionMetric
from frozenseg.evaluation.metric import Metric, Scores
from frozenseg.evaluation.panoptic import PanopticQuality, listed_segments
from frozenseg.evaluation.recall import ProposalRecall
from frozenseg.evaluation.semantic import SemanticIoU
from frozenseg.structures import Prediction

Summary = dict[str, float]

PANOPTIC_GROUPS = {
    "All": "",
    "Things": "-things",
    "Stuff": "-stuff",
    "Seen": "-seen",
    "Unseen": "-unseen",
}


class Task(Protocol):
    """What `frozenseg.evaluation.runner.evaluate` needs of an evaluator.

    metric: the counts that are gathered and merged over processes. names: the keys of `summary`,
    known before the first image, the most important first.
    """

    @property
    def metric(self) -> Metric:
        """The metric that `update` feeds; each evaluator has one of its own class."""

    names: tuple[str, ...]

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""

    def summary(self, scores: Scores) -> Summary:
        """The headline numbers of `metric.compute()`; NaN where there was nothing to score."""


class PanopticEvaluator:
    """PQ, SQ and RQ of all classes, things and stuff, and of seen and unseen classes."""

    names: tuple[str, ...] = tuple(
        f"{key}{suffix}" for suffix in PANOPTIC_GROUPS.values() for key in ("PQ", "SQ", "RQ")
    )

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.categories, self.ids = categories, categories.dataset_ids
        pairs = zip(self.ids, categories.is_thing, strict=True)
        self.metric = PanopticQuality(
            categories=[{"id": number, "isthing": int(thing)} for number, thing in pairs],
            seen=seen,
        )

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        assert result.panoptic is not None, "the post-processor was asked for it"
        truth, segments = load_panoptic(record)
        self.metric.update(
            record.image_id,
            result.panoptic.ids,
            [
                {"id": segment.id, "category_id": self.ids[segment.class_id]}
                for segment in result.panoptic.segments
            ],
            truth,
            listed_segments(segments, self.categories),
            sources=(f"prediction for {record.image_path}", str(record.panoptic_path)),
        )

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        return {
            f"{key}{suffix}": 100 * scores[group][key.lower()]
            for group, suffix in PANOPTIC_GROUPS.items()
            for key in ("PQ", "SQ", "RQ")
        }


class SemanticEvaluator:
    """mIoU, fwIoU, mACC, pACC, and the mIoU of seen and unseen classes."""

    names: tuple[str, ...] = ("mIoU", "mIoU-seen", "mIoU-unseen", "fwIoU", "mACC", "pACC")

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = SemanticIoU(names=categories.names, seen=seen, ignore=VOID_CLASS)

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        assert result.semantic is not None, "the post-processor was asked for it"
        self.metric.update(result.semantic, load_semantic(record))

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        return {key: scores[key] for key in self.names}


class OracleEvaluator:
    """mIoU and FB-IoU where an image is asked only for classes it has ("oracle presence").

    The published protocol of Fusioner. It does not compare with `SemanticEvaluator`, where every
    image is asked for the whole vocabulary; its names begin with "oracle".
    """

    names: tuple[str, ...] = (
        "oracle mIoU",
        "oracle mIoU-seen",
        "oracle mIoU-unseen",
        "oracle FB-IoU",
    )

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = ClassMaskIoU(names=categories.names, seen=seen)

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        assert result.present_masks is not None, "the classes that are present were asked for"
        truth = load_semantic(record)
        classes = scored_classes(record, truth)
        self.metric.update(classes, result.present_masks, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        return {name: scores[name.removeprefix("oracle ")] for name in self.names}


class BestClassEvaluator:
    """mIoU of a map in which the classes that were asked for compete, and may all be too unlikely.

    Pixels of no class count against the class that is found there. A class that is found, but is
    nowhere in the truth, has 0.
    """

    KEYS = ("mIoU", "mIoU-seen", "mIoU-unseen")
    prefix: str

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = ClassMaskIoU(names=categories.names, seen=seen)
        self.names = tuple(f"{self.prefix} {key}" for key in self.KEYS)

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return class ids (H, W), negative for no class; None if no class was asked for."""
        raise NotImplementedError

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        predicted, truth = self.class_map(result), load_semantic(record)
        if predicted is None:
            return
        classes = sorted({*present_classes(truth), *present_classes(predicted)})
        masks = predicted == np.array(classes)[:, None, None]
        self.metric.update(classes, masks, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        return {f"{self.prefix} {key}": scores[key] for key in self.KEYS}


class MosaicEvaluator(BestClassEvaluator):
    """Mosaic-4, our own protocol: asked for the classes of the mosaic, a pixel takes the best of
    them whose probability is above one half."""

    prefix = "mosaic"

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return the class ids (H, W) of the prediction, negative for no class."""
        return result.present_best


class WholeEvaluator(BestClassEvaluator):
    """The few-shot benchmarks without an oracle: every image is asked for all classes of the set,
    and a pixel takes the best one whose probability is above one half."""

    prefix = "whole"

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return the class ids (H, W) of the prediction, negative for no class."""
        assert result.semantic is not None, "the post-processor was asked for it"
        return result.semantic


class DetectionEvaluator:
    """AP of masks or boxes, by whatever rules the metric has."""

    def __init__(self, categories: Categories, seen: list[bool], metric: DetectionMetric) -> None:
        self.ids = categories.dataset_ids
        self.seen = dict(zip(self.ids, seen, strict=True))
        self.prefix = "box " if metric.kind == "bbox" else ""
        self.metric = metric
        self.keys = metric.keys
        keys = (*self.keys, "AP-seen", "AP-unseen")
        self.names = tuple(f"{self.prefix}{key}" for key in keys)

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        instances = result.instances
        assert instances is not None, "the post-processor was asked for it"
        self.metric.update(
            record.image_id,
            instances.masks,
            instances.boxes,
            instances.scores,
            [self.ids[class_id] for class_id in instances.class_ids],
        )

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        groups: dict[bool, list[float]] = {True: [], False: []}
        for category_id, value in scores["per_class"].items():
            if not math.isnan(value):  # there was something to find
                groups[self.seen[int(category_id)]].append(value)
        means = {
            f"AP{suffix}": sum(groups[seen]) / len(groups[seen]) if groups[seen] else math.nan
            for seen, suffix in ((True, "-seen"), (False, "-unseen"))
        }
        numbers = {key: scores[key] for key in self.keys} | means
        return {f"{self.prefix}{key}": 100 * value for key, value in numbers.items()}


class RecallEvaluator:
    """Recall of class-free masks, for seen and unseen classes."""

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = ProposalRecall(names=categories.names, seen=seen, ignore=VOID_CLASS)
        self.names = self.metric.keys

    def update(self, record: Record, result: Prediction) -> None:
        """Score one image."""
        assert result.proposals is not None, "the post-processor was asked for it"
        truth = load_semantic(record)
        truth[truth == BACKGROUND_CLASS] = VOID_CLASS
        self.metric.update(result.proposals, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return the headline numbers of `metric.compute()`, in per cent."""
        return dict(scores)
