"""From class and mask predictions of one image to semantic, panoptic and instance results.

All tasks are made together in one pass over bands of output rows, so that memory grows neither with
the vocabulary nor with the image, and nothing loops over queries or classes. Rules as in MaskFormer
and FC-CLIP; the published code is matched by `tests/inference/test_postprocess.py`.

Legend: Q queries, K classes, N instances, H x W output pixels, R rows of a band.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from frozenseg.inference.mask_ensemble import (
    ClassifiedProposals,
    proposal_class_probs,
    semantic_weights,
)
from frozenseg.inference.resize import MaskResizer
from frozenseg.runtime.linear import linear
from frozenseg.structures import InstanceResult, PanopticResult, Prediction, Segment
from frozenseg.text.vocabulary import Vocabulary

# Floats of the largest tensor of a band. On a CPU it should stay in the cache, which halves the
# time (logs/speed/benchmark.md); elsewhere about 100 MB.
BAND_ELEMENTS = {"cpu": 4_000_000, "other": 24_000_000}


@dataclass(frozen=True)
class PostProcessor:
    """Which tasks to produce, and their thresholds.

    object_mask_threshold: panoptic, least class probability of a query. overlap_threshold:
    panoptic, least share of a query's own mask that it must win. detections_per_image: query-class
    pairs taken for instances before stuff is dropped. masks_at_output_size: semantic scores from
    masks at output size; False resizes scores made at input size, as published for semantic-only
    runs. sam_epsilon, sam_threshold, sam_weight: of SAM's proposals, where there are any: share in
    semantic scores, least probability of their class, and weight in panoptic and instance results
    (0: they take no part there). semantic_threshold: least score of a pixel's best class, without
    which it has -1; 0: the best class in any case. cells_inside: of masks, as `MaskResizer`.
    """

    panoptic: bool = True
    semantic: bool = True
    instances: bool = True
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.8
    detections_per_image: int = 100
    masks_at_output_size: bool = True
    semantic_scores: bool = False
    proposals: bool = False
    sam_epsilon: float = 0.2
    sam_threshold: float = 0.5
    sam_weight: float = 0.0
    semantic_threshold: float = 0.0
    cells_inside: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to produce."""
        tasks = (self.panoptic, self.semantic, self.instances, self.semantic_scores, self.proposals)
        return any(tasks)

    @torch.no_grad()
    def __call__(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        resizer: MaskResizer,
        vocabulary: Vocabulary,
        evidence: ClassifiedProposals | None = None,
    ) -> Prediction:
        """class_logits (Q, K + 1), void last; mask_logits (Q, h, w) as `resizer` expects them;
        evidence: proposals of SAM, which stand behind the queries in `proposals`."""
        probabilities = class_logits.float().softmax(-1)
        class_weights = probabilities[:, :-1]
        mask_logits = mask_logits.float()
        if evidence is not None:
            class_weights = torch.cat(
                semantic_weights(
                    class_logits.float(),
                    evidence.class_logits,
                    evidence.seen,
                    epsilon=self.sam_epsilon,
                    threshold=self.sam_threshold,
                )
            )
            joining = proposal_class_probs(
                evidence, weight=self.sam_weight, threshold=self.sam_threshold
            )
            probabilities = torch.cat((probabilities, joining))
            mask_logits = torch.cat((mask_logits, evidence.mask_logits))
        size = resizer.output_size
        panoptic = self.panoptic and _Panoptic(probabilities, size, self.object_mask_threshold)
        semantic = (self.semantic or self.semantic_scores) and _Semantic(
            class_weights, size, self.semantic_scores, self.semantic_threshold
        )
        instances = self.instances and _Instances(
            probabilities, vocabulary, size, self.detections_per_image
        )
        proposals = self.proposals and _Proposals(mask_logits, size)
        tasks: list[_Task] = [task for task in (panoptic, instances, proposals) if task]
        if semantic and self.masks_at_output_size:
            tasks.append(semantic)
        tasks, masks = _needed(tasks, mask_logits)
        # The same bands whatever is needed: the sums of instances are rounded band by band.
        limit = BAND_ELEMENTS["cpu" if mask_logits.device.type == "cpu" else "other"]
        for start, stop in _bands(size, sum(probabilities.shape), limit):
            rows = slice(start, stop)
            if tasks:
                logits = resizer.rows(masks, start, stop)
                soft = logits.sigmoid()
                for task in tasks:
                    task.add(rows, logits, soft)
            if semantic and not self.masks_at_output_size:
                logits, matrix = resizer.input_rows(mask_logits, start, stop)
                scores = semantic.scores(logits.sigmoid_())
                semantic.add_scores(rows, resizer.finish(matrix, scores))
        return Prediction(
            size=size,
            panoptic=panoptic.result(vocabulary, self.overlap_threshold) if panoptic else None,
            semantic=semantic.ids.cpu().numpy() if semantic else None,
            instances=instances.result(vocabulary) if instances else None,
            semantic_scores=semantic.volume if semantic else None,
            proposals=proposals.masks.numpy() if proposals else None,
        )


class _Task(Protocol):
    queries: Tensor  # whose masks it needs

    def add(self, rows: slice, logits: Tensor, soft: Tensor) -> None:
        """Take in a band: mask logits (Q, R, W) of these output rows, and their sigmoid."""


def _needed(tasks: list[_Task], mask_logits: Tensor) -> tuple[list[_Task], Tensor]:
    """The tasks that need any mask, and the masks that they need together; their `queries` are
    made to point into those."""
    tasks = [task for task in tasks if len(task.queries)]
    needed = torch.zeros(len(mask_logits), dtype=torch.bool, device=mask_logits.device)
    for task in tasks:
        needed[task.queries] = True
    if needed.all():
        return tasks, mask_logits
    place = needed.cumsum(0) - 1
    for task in tasks:
        task.queries = place[task.queries]
    return tasks, mask_logits[needed]


def _bands(size: tuple[int, int], depth: int, elements: int) -> Iterator[tuple[int, int]]:
    """Bands of rows whose (depth, rows, W) tensor keeps within so many elements."""
    step = max(1, elements // (depth * size[1]))
    for start in range(0, size[0], step):
        yield start, min(start + step, size[0])


class _Semantic:
    """Class of the largest sum over queries of class probability times mask probability."""

    def __init__(
        self, weights: Tensor, size: tuple[int, int], keep_scores: bool, threshold: float
    ) -> None:
        self.threshold = threshold
        self.weights = weights.T.contiguous()  # (K, Q)
        self.queries = torch.arange(len(weights), device=weights.device)
        self.ids = torch.zeros(size, dtype=torch.int32, device=weights.device)
        self.volume = (
            np.zeros((len(self.weights), *size), dtype=np.float32) if keep_scores else None
        )

    def scores(self, soft: Tensor) -> Tensor:
        """(Q, R, W) mask probabilities -> (K, R, W)."""
        # The pixels as columns of the weights: the order in which oneDNN is the faster.
        return linear(self.weights, soft.flatten(1).T).unflatten(1, soft.shape[1:])

    def add(self, rows: slice, logits: Tensor, soft: Tensor) -> None:
        self.add_scores(rows, self.scores(soft))

    def add_scores(self, rows: slice, scores: Tensor) -> None:
        if self.volume is not None:
            self.volume[:, rows] = scores.cpu().numpy()
        best, ids = _largest(scores)
        if self.threshold:
            ids[best <= self.threshold] = -1
        self.ids[rows] = ids


class _Panoptic:
    """Each pixel goes to the query with the largest class times mask probability; a query that
    keeps too little of its own mask is dropped, and queries of one stuff class merge."""

    def __init__(self, probabilities: Tensor, size: tuple[int, int], threshold: float) -> None:
        scores, labels = probabilities.max(-1)
        void = probabilities.shape[-1] - 1
        self.queries = ((labels != void) & (scores > threshold)).nonzero()[:, 0]
        self.scores, self.labels = scores[self.queries], labels[self.queries]
        device = probabilities.device
        self.winner = torch.full(size, -1, dtype=torch.int32, device=device)
        # Pixels each query wins, pixels of its own mask, and pixels that are both.
        self.counts = torch.zeros((3, len(self.queries)), dtype=torch.long, device=device)

    def add(self, rows: slice, logits: Tensor, soft: Tensor) -> None:
        count = len(self.queries)
        soft = soft.index_select(0, self.queries)
        _, best = _largest(soft * self.scores[:, None, None])
        own = soft.gather(0, best[None])[0] >= 0.5
        self.winner[rows] = torch.where(own, best, -1).int()
        self.counts[0] += torch.bincount(best.flatten(), minlength=count)
        self.counts[1] += _pixels(soft.ge_(0.5))
        self.counts[2] += torch.bincount(best[own], minlength=count)

    def result(self, vocabulary: Vocabulary, overlap_threshold: float) -> PanopticResult:
        won, whole, both = self.counts.cpu().numpy()
        labels, scores = self.labels.cpu().numpy(), self.scores.cpu().numpy()
        kept = (both > 0) & (won / np.maximum(whole, 1) >= overlap_threshold)
        order = np.flatnonzero(kept)
        is_thing = np.asarray(vocabulary.is_thing)[labels]
        # Things stay apart: their key is their own; queries of one stuff class share its key.
        keys = np.where(is_thing, len(vocabulary) + np.arange(len(labels)), labels)[order]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))  # ids count up in the order of first appearance
        ids = np.zeros(len(labels) + 1, dtype=np.int32)  # last entry: -1, nobody's pixels
        ids[order] = rank[group] + 1
        canvas = ids[self.winner.cpu().numpy()]
        best = np.zeros(len(first) + 1)
        np.maximum.at(best, ids[order], scores[order])
        members = order[np.sort(first)]
        return PanopticResult(canvas, _segments(canvas, labels[members], best[1:], vocabulary))


def _segments(
    ids: np.ndarray, labels: np.ndarray, scores: np.ndarray, vocabulary: Vocabulary
) -> list[Segment]:
    """The segments 1..n of a canvas, with areas and boxes; every id has at least one pixel."""
    areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:]
    return [
        Segment(
            id=number,
            class_id=int(label),
            name=vocabulary.names[label][0],
            is_thing=vocabulary.is_thing[label],
            score=float(score),
            area=int(area),
            box=(box[1].start, box[0].start, box[1].stop, box[0].stop),
        )
        for number, (label, score, area, box) in enumerate(
            zip(labels, scores, areas, ndimage.find_objects(ids), strict=True), 1
        )
    ]


def class_regions(semantic: np.ndarray, names: Sequence[str]) -> PanopticResult:
    """A semantic map (H, W) as one stuff segment for each class that it holds: id = class id + 1,
    score NaN. What is not an index into `names` belongs to no segment."""
    ids = np.where((semantic >= 0) & (semantic < len(names)), semantic + 1, 0).astype(np.int32)
    areas = np.bincount(ids.ravel(), minlength=len(names) + 1)
    segments = []
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        if box is not None:
            rows, columns = box
            segments.append(
                Segment(
                    id=number,
                    class_id=number - 1,
                    name=names[number - 1],
                    is_thing=False,
                    score=math.nan,
                    area=int(areas[number]),
                    box=(columns.start, rows.start, columns.stop, rows.stop),
                )
            )
    return PanopticResult(ids, segments)


class _Instances:
    """The best query-class pairs; the score is class probability times mean mask probability."""

    def __init__(
        self, probabilities: Tensor, vocabulary: Vocabulary, size: tuple[int, int], count: int
    ) -> None:
        classes = probabilities.shape[-1] - 1
        flat = probabilities[:, :-1].flatten()
        scores, pairs = flat.topk(min(count, len(flat)))
        thing = torch.tensor(vocabulary.is_thing, device=pairs.device)[pairs % classes]
        self.scores, pairs = scores[thing], pairs[thing]
        self.class_ids = pairs % classes
        # Several classes of one query share its mask: it is made once.
        self.queries, self.row = torch.unique(pairs // classes, return_inverse=True)
        self.masks = torch.zeros((len(self.queries), *size), dtype=torch.bool)
        self.sums = torch.zeros((2, len(self.queries)), device=pairs.device)

    def add(self, rows: slice, logits: Tensor, soft: Tensor) -> None:
        solid = logits.index_select(0, self.queries).gt_(0)
        self.masks[:, rows].copy_(solid)  # made bool before it leaves the device
        self.sums[0] += soft.index_select(0, self.queries).mul_(solid).flatten(1).sum(1)
        self.sums[1] += _pixels(solid)

    def result(self, vocabulary: Vocabulary) -> InstanceResult:
        quality = (self.sums[0] / (self.sums[1] + 1e-6))[self.row]
        scores = (self.scores * quality).cpu()
        order = scores.argsort(descending=True, stable=True)
        row, class_ids = self.row.cpu()[order], self.class_ids.cpu()[order]
        return InstanceResult(
            boxes=mask_boxes(self.masks)[row].numpy(),
            masks=self.masks[row].numpy(),
            scores=scores[order].numpy(),
            class_ids=class_ids.numpy(),
            names=[vocabulary.names[index][0] for index in class_ids.tolist()],
        )


# On a CPU PyTorch compares floats into floats several times as fast as into bool, and finds maxima
# ten times as fast as their places.


def _pixels(solid: Tensor) -> Tensor:
    """(N, R, W) of 0.0 and 1.0 -> how many of each are 1, (N): exact, as a band has less than 2^24
    pixels."""
    return solid.flatten(1).sum(1).long()


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`scores.max(0)` of (N, R, W), the first of equals; `scores` are overwritten."""
    if scores.device.type != "cpu":
        return scores.max(0)
    best = scores.amax(0)
    # Equal to the largest or not, times N for the first, N - 1 for the second, ..., 1 for the last.
    count = len(scores)
    weights = torch.arange(count, 0, -1, dtype=scores.dtype)[:, None, None]
    place = count - scores.eq_(best).mul_(weights).amax(0)
    return best, place.clamp_(max=count - 1).long()  # NaN is equal to nothing


class _Proposals:
    """Every query's own mask, whatever its class."""

    def __init__(self, mask_logits: Tensor, size: tuple[int, int]) -> None:
        self.queries = torch.arange(len(mask_logits), device=mask_logits.device)
        self.masks = torch.zeros((len(mask_logits), *size), dtype=torch.bool)

    def add(self, rows: slice, logits: Tensor, soft: Tensor) -> None:
        self.masks[:, rows] = (logits > 0).cpu()


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float (x0, y0, x1, y1), ends exclusive; zeros for empty masks."""
    boxes = []
    bits = masks.view(torch.uint8)  # on a CPU far faster than `any` of bool
    for inside in (bits.amax(1), bits.amax(2)):  # columns (N, W), rows (N, H)
        length = inside.shape[1]
        first = inside.int().argmax(1)
        last = length - inside.flip(1).int().argmax(1)
        boxes.append(torch.stack((first, last)) * inside.any(1))
    (x0, x1), (y0, y1) = boxes
    return torch.stack((x0, y0, x1, y1), 1).float()
