"""Post-processing inside the graph: finished results as a function of tensors of fixed sizes.

The rules are those of `frozenseg.inference.accumulators`, at the size of the window.

Legend: H x W pixels of the window, Q queries, K classes, N instances.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.export.network import Network, Window
from frozenseg.inference.duplicates import duplicates, uncovered
from frozenseg.inference.postprocess import PostProcessor

OUTPUTS = {
    "logits": ("class_logits", "mask_logits"),
    "regions": ("region_logits",),
    "panoptic": ("panoptic_ids", "segment_classes", "segment_scores"),
    "semantic": ("semantic_ids",),
    "instances": ("instance_masks", "instance_classes", "instance_scores"),
}
"""Kind of result -> the names of its tensors. The logits always come first."""


class Results(nn.Module):
    """A network that also computes the requested results."""

    def __init__(self, network: Network, rules: PostProcessor, wanted: Sequence[str]) -> None:
        """rules: thresholds of the results. wanted: keys of `OUTPUTS` besides "logits"."""
        super().__init__()
        self.network, self.rules, self.wanted = network, rules, tuple(wanted)

    def forward(
        self,
        pixels: Tensor,
        size: Tensor,
        vectors: Tensor,
        class_index: Tensor,
        seen: Tensor,
        is_thing: Tensor,
        embedding: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the logits, those of regions (if given), and the results in order of `wanted`.

        is_thing: (K,) bool. The other inputs and all logits are those of `Network`.

        panoptic_ids (H, W) int32: the number of the segment, from 1; 0 for none.
        segment_classes (Q,) int64 and segment_scores (Q,): those of segments 1, 2, ...; the
        remaining entries are -1 and 0.
        semantic_ids (H, W) int32: class ids; -1 where the best score is not above the threshold.
        instance_masks (N, H, W) bool, instance_classes (N,) int64 and instance_scores (N,): sorted
        from the highest score; N is fixed, and unused entries have score 0 and class -1.
        """
        found = self.network(pixels, size, vectors, class_index, seen, embedding, regions)
        class_logits, mask_logits = found[:2]
        if self.wanted:
            probs = class_logits[0].softmax(-1)
            height, width = pixels.shape[-2:]
            inside = Window(pixels, size).inside()
            masks = self._at_window(mask_logits, size, (height, width))
            pairs = self._pairs(mask_logits[0], size, (height, width))
        for name in self.wanted:
            if name == "panoptic":
                found += self._panoptic(probs, _sigmoid(masks), inside, is_thing, **pairs)
            elif name == "semantic":
                scores, ids = (probs[:, :-1].T @ _sigmoid(masks).flatten(1)).max(0)
                if self.rules.semantic_threshold:
                    ids = torch.where(scores > self.rules.semantic_threshold, ids, -1)
                found.append(ids.unflatten(0, (height, width)).int())
            else:
                found += self._instances(probs, masks, inside, is_thing, pairs.get("same"))
        return tuple(found)

    def _at_window(self, mask_logits: Tensor, size: Tensor, window: tuple[int, int]) -> Tensor:
        """Resize mask logits (1, Q, h, w) to the window, (Q, H, W), as `MaskResizer` does."""
        if self.rules.cells_inside:
            for axis, length in enumerate(window):
                cells = mask_logits.shape[axis + 2]
                used = _whole_cells(size[axis], cells, length)
                index = torch.minimum(torch.arange(cells), used - 1)
                mask_logits = mask_logits.index_select(axis + 2, index)
        return F.interpolate(mask_logits, size=window, mode="bilinear", align_corners=False)[0]

    def _pairs(
        self, mask_logits: Tensor, size: Tensor, window: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Compare masks (Q, h, w) as `PostProcessor.pairs` does."""
        rows, columns = (
            torch.arange(cells) < _whole_cells(size[axis], cells, window[axis])
            for axis, cells in enumerate(mask_logits.shape[1:])
        )
        return self.rules.pairs(torch.where(rows[:, None] & columns, mask_logits, -1.0))

    def _panoptic(
        self,
        class_probs: Tensor,
        mask_probs: Tensor,
        inside: Tensor,
        is_thing: Tensor,
        same: Tensor | None = None,
        covers: Tensor | None = None,
    ) -> list[Tensor]:
        queries, void = class_probs.shape[0], class_probs.shape[1] - 1
        scores, labels = class_probs.max(-1)
        valid = (labels != void) & (scores > self.rules.object_mask_threshold)
        if same is not None:
            valid = valid & ~duplicates(labels, scores, same)
        if covers is not None:
            valid = valid & uncovered(scores, covers & valid)
        factors = torch.where(valid, scores, -1.0)[:, None, None]
        best = (mask_probs * factors).argmax(0)
        own = (mask_probs.gather(0, best[None])[0] >= 0.5) & valid[best] & inside
        masks = (mask_probs >= 0.5) & inside
        won, both = (
            _counted(torch.where(counts, best, queries), queries) for counts in (inside, own)
        )
        whole = masks.flatten(1).float().sum(1)
        share = won / whole.clamp(min=1)
        kept = valid & (both > 0) & (share >= self.rules.overlap_threshold)
        # Queries of the same stuff class form one segment; the first of them gives its number.
        places = torch.arange(queries)
        things = is_thing[labels.clamp(max=void - 1)]
        keys = torch.where(things, void + 1 + places, labels)
        members = (keys[:, None] == keys) & kept & kept[:, None]
        first = members.float().argmax(1)
        leads = kept & (first == places)
        number = torch.where(kept, leads.int().cumsum(0)[first], 0)
        ids = torch.where(own, number[best], 0).int()
        group_scores = torch.where(members, scores, 0.0).amax(1)
        row = torch.where(leads, number - 1, queries)
        return [
            ids,
            torch.full((queries + 1,), -1).scatter(0, row, labels)[:-1],
            torch.zeros(queries + 1).scatter(0, row, group_scores)[:-1],
        ]

    def _instances(
        self,
        class_probs: Tensor,
        masks: Tensor,
        inside: Tensor,
        is_thing: Tensor,
        same: Tensor | None,
    ) -> list[Tensor]:
        count = self.rules.detections_per_image
        # With few classes, there may be fewer pairs of query and class than `count`.
        flat = torch.cat((class_probs[:, :-1].flatten(), torch.full((count,), -1.0)))
        scores, pairs = flat.topk(count)
        exists = scores >= 0
        pairs = torch.where(exists, pairs, 0)
        # The ONNX exporter cannot divide by a number of classes that is not fixed.
        shape = class_probs[:, :-1].shape
        labels = torch.arange(shape[1]).expand(shape).flatten()[pairs]
        queries = torch.arange(shape[0])[:, None].expand(shape).flatten()[pairs]
        if same is not None:
            exists = exists & ~duplicates(labels, scores, same[queries][:, queries])
        exists = exists & is_thing[labels]
        covered = (masks > 0) & inside
        sums = (_sigmoid(masks) * covered).flatten(1).sum(1)
        quality = sums / (covered.flatten(1).float().sum(1) + 1e-6)
        scores, order = torch.where(exists, scores * quality[queries], -1.0).topk(count)
        return [
            covered[queries[order]],
            torch.where(scores >= 0, labels[order], -1),
            scores.clamp(min=0),
        ]


def _sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid; ONNX Runtime's own is constant below -18, so that no class would lead."""
    small = (-logits.abs()).exp()
    return torch.where(logits >= 0, 1.0, small) / (1 + small)


def _whole_cells(image: Tensor, cells: int, window: int) -> Tensor:
    """Return how many cells along an axis lie entirely in the image, at least 1.

    image: (), the length of the image in pixels. cells, window: the lengths of mask and window.
    """
    return (image * cells // window).clamp(min=1)


def _counted(places: Tensor, count: int) -> Tensor:
    """Count how often each of 0 to count - 1 occurs in places (H, W).

    Returns (count,) float, which is exact below 2^24.
    """
    flat = places.flatten()
    return torch.zeros(count + 1).scatter_add(0, flat, torch.ones(flat.shape[0]))[:count]
