"""The training losses of FrozenSeg: class, mask and dice losses of all outputs of the decoder.

They are the losses of Mask2Former (arXiv 2112.01527, section 3.3), as in the published FrozenSeg.

Legend: L outputs of the decoder, B images, Q queries, K classes, M matched pairs of one output, P
points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.losses.matcher import HungarianMatcher, Matching, TargetBatch
from frozenseg.losses.points import (
    sample_logits,
    sample_masks,
    stream_keys,
    uncertain_points,
)
from frozenseg.structures import UNNAMED, MaskPredictions, Targets, named_masks

# Pairs whose candidate points exist at once; 128 pairs of 3 * 12,544 points take 100 MB.
PAIRS_AT_ONCE = 128


class SetCriterion:
    """Computes the losses of predictions against targets, which are matched per output (DETR)."""

    def __init__(
        self,
        *,
        num_classes: int,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        annotated_only: bool = False,
    ) -> None:
        """Set sizes and weights; raises `UserError` for invalid values.

        num_classes: K.
        num_points: number of points at which masks are compared.
        oversample_ratio, importance_sample_ratio: as in `uncertain_points`.
        class_weight, mask_weight, dice_weight: weights of the losses, and of the matching costs.
        no_object_weight: weight of queries without an object in the class loss.
        annotated_only: whether a query without an object counts only if at least half of its mask
            is annotated. A region that nobody annotated may well be an object, of a class that is
            only named later.
        """
        if num_points < 1:
            raise UserError(f"num_points is {num_points}: mask losses need at least one point")
        if oversample_ratio < 1:
            raise UserError(f"oversample_ratio is {oversample_ratio}: it must be at least 1")
        if not 0 <= importance_sample_ratio <= 1:
            raise UserError(
                f"importance_sample_ratio is {importance_sample_ratio}: it must lie between 0 and 1"
            )
        self.num_classes = num_classes
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.no_object_weight = no_object_weight
        self.annotated_only = annotated_only
        self.loss_weights = {
            "loss_ce": class_weight,
            "loss_mask": mask_weight,
            "loss_dice": dice_weight,
        }
        self.matcher = HungarianMatcher(
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
            num_points=num_points,
        )

    def __call__(
        self,
        predictions: MaskPredictions,
        targets: list[Targets],
        *,
        num_masks: float | None = None,
        class_normalizer: float | None = None,
        seeds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the unweighted losses `loss_ce`, `loss_mask` and `loss_dice`.

        The losses of the auxiliary output i have the suffix `_i`.

        targets: one for each image; all masks of a batch have the size of the padded images.
        num_masks: divisor of the mask losses: the number of objects of the entire step (at least
            1). None: the number of objects given here.
        class_normalizer: divisor of the class loss: the sum of the weights of all queries of the
            entire step (1 for a query matched with an object of a known class, otherwise
            no_object_weight). None: the sum over the queries given here.
        seeds: (B,) int64, the seed of each image's random points. None: drawn from torch's
            generator.

        Both divisors cover the micro-batches of all ranks. Averaging gradients divides by the
        number of ranks, so the trainer multiplies the loss by that number.
        """
        outputs = [*predictions.auxiliary, predictions]
        device = predictions.class_logits.device
        self._check(outputs, targets)
        batch = TargetBatch.collate(targets, num_classes=self.num_classes, device=device)
        if seeds is None:
            seeds = torch.randint(1 << 62, (len(targets),))
        seeds = seeds.to(device)
        divisor = float(max(sum(batch.counts), 1)) if num_masks is None else num_masks
        with torch.autocast(device.type, enabled=False):  # losses are computed in float32
            matching = self.matcher(outputs, batch, seeds)
            class_losses = self.classification_losses(outputs, batch, matching, class_normalizer)
            mask_losses, dice_losses = self.mask_losses(outputs, batch, matching, seeds)
        columns = torch.stack([class_losses, mask_losses / divisor, dice_losses / divisor])
        *auxiliary, last = columns.unbind(1)
        suffixes = ["", *(f"_{index}" for index in range(len(auxiliary)))]
        return {
            f"{name}{suffix}": loss
            for suffix, losses in zip(suffixes, [last, *auxiliary], strict=True)
            for name, loss in zip(self.loss_weights, losses.unbind(), strict=True)
        }

    def classification_losses(
        self,
        outputs: list[MaskPredictions],
        targets: TargetBatch,
        matching: Matching,
        total: float | None = None,
    ) -> Tensor:
        """Return the weighted cross entropy (L,) over K + 1 classes; queries without an object are
        void.

        A query whose object has no known class has no loss, like a query that `annotated_only`
        leaves out.

        total: divisor of the losses. None: the sum of the weights of the queries given here;
            queries without a loss have the weight of void in it.
        """
        logits = torch.stack([output.class_logits for output in outputs]).float()
        class_ids = torch.full(
            logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device
        )
        layers = torch.arange(len(outputs), device=logits.device).unsqueeze(1)
        class_ids[layers, matching.images, matching.queries] = targets.class_ids[matching.objects]
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.no_object_weight
        losses = F.cross_entropy(
            logits.flatten(0, 2),
            class_ids.flatten(),
            weight=weight,
            ignore_index=UNNAMED,
            reduction="none",
        )
        if self.annotated_only:
            ignored = elsewhere(outputs, targets) & (class_ids == self.num_classes)
            losses = losses.masked_fill(ignored.flatten(), 0.0)
        class_ids = class_ids.where(class_ids != UNNAMED, self.num_classes)
        divisor = weight[class_ids].flatten(1).sum(1) if total is None else weight.new_tensor(total)
        # The sum of the weights is 0 if there are no objects and no_object_weight is 0.
        return losses.view(len(outputs), -1).sum(1) / divisor.clamp(min=torch.finfo().tiny)

    def mask_losses(
        self,
        outputs: list[MaskPredictions],
        targets: TargetBatch,
        matching: Matching,
        seeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return binary cross entropy (L,) and dice loss (L,), each summed over matched pairs."""
        masks = matched_masks(outputs, targets, matching)
        points, labels = self._points_and_labels(masks, targets, matching, seeds)
        logits = sample_logits(masks.unsqueeze(1), points).squeeze(1)  # (L*M, P)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        probs = logits.sigmoid()
        total = probs.sum(1) + labels.sum(1)
        shape = matching.queries.shape
        dice = 1 - (2 * (probs * labels).sum(1) + 1) / (total + 1)
        return cross_entropy.view(shape).sum(1), dice.view(shape).sum(1)

    @torch.no_grad()
    def _points_and_labels(
        self,
        masks: Tensor,
        targets: TargetBatch,
        matching: Matching,
        seeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return points (L*M, P, 2) for each pair, and the annotated mask (L*M, P), 0-1, there."""
        points, labels = [], []
        objects = matching.objects.flatten().split(PAIRS_AT_ONCE)
        keys = pair_keys(matching, seeds).flatten().split(PAIRS_AT_ONCE)
        for logits, rows, streams in zip(masks.split(PAIRS_AT_ONCE), objects, keys, strict=True):
            chosen = uncertain_points(
                logits,
                streams,
                num_points=self.num_points,
                oversample_ratio=self.oversample_ratio,
                importance_sample_ratio=self.importance_sample_ratio,
            )
            points.append(chosen)
            labels.append(sample_masks(targets.masks, rows, chosen))
        return torch.cat(points), torch.cat(labels)

    def _check(self, outputs: list[MaskPredictions], targets: list[Targets]) -> None:
        images, _, columns = outputs[-1].class_logits.shape
        if columns != self.num_classes + 1:
            raise ValueError(
                f"class logits have {columns} columns; with num_classes={self.num_classes} "
                f"they need {self.num_classes + 1}, void last"
            )
        if len(targets) != images:
            raise ValueError(f"{len(targets)} targets for {images} images: give one per image")


@torch.no_grad()
def elsewhere(outputs: list[MaskPredictions], targets: TargetBatch) -> Tensor:
    """Return for each query whether less than half of its mask is annotated: (L, B, Q) bool."""
    # If there are no objects at all, the masks may have size 0.
    masks = named_masks(targets.class_ids, targets.masks)
    masks = masks if masks.numel() else masks.new_zeros(0, 1, 1)
    annotated = torch.stack([of_image.any(0) for of_image in masks.split(targets.counts)])
    found = []
    for output in outputs:  # the masks of all outputs together would take gigabytes
        logits = output.mask_logits
        if output.mask_embed is not None and output.mask_features is not None:
            logits = torch.einsum("bqc,bchw->bqhw", output.mask_embed, output.mask_features)
        size = (logits.shape[-2], logits.shape[-1])
        share = F.interpolate(annotated[:, None].float(), size, mode="area")  # (B, 1, h, w)
        inside = (logits > 0).float()
        found.append((inside * share).sum((-2, -1)) < 0.5 * inside.sum((-2, -1)))
    return torch.stack(found)


def matched_masks(
    outputs: list[MaskPredictions], targets: TargetBatch, matching: Matching
) -> Tensor:
    """Return the mask logits (L*M, h, w) of all matched pairs, with gradients, in the dtype of the
    outputs.

    The masks of all queries and outputs would take gigabytes, and so would their gradients, nearly
    all of which are zero. If the outputs have `mask_embed` and `mask_features`, only the masks of
    matched pairs are computed from them.
    """
    mask_embeds = [output.mask_embed for output in outputs if output.mask_embed is not None]
    mask_features = outputs[0].mask_features
    num_queries = outputs[0].class_logits.shape[1]
    if not mask_embeds or mask_features is None:
        rows = matching.images * num_queries + matching.queries  # (L, M) in B*Q
        chosen = [
            output.mask_logits.flatten(0, 1).index_select(0, row)
            for output, row in zip(outputs, rows, strict=True)
        ]
        return torch.cat(chosen)
    embeddings = torch.stack(mask_embeds)  # (L, B, Q, C)
    layers = torch.arange(len(outputs), device=embeddings.device)[:, None]
    chosen = embeddings[layers, matching.images, matching.queries].split(
        [min(num_queries, count) for count in targets.counts], dim=1
    )  # for each image (L, its pairs, C)
    masks = [
        torch.einsum("lmc,chw->lmhw", *pair)
        for pair in zip(chosen, mask_features.to(embeddings.dtype), strict=True)
    ]
    return torch.cat(masks, dim=1).flatten(0, 1)


def pair_keys(matching: Matching, seeds: Tensor) -> Tensor:
    """Return the key (L, M) of the random stream of each matched pair.

    The stream depends on the image, the output, and the number of the pair within the image. The
    matcher uses the first L streams of an image; each pair uses L of the streams that follow.
    """
    outputs, pairs = matching.queries.shape
    images = matching.images
    number = torch.arange(pairs, device=images.device) - torch.searchsorted(images, images)
    numbers = torch.arange(outputs, device=images.device)[:, None] + outputs * (number + 1)
    keys = stream_keys(seeds, images.expand(outputs, -1).flatten(), numbers.flatten())
    return keys.view(outputs, pairs)
