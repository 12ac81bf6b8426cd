"""From class and mask predictions of one image to semantic, panoptic and instance results.

All results are computed together in one pass over bands of output rows, so that temporary memory
grows neither with the vocabulary nor with the image, and nothing loops over queries or classes. The
rules are those of MaskFormer (arXiv 2107.06278) and FC-CLIP (arXiv 2308.02487).

Legend: Q queries, K classes, P proposals of SAM, H x W output pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frozenseg.inference.accumulators import (
    Accumulator,
    InstanceAccumulator,
    PanopticAccumulator,
    ProposalAccumulator,
    SemanticAccumulator,
    bring_to_host,
    start_copies,
)
from frozenseg.inference.join_proposals import (
    ClassifiedProposals,
    proposal_class_probs,
    semantic_weights,
)
from frozenseg.inference.resize import MaskResizer
from frozenseg.inference.scan import scan
from frozenseg.runtime.mask_ious import covered_shares, mask_ious
from frozenseg.runtime.memory import require_memory
from frozenseg.structures import Prediction
from frozenseg.text.vocabulary import Vocabulary

# Floats of the largest tensor of a band. On a CPU it should fit into the cache, which halves the
# time (logs/speed/benchmark.md); on other devices it takes about 250 MB.
BAND_ELEMENTS = {"cpu": 4_000_000, "other": 64_000_000}


@dataclass(frozen=True)
class PostProcessor:
    """Which results to compute, and the thresholds for them.

    panoptic, semantic, instances: whether to compute these results.
    object_mask_threshold: panoptic; the class probability that a query must exceed.
    overlap_threshold: panoptic; the least share of its own mask that a query must win.
    duplicate_iou: panoptic and instances; a mask is left out if its IoU with a more probable mask
        of the same class is at least this; 0: no mask is left out.
    covered_share: panoptic; a mask is left out if a more probable mask that is kept covers at least
        this share of it, whatever its class; 0: no mask is left out.
    detections_per_image: instances; number of pairs of query and class before stuff is dropped.
    masks_at_output_size: semantic; whether scores are computed from masks at output size. If False,
        scores are computed at input size and resized, as published for semantic-only runs.
    semantic_scores: whether to return the scores of all classes as well.
    proposals: whether to return the mask of every query, whatever its class.
    sam_epsilon: share of SAM's proposals in the semantic scores of unseen classes, 0-1.
    sam_threshold: the class probability that SAM's proposals must exceed.
    sam_weight: weight of SAM's proposals in panoptic and instance results; 0: they are not used.
    semantic_threshold: a pixel gets -1 unless the score of its best class exceeds this; 0: no
        threshold.
    cells_inside: whether only mask cells that lie entirely in the image are used, see
        `MaskResizer`.
    """

    panoptic: bool = True
    semantic: bool = True
    instances: bool = True
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.8
    duplicate_iou: float = 0.0
    covered_share: float = 0.0
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
    def has_outputs(self) -> bool:
        """Whether there is any result to compute."""
        return any(
            (self.panoptic, self.semantic, self.instances, self.semantic_scores, self.proposals)
        )

    def __call__(self, *given: Any, **named: Any) -> Prediction:
        """Compute the results of one image at once; the arguments are those of `in_steps`."""
        prediction = [*self.in_steps(*given, **named)][-1]
        assert prediction is not None, "the last step yields the results"
        return prediction

    @torch.no_grad()
    def in_steps(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        resizer: MaskResizer,
        vocabulary: Vocabulary,
        sam_proposals: ClassifiedProposals | None = None,
    ) -> Iterator[Prediction | None]:
        """Compute the results of one image in three steps: yield None twice, then the results.

        The device works asynchronously: each later step begins by waiting for the work that the
        step before it started, so the caller can do other work between the steps.

        class_logits: (Q, K + 1), void last.
        mask_logits: (Q, h, w) on the grid that `resizer` expects.
        sam_proposals: SAM's masks, which are added to the queries; in `Prediction.proposals` they
            follow the queries.
        """
        class_probs, class_weights = self._joined(class_logits.float(), sam_proposals)
        mask_logits = mask_logits.float()
        if sam_proposals is not None:
            mask_logits = torch.cat((mask_logits, sam_proposals.mask_logits))
        rows, columns = resizer.whole_cells
        pairs = self.pairs(mask_logits[:, :rows, :columns])
        wait = start_copies([class_probs, *pairs.values()])  # the host decides which queries count
        yield None
        on_host, *on_host_pairs = wait()
        pairs = dict(zip(pairs, on_host_pairs, strict=True))
        size, device = resizer.output_size, mask_logits.device
        self._require_memory(size, len(mask_logits), class_weights.shape[1], device)
        panoptic = instances = proposals = None
        if self.panoptic:
            least = self.object_mask_threshold
            panoptic = PanopticAccumulator(on_host, size, least, device, **pairs)
        if self.instances:
            most = self.detections_per_image
            same = pairs.get("same")
            instances = InstanceAccumulator(on_host, vocabulary, size, most, device, same)
        if self.proposals:
            proposals = ProposalAccumulator(mask_logits, size)
        semantic = self._semantic(class_weights, size)
        at_output_size = semantic if self.masks_at_output_size else None
        from_scores = None if self.masks_at_output_size else semantic
        made: tuple[Accumulator | None, ...] = (panoptic, instances, proposals, at_output_size)
        from_masks = [accumulator for accumulator in made if accumulator is not None]
        # The bands do not depend on which results are computed, since sums are rounded per band.
        depth = sum(class_probs.shape)
        _accumulate(from_masks, from_scores, mask_logits, resizer, depth)
        if from_scores is not None:
            from_masks.append(from_scores)
        bring = bring_to_host(from_masks)
        yield None
        bring()
        yield Prediction(
            size=size,
            panoptic=panoptic.result(vocabulary, self.overlap_threshold) if panoptic else None,
            semantic=semantic.ids.numpy() if semantic else None,
            instances=instances.result(vocabulary) if instances else None,
            semantic_scores=semantic.all_scores if semantic else None,
            proposals=proposals.masks.numpy() if proposals else None,
        )

    def pairs(self, mask_logits: Tensor) -> dict[str, Tensor]:
        """Compare all pairs of masks (N, h, w), as far as the thresholds need it.

        Returns (N, N) bool by name. "same": whether two masks are about the same. "covers": whether
        the second mask (column) covers the first (row).
        """
        same = self.duplicate_iou and (self.panoptic or self.instances)
        covers = self.covered_share and self.panoptic
        pairs = {}
        if same or covers:
            inside = mask_logits > 0
        if same:
            pairs["same"] = mask_ious(inside, inside) >= self.duplicate_iou
        if covers:
            pairs["covers"] = covered_shares(inside, inside) >= self.covered_share
        return pairs

    def _semantic(self, weights: Tensor, size: tuple[int, int]) -> SemanticAccumulator | None:
        if not (self.semantic or self.semantic_scores):
            return None
        return SemanticAccumulator(weights, size, self.semantic_scores, self.semantic_threshold)

    def _require_memory(
        self, size: tuple[int, int], queries: int, classes: int, device: torch.device
    ) -> None:
        """Raise `UserError` if memory is too small for the masks at output size, one byte per
        pixel, or for the semantic scores, four bytes each, which the host keeps."""
        if self.semantic_scores:
            purpose = f"the scores of {classes} classes at {size[0]} x {size[1]} pixels"
            require_memory(4 * classes * size[0] * size[1], torch.device("cpu"), purpose)
        masks = queries if self.proposals else 0
        if self.instances:  # sorting them by their scores copies them
            masks += 2 * min(queries, self.detections_per_image)
        require_memory(
            (masks + 8) * size[0] * size[1], device, f"the masks of {size[0]} x {size[1]} pixels"
        )

    def _joined(
        self, class_logits: Tensor, sam_proposals: ClassifiedProposals | None
    ) -> tuple[Tensor, Tensor]:
        """Return class probabilities (Q + P, K + 1) and semantic weights (Q + P, K)."""
        class_probs = class_logits.softmax(-1)
        if sam_proposals is None:
            return class_probs, class_probs[:, :-1]
        class_weights = semantic_weights(
            class_logits,
            sam_proposals.class_logits,
            sam_proposals.seen,
            epsilon=self.sam_epsilon,
            threshold=self.sam_threshold,
        )
        sam_probs = proposal_class_probs(
            sam_proposals, weight=self.sam_weight, threshold=self.sam_threshold
        )
        return torch.cat((class_probs, sam_probs)), torch.cat(class_weights)


def _accumulate(
    from_masks: list[Accumulator],
    from_scores: SemanticAccumulator | None,
    mask_logits: Tensor,
    resizer: MaskResizer,
    depth: int,
) -> None:
    """Feed the accumulators band by band; `from_scores` gets scores computed at input size."""
    from_masks, needed_logits = _restrict_to_needed(from_masks, mask_logits)
    from_masks = scan(from_masks, needed_logits, resizer)
    if not from_masks and from_scores is None:
        return
    limit = BAND_ELEMENTS["cpu" if mask_logits.device.type == "cpu" else "other"]
    for start, stop in _bands(resizer.output_size, depth, limit):
        rows = slice(start, stop)
        if from_masks:
            logits = resizer.rows(needed_logits, start, stop)
            probs = logits.sigmoid()
            for accumulator in from_masks:
                accumulator.add(rows, logits, probs)
        if from_scores is not None:
            logits, matrix = resizer.input_rows(mask_logits, start, stop)
            scores = from_scores.scores(logits.sigmoid_())
            from_scores.add_scores(rows, resizer.finish(matrix, scores))


def _restrict_to_needed(
    accumulators: Sequence[Accumulator], mask_logits: Tensor
) -> tuple[list[Accumulator], Tensor]:
    """Return the accumulators that need any mask, and all masks that at least one of them needs.

    The accumulators' `queries` are changed to indices of these masks, on the masks' device.
    """
    accumulators = [accumulator for accumulator in accumulators if len(accumulator.queries)]
    device = mask_logits.device
    needed = torch.zeros(len(mask_logits), dtype=torch.bool)
    for accumulator in accumulators:
        needed[accumulator.queries] = True
    new_index = needed.cumsum(0) - 1
    for accumulator in accumulators:
        accumulator.queries = new_index[accumulator.queries].to(device)
    if needed.all():
        return accumulators, mask_logits
    return accumulators, mask_logits.index_select(0, needed.nonzero()[:, 0].to(device))


def _bands(size: tuple[int, int], depth: int, elements: int) -> Iterator[tuple[int, int]]:
    """Yield bands (start, stop) of rows whose (depth, rows, W) tensor has at most `elements`."""
    step = max(1, elements // (depth * size[1]))
    for start in range(0, size[0], step):
        yield start, min(start + step, size[0])
