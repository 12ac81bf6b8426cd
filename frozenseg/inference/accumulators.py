"""Accumulators of the post-processing: each builds one result, band by band of output rows.

The rules are those of MaskFormer (arXiv 2107.06278) and FC-CLIP (arXiv 2308.02487).

Legend: Q queries, K classes, N instances, H x W output pixels, R rows of a band.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from frozenseg.inference.duplicates import duplicates, uncovered
from frozenseg.inference.regions import label_segments, mask_boxes, spans
from frozenseg.runtime.linear import linear
from frozenseg.structures import InstanceResult, PanopticResult
from frozenseg.text.vocabulary import Vocabulary


class Accumulator(Protocol):
    """Builds one result from all bands of output rows.

    queries: the indices of the queries whose masks it needs.
    """

    queries: Tensor

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the attributes, tensors on the device, that make up the result."""

    def add(self, rows: slice, mask_logits: Tensor, mask_probs: Tensor) -> None:
        """Add a band of output rows: mask logits (Q, R, W) and their sigmoid."""

    def finish(self) -> None:
        """Compute, on the device, everything that needs all bands."""


def bring_to_host(accumulators: Sequence[Accumulator]) -> Callable[[], None]:
    """Start to copy the outputs of all accumulators to the host.

    The returned function waits for the copies, and then replaces the outputs on the device by them.
    """
    places = []
    for accumulator in accumulators:
        accumulator.finish()
        places += [(accumulator, name) for name in accumulator.outputs]
    wait = start_copies([getattr(*place) for place in places])

    def put() -> None:
        for place, copy in zip(places, wait(), strict=True):
            setattr(*place, copy)

    return put


def start_copies(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start to copy tensors to the host; the returned function waits for the copies."""
    copies, event = [], None
    for tensor in tensors:
        if tensor.device.type == "cuda":
            # Only copies to pinned memory are asynchronous.
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            event = torch.cuda.current_stream(tensor.device).record_event(event)
        else:
            host = tensor.cpu()
        copies.append(host)

    def wait() -> list[Tensor]:
        if event is not None:
            event.synchronize()
        return copies

    return wait


class SemanticAccumulator:
    """Gives each pixel the class with the largest sum over queries of class weight times mask
    probability."""

    outputs = ("ids",)

    def __init__(
        self, weights: Tensor, size: tuple[int, int], keep_scores: bool, threshold: float
    ) -> None:
        """Allocate the result.

        weights: (Q, K), class weights. size: (H, W). threshold: as in
        `PostProcessor.semantic_threshold`. keep_scores: whether to keep the scores of all classes
        as well, in `all_scores` (K, H, W).
        """
        self.threshold = threshold
        self.weights = weights.T.contiguous()  # (K, Q)
        self.queries = torch.arange(len(weights))
        self.ids = torch.zeros(size, dtype=torch.int32, device=weights.device)
        self.all_scores = (
            np.zeros((len(self.weights), *size), dtype=np.float32) if keep_scores else None
        )

    def scores(self, mask_probs: Tensor) -> Tensor:
        """Return class scores (K, R, W) from mask probabilities (Q, R, W)."""
        # oneDNN is faster with the pixels as rows of the weight matrix than as rows of the input.
        return linear(self.weights, mask_probs.flatten(1).T).unflatten(1, mask_probs.shape[1:])

    def add(self, rows: slice, mask_logits: Tensor, mask_probs: Tensor) -> None:
        """See `Accumulator.add`."""
        self.add_scores(rows, self.scores(mask_probs))

    def add_scores(self, rows: slice, scores: Tensor) -> None:
        """Add the class scores (K, R, W) of a band of output rows."""
        if self.all_scores is not None:
            self.all_scores[:, rows] = scores.cpu().numpy()
        best, ids = max_with_first_index(scores)
        if self.threshold:
            ids = torch.where(best <= self.threshold, -1, ids)
        self.ids[rows] = ids

    def finish(self) -> None:
        """See `Accumulator.finish`."""


class PanopticAccumulator:
    """Assigns each pixel to the query with the largest product of class and mask probability.

    A query that wins too little of its own mask is dropped, and queries of one stuff class are
    merged.
    """

    outputs = ("winner", "counts", "in_rows", "in_columns")

    def __init__(
        self,
        class_probs: Tensor,
        size: tuple[int, int],
        threshold: float,
        device: torch.device,
        same: Tensor | None = None,
        covers: Tensor | None = None,
    ) -> None:
        """Choose the queries and allocate the result.

        class_probs: (Q, K + 1), void last, on the host. size: (H, W). threshold: the class
        probability that a query must exceed. device: device of the masks. same, covers: (Q, Q)
        bool, on the host, as in `duplicates` and `uncovered`; None: no query is left out for this
        reason.
        """
        scores, labels = class_probs.max(-1)
        void = class_probs.shape[-1] - 1
        counts = (labels != void) & (scores > threshold)
        if same is not None:
            counts &= ~duplicates(labels, scores, same)
        self.queries = counts.nonzero()[:, 0]
        if covers is not None:
            among = covers[self.queries][:, self.queries]
            self.queries = self.queries[uncovered(scores[self.queries], among)]
        self.scores, self.labels = scores[self.queries], labels[self.queries]
        self.factors = self.scores[:, None, None].to(device)
        self.winner = torch.full(size, -1, dtype=torch.int32, device=device)
        # Three counts for each query: pixels that it wins, pixels of its own mask, and pixels that
        # are both. The last column counts the pixels that belong to no query.
        self.counts = torch.zeros((3, len(self.queries) + 1), dtype=torch.long, device=device)
        # Whether a query has pixels in each row and in each column; this determines the boxes.
        self.in_rows, self.in_columns = (
            torch.zeros((len(self.queries) + 1, length), dtype=torch.bool, device=device)
            for length in size
        )

    def add(self, rows: slice, mask_logits: Tensor, mask_probs: Tensor) -> None:
        """See `Accumulator.add`."""
        none = len(self.queries)
        mask_probs = mask_probs.index_select(0, self.queries)
        _, best = max_with_first_index(mask_probs * self.factors)
        own = mask_probs.gather(0, best[None])[0] >= 0.5
        self.winner[rows] = torch.where(own, best, -1).int()
        # `bincount` and boolean indexing would wait for the device.
        one = self.counts.new_ones(()).expand(best.numel())
        self.counts[0].scatter_add_(0, best.flatten(), one)
        self.counts[1, :none] += _count_pixels(mask_probs.ge_(0.5))
        owner = torch.where(own, best, none)
        self.counts[2].scatter_add_(0, owner.flatten(), one)
        height, width = self.winner.shape
        row = torch.arange(rows.start, rows.stop, device=owner.device)[:, None]
        column = torch.arange(width, device=owner.device)
        self.in_rows.view(-1).scatter_(0, (owner * height + row).flatten(), True)
        self.in_columns.view(-1).scatter_(0, (owner * width + column).flatten(), True)

    def add_sizes(self, by_probability: Tensor) -> None:
        """Add the mask sizes (N,), in pixels, of all queries in a band, as counted by `scan`."""
        self.counts[1, :-1] += by_probability.index_select(0, self.queries)

    def add_owned(self, start: int, owned: Tensor) -> None:
        """Add the counts of a band for which `scan` has written `winner` and `in_columns`.

        start: first row of the band. owned: (R, 2, more than N), for each row the histograms of
        `scan_kernels.find_owners`.
        """
        owned = owned.index_select(2, self.queries)
        self.counts[::2, :-1] += owned.sum(0)
        self.in_rows[:-1, start : start + len(owned)] = owned[:, 1].T > 0

    def finish(self) -> None:
        """See `Accumulator.finish`."""

    def result(self, vocabulary: Vocabulary, overlap_threshold: float) -> PanopticResult:
        """Return the result of all bands; overlap_threshold: as in `PostProcessor`."""
        won, mask_size, both = self.counts[:, :-1].numpy()
        labels, scores = self.labels.numpy(), self.scores.numpy()
        kept = (both > 0) & (won / np.maximum(mask_size, 1) >= overlap_threshold)
        order = np.flatnonzero(kept)
        is_thing = np.asarray(vocabulary.is_thing)[labels]
        # Queries of one stuff class share a key and are merged; each thing has its own key.
        keys = np.where(is_thing, len(vocabulary) + np.arange(len(labels)), labels)[order]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        # Ids are numbered in the order of the queries.
        rank = np.argsort(np.argsort(first))
        ids = np.zeros(len(labels) + 1, dtype=np.int32)  # the last entry is for winner -1
        ids[order] = rank[group] + 1
        numbers = ids[order] - 1
        best, areas = np.zeros(len(first)), np.zeros(len(first), dtype=np.int64)
        np.maximum.at(best, numbers, scores[order])
        np.add.at(areas, numbers, both[order])
        inside = [
            np.zeros((len(first), length), dtype=bool) for length in self.winner.shape
        ]  # the rows and the columns of each segment
        for of_segments, of_queries in zip(inside, (self.in_rows, self.in_columns), strict=True):
            np.logical_or.at(of_segments, numbers, of_queries.numpy()[order])
        members = order[np.sort(first)]
        segments = label_segments(
            labels[members], best, areas, np.stack(spans(*inside), 1), vocabulary
        )
        return PanopticResult(np.take(ids, self.winner.numpy(), mode="wrap"), segments)


class InstanceAccumulator:
    """Finds the best pairs of query and class; their score is the class probability times the mean
    mask probability."""

    outputs = ("masks", "boxes", "scores", "class_ids")

    def __init__(
        self,
        class_probs: Tensor,
        vocabulary: Vocabulary,
        size: tuple[int, int],
        count: int,
        device: torch.device,
        same: Tensor | None = None,
    ) -> None:
        """Choose the pairs and allocate the result.

        class_probs: (Q, K + 1), void last, on the host. size: (H, W). count: number of pairs that
        are taken, before stuff is dropped. device: device of the masks. same: as in
        `PanopticAccumulator`.
        """
        classes = class_probs.shape[-1] - 1
        flat = class_probs[:, :-1].flatten()
        scores, pairs = flat.topk(min(count, len(flat)))
        kept = torch.tensor(vocabulary.is_thing)[pairs % classes]
        if same is not None:
            queries = pairs // classes
            kept &= ~duplicates(pairs % classes, scores, same[queries][:, queries])
        self.scores, pairs = scores[kept], pairs[kept]
        self.class_ids = pairs % classes
        # Several classes of one query share its mask, which is computed once.
        self.queries, self.row = torch.unique(pairs // classes, return_inverse=True)
        self.masks = torch.zeros((len(self.queries), *size), dtype=torch.bool, device=device)
        self.sums = torch.zeros((2, len(self.queries)), device=device)

    def add(self, rows: slice, mask_logits: Tensor, mask_probs: Tensor) -> None:
        """See `Accumulator.add`."""
        inside = mask_logits.index_select(0, self.queries).gt_(0)
        self.masks[:, rows].copy_(inside)
        self.sums[0] += mask_probs.index_select(0, self.queries).mul_(inside).flatten(1).sum(1)
        self.sums[1] += _count_pixels(inside)

    def add_sizes(self, by_logit: Tensor, sums: Tensor) -> None:
        """Add the counts of a band for which `scan` has written `masks`: for all queries, the
        pixels (N,) of their masks and the sums (N,) of the probabilities of these pixels."""
        self.sums[0] += sums.index_select(0, self.queries)
        self.sums[1] += by_logit.index_select(0, self.queries)

    def finish(self) -> None:
        """See `Accumulator.finish`; sorts the instances, the best score first."""
        device = self.masks.device
        row = self.row.to(device)
        quality = (self.sums[0] / (self.sums[1] + 1e-6))[row]
        scores = self.scores.to(device) * quality
        order = scores.argsort(descending=True, stable=True)
        row = row[order]
        self.boxes, self.masks = mask_boxes(self.masks)[row], self.masks[row]
        self.scores, self.class_ids = scores[order], self.class_ids.to(device)[order]

    def result(self, vocabulary: Vocabulary) -> InstanceResult:
        """Return the result of all bands, the best score first."""
        return InstanceResult(
            boxes=self.boxes.numpy(),
            masks=self.masks.numpy(),
            scores=self.scores.numpy(),
            class_ids=self.class_ids.numpy(),
            names=[vocabulary.names[index][0] for index in self.class_ids.tolist()],
        )


class ProposalAccumulator:
    """Keeps the mask of every query, whatever its class (class-free proposals)."""

    outputs = ("masks",)

    def __init__(self, mask_logits: Tensor, size: tuple[int, int]) -> None:
        self.queries = torch.arange(len(mask_logits))
        self.masks = mask_logits.new_zeros((len(mask_logits), *size), dtype=torch.bool)

    def add(self, rows: slice, mask_logits: Tensor, mask_probs: Tensor) -> None:
        """See `Accumulator.add`."""
        self.masks[:, rows] = mask_logits > 0

    def finish(self) -> None:
        """See `Accumulator.finish`."""


# On a CPU, PyTorch's comparisons are several times faster with a float result than with a bool one,
# and `amax` is ten times as fast as `max`, which also finds the index.


def _count_pixels(inside: Tensor) -> Tensor:
    """Return how many pixels (N,) of each mask (N, R, W) of 0.0 and 1.0 are 1.

    The float sum is exact, because a band has less than 2^24 pixels.
    """
    return inside.flatten(1).sum(1).long()


def max_with_first_index(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return `scores.max(0)` of (N, R, W), with the first index among equals; `scores` may be
    overwritten."""
    if scores.device.type != "cpu":
        return scores.max(0)
    best = scores.amax(0)
    # Entries equal to the maximum get N at the first index down to 1 at the last, all others 0.
    count = len(scores)
    weights = torch.arange(count, 0, -1, dtype=scores.dtype)[:, None, None]
    index = count - scores.eq_(best).mul_(weights).amax(0)
    return best, index.clamp_(max=count - 1).long()  # NaN equals nothing, not even itself
