"""The losses of Mask-Adapter (arXiv 2412.04533, section 3.3), which teach it to classify regions.

Legend: N objects of an image, Q queries, P pairs, C channels, D joint CLIP space, K classes, h x w
cells of the grid on which regions are given.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime.mask_ious import mask_ious
from frozenseg.runtime.precision import in_float32
from frozenseg.structures import MaskPredictions, Targets

MOST_OBJECTS = 16  # objects of an image that train the adapter in one step, as published

Embed = Callable[[Tensor, Tensor], Tensor]
"""Maps CLIP's features (1, C, h', w') and the masks (1, N, h, w) of regions, given as shares of
cells, to the embeddings (1, N, D) of the regions."""


class RegionLoss:
    """Cross entropy of CLIP's own classifier on annotated and predicted masks, and consistency.

    The predicted mask of an object is the mask with the largest IoU with it, if that IoU exceeds a
    threshold. The consistency loss draws its embedding towards that of the annotated mask. No
    gradient reaches the masks, so the layers that predict them train as without these losses.
    """

    def __init__(
        self,
        *,
        embed: Embed,
        classify: Callable[[Tensor], Tensor],
        finer: int,
        iou_threshold: float,
        class_weight: float,
        consistency_weight: float,
    ) -> None:
        """Set the functions and weights.

        embed: computes embeddings of regions. classify: computes class logits (1, N, K + 1), void
        last, from embeddings. finer: mask cells per cell of CLIP, along each axis. iou_threshold:
        0-1. class_weight, consistency_weight: weights of the two losses.
        """
        self.embed = embed
        self.classify = classify
        self.finer = finer
        self.iou_threshold = iou_threshold
        self.weights = {"loss_adapter": class_weight, "loss_consistency": consistency_weight}

    def __call__(
        self, outputs: MaskPredictions, targets: list[Targets], num_masks: float, seeds: Tensor
    ) -> dict[str, Tensor]:
        """Return the unweighted `loss_adapter` and `loss_consistency` of a batch.

        outputs: predictions with `mask_embed`, `mask_features` and `clip_dense`. num_masks: the
        number of objects of the entire step, by which both losses are divided (the published code
        divides by the number of regions). seeds: (B,) int64, seeds for the choice of objects in
        images with more than `MOST_OBJECTS`.
        """
        dense = outputs.clip_dense
        assert dense is not None, "the predictions have no clip_dense, which a mask adapter gives"
        grid = (self.finer * dense.shape[-2], self.finer * dense.shape[-1])
        class_loss = consistency = dense.new_zeros(())
        for image, (target, seed) in enumerate(zip(targets, seeds.tolist(), strict=True)):
            chosen = _chosen(len(target.class_ids), seed).to(dense.device)
            masks = target.masks.to(dense.device)[chosen]
            class_ids = target.class_ids.to(dense.device)[chosen]
            # Without objects an empty mask is used, with a factor 0: every weight gets a gradient.
            annotated = _shares(masks if len(masks) else dense.new_zeros(1, *grid), grid)
            predicted, pairs = self._predicted(outputs, image, masks, grid)
            embedded = self.embed(
                dense[image : image + 1], torch.cat((annotated, predicted)).unsqueeze(0)
            )
            if not len(masks):
                class_loss = class_loss + 0 * embedded.sum()
                continue
            logits = self.classify(embedded)[0, :, :-1]  # without void: each is an object
            labels = torch.cat((class_ids, class_ids[pairs]))
            class_loss = class_loss + F.cross_entropy(logits, labels, reduction="sum")
            of_masks, of_predictions = embedded[0].split((len(masks), len(pairs)))
            cosines = F.cosine_similarity(of_predictions, of_masks[pairs].detach(), dim=-1)
            consistency = consistency + (1 - cosines).sum()
        return {"loss_adapter": class_loss / num_masks, "loss_consistency": consistency / num_masks}

    @torch.no_grad()
    def _predicted(
        self, outputs: MaskPredictions, image: int, masks: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return predicted masks (P, h, w) of objects, as shares of cells, and the indices (P,) of
        these objects. masks: (N, H, W), the annotated masks of the objects."""
        with in_float32(masks):  # half precision rounds counts of cells, and 65,536 overflow it
            return self._of_largest_iou(outputs, image, masks, grid)

    def _of_largest_iou(
        self, outputs: MaskPredictions, image: int, masks: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        assert outputs.mask_embed is not None and outputs.mask_features is not None
        features = outputs.mask_features[image].float()
        inside = torch.einsum("qc,chw->qhw", outputs.mask_embed[image].float(), features) > 0
        if not len(masks):
            return _shares(inside[:0], grid), torch.zeros(0, dtype=torch.int64, device=masks.device)
        size = (features.shape[-2], features.shape[-1])
        best, queries = mask_ious(_shares(masks, size) > 0.5, inside).max(1)
        pairs = (best > self.iou_threshold).nonzero()[:, 0]
        return _shares(inside[queries[pairs]], grid), pairs


def _chosen(count: int, seed: int) -> Tensor:
    """Return the indices (N,) of the objects that train the adapter."""
    if count <= MOST_OBJECTS:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:MOST_OBJECTS]


def _shares(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share (N, h, w) of each cell that masks (N, H, W) cover."""
    if not len(masks):
        return torch.zeros((0, *grid), device=masks.device)
    return F.interpolate(masks[None].float(), grid, mode="area")[0]
