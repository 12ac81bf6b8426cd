"""Evaluators: each reads the annotation of a record from disk and passes it to its metric.

Their summaries are in per cent, as in papers.
"""

import math
from pathlib import Path
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
from frozenseg.evaluation.video import VideoQuality
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
    """The interface of an evaluator that `frozenseg.evaluation.runner.evaluate` needs.

    metric: the metric, whose state is gathered from all processes and merged.
    names: the keys of `summary`, known before the first image, the most important first.
    """

    @property
    def metric(self) -> Metric:
        """The metric that `update` fills; its class depends on the evaluator."""

    names: tuple[str, ...]

    def update(self, record: Record, result: Prediction) -> None:
        """Compare the results for one image with the annotation of its record."""

    def summary(self, scores: Scores) -> Summary:
        """Return the scores to report, in per cent; NaN where there was nothing to score."""


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
        """Compare the panoptic result with the segments of the record's PNG."""
        assert result.panoptic is not None, "the post-processor makes it"
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
        """Return PQ, SQ and RQ of each group, e.g. "PQ-things"."""
        return {
            f"{key}{suffix}": 100 * scores[group][key.lower()]
            for group, suffix in PANOPTIC_GROUPS.items()
            for key in ("PQ", "SQ", "RQ")
        }


class VideoEvaluator:
    """VPQ, STQ and identity switches of videos, with tracks and without ("untracked").

    Frames are of the same video if they lie in the same folder and their names differ only in the
    number at the end, by which they are ordered. The ids of the annotation are identities.
    """

    KEYS = ("VPQ", "VPQ-things", "VPQ-stuff", "STQ", "AQ", "SQ")
    names: tuple[str, ...] = (
        *(*KEYS, "identity switches"),
        *(f"untracked {key}" for key in (*KEYS, "identity switches")),
    )

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = VideoQuality(is_thing=categories.is_thing)

    def update(self, record: Record, result: Prediction) -> None:
        """Keep the panoptic result together with the segments of the record's PNG."""
        assert result.panoptic is not None, "the post-processor makes it"
        truth, segments = load_panoptic(record)
        classes = dict(zip(segments.ids.tolist(), segments.class_ids.tolist(), strict=True))
        path = Path(record.image_path)
        video = str(path.parent / path.stem.rstrip("0123456789"))
        crowds = segments.ids[segments.is_crowd].tolist()
        self.metric.update(video, path.stem, result.panoptic, truth, classes, crowds)

    def summary(self, scores: Scores) -> Summary:
        """Return the scores in per cent, and the numbers of identity switches."""
        found: Summary = {}
        for kind, prefix in (("with tracks", ""), ("without", "untracked ")):
            found |= {f"{prefix}{key}": 100 * scores[kind][key] for key in self.KEYS}
            found[f"{prefix}identity switches"] = scores[kind]["switches"]
        return found


class SemanticEvaluator:
    """mIoU, fwIoU, mACC, pACC, and the mIoU of seen and unseen classes."""

    names: tuple[str, ...] = ("mIoU", "mIoU-seen", "mIoU-unseen", "fwIoU", "mACC", "pACC")

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = SemanticIoU(
            names=categories.names, seen=seen, ignore=VOID_CLASS, background=BACKGROUND_CLASS
        )

    def update(self, record: Record, result: Prediction) -> None:
        """Compare the semantic result with the record's label map."""
        assert result.semantic is not None, "the post-processor makes it"
        self.metric.update(result.semantic, load_semantic(record))

    def summary(self, scores: Scores) -> Summary:
        """Return only the means, without the scores of single classes."""
        return {key: scores[key] for key in self.names}


class OracleEvaluator:
    """mIoU and FB-IoU if each image is queried only with the classes in it ("oracle presence").

    This is the published protocol of Fusioner. Its scores cannot be compared with those of
    `SemanticEvaluator`, where every image is queried with the entire vocabulary, so their names
    begin with "oracle".
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
        """Compare the masks of the classes in the image with the record's label map."""
        assert result.present_masks is not None, "the classes that are present were queried"
        truth = load_semantic(record)
        classes = scored_classes(record, truth)
        self.metric.update(classes, result.present_masks, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return only the means, with "oracle" before their names."""
        return {name: scores[name.removeprefix("oracle ")] for name in self.names}


class BestClassEvaluator:
    """mIoU of a map with the most probable class of each pixel; a pixel has no class if no class is
    probable enough.

    A pixel that is labelled as none of the classes counts against the class that is predicted
    there. A class that is predicted but never occurs in the ground truth has an IoU of 0.
    """

    KEYS = ("mIoU", "mIoU-seen", "mIoU-unseen")
    prefix: str

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = ClassMaskIoU(names=categories.names, seen=seen)
        self.names = tuple(f"{self.prefix} {key}" for key in self.KEYS)

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return class ids (H, W), negative for no class; None if no class was queried."""
        raise NotImplementedError

    def update(self, record: Record, result: Prediction) -> None:
        """Compare `class_map`, if it is not None, with the record's label map."""
        predicted, truth = self.class_map(result), load_semantic(record)
        if predicted is None:
            return
        classes = sorted({*present_classes(truth), *present_classes(predicted)})
        masks = predicted == np.array(classes)[:, None, None]
        self.metric.update(classes, masks, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return only the means, with `prefix` before their names."""
        return {f"{self.prefix} {key}": scores[key] for key in self.KEYS}


class MosaicEvaluator(BestClassEvaluator):
    """Mosaic-4, a protocol of this project: only the classes of the mosaic are queried, and a pixel
    gets the most probable of them if its probability is above one half."""

    prefix = "mosaic"

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return the best of the classes in the image at each pixel."""
        return result.present_best


class WholeEvaluator(BestClassEvaluator):
    """The few-shot benchmarks without an oracle: every image is queried with all classes, and a
    pixel gets the most probable of them if its probability is above one half."""

    prefix = "whole"

    def class_map(self, result: Prediction) -> np.ndarray | None:
        """Return the semantic result."""
        assert result.semantic is not None, "the post-processor makes it"
        return result.semantic


class DetectionEvaluator:
    """AP of masks or boxes by the rules of a metric, and its mean over seen and unseen classes.

    prefix: put before the names of the scores if another metric has the same names.
    """

    def __init__(
        self,
        categories: Categories,
        seen: list[bool],
        metric: DetectionMetric,
        *,
        prefix: str = "",
    ) -> None:
        self.ids = categories.dataset_ids
        self.seen = dict(zip(self.ids, seen, strict=True))
        self.prefix = prefix + ("box " if metric.kind == "bbox" else "")
        self.metric = metric
        self.keys = metric.keys
        keys = (*self.keys, "AP-seen", "AP-unseen")
        self.names = tuple(f"{self.prefix}{key}" for key in keys)

    def update(self, record: Record, result: Prediction) -> None:
        """Keep the instances, with the category ids of the annotation."""
        instances = result.instances
        assert instances is not None, "the post-processor makes it"
        self.metric.update(
            record.image_id,
            instances.masks,
            instances.boxes,
            instances.scores,
            [self.ids[class_id] for class_id in instances.class_ids],
        )

    def summary(self, scores: Scores) -> Summary:
        """Return the scores of `metric.keys`, and the mean AP of seen and of unseen classes."""
        groups: dict[bool, list[float]] = {True: [], False: []}
        for category_id, value in scores["per_class"].items():
            if not math.isnan(value):  # the ground truth has objects of this category
                groups[self.seen[int(category_id)]].append(value)
        means = {
            f"AP{suffix}": sum(groups[seen]) / len(groups[seen]) if groups[seen] else math.nan
            for seen, suffix in ((True, "-seen"), (False, "-unseen"))
        }
        numbers = {key: scores[key] for key in self.keys} | means
        return {f"{self.prefix}{key}": 100 * value for key, value in numbers.items()}


class RecallEvaluator:
    """Recall of class-agnostic masks, for seen and unseen classes."""

    def __init__(self, categories: Categories, seen: list[bool]) -> None:
        self.metric = ProposalRecall(names=categories.names, seen=seen, ignore=VOID_CLASS)
        self.names = self.metric.keys

    def update(self, record: Record, result: Prediction) -> None:
        """Compare the proposals with the regions of the record's label map."""
        assert result.proposals is not None, "the post-processor makes it"
        truth = load_semantic(record)
        truth[truth == BACKGROUND_CLASS] = VOID_CLASS
        self.metric.update(result.proposals, truth)

    def summary(self, scores: Scores) -> Summary:
        """Return all scores, which are in per cent already."""
        return dict(scores)
