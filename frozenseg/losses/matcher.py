"""Hungarian matching of queries and annotated objects (DETR, arXiv 2005.12872, section 3.1).

Legend: L outputs of the decoder, B images, Q queries, K classes, N the largest number of objects in
an image, T objects of the batch, M matched pairs of one output, P points.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from frozenseg.losses.points import random_points, sample_logits, sample_masks, stream_keys
from frozenseg.structures import UNNAMED, MaskPredictions, Targets


@dataclass(frozen=True)
class TargetBatch:
    """The objects of all images of a batch, concatenated in the order of the images.

    class_ids: (T,) int64, `UNNAMED` for objects of which only the mask is known. masks: (T, H, W)
    bool. counts: the number of objects in each image.
    """

    class_ids: Tensor
    masks: Tensor
    counts: tuple[int, ...]

    @classmethod
    def collate(
        cls, targets: list[Targets], *, num_classes: int, device: torch.device
    ) -> "TargetBatch":
        """Concatenate the targets of a batch; raises `ValueError` if they are inconsistent."""
        for image, target in enumerate(targets):
            if len(target.class_ids) != len(target.masks):
                raise ValueError(
                    f"targets of image {image} of the batch: {len(target.class_ids)} class ids, "
                    f"but {len(target.masks)} masks; give one of each per object"
                )
        # The masks of an image without objects may have any size, e.g. (0, 0, 0).
        filled = [target.masks for target in targets if len(target.masks)] or [targets[0].masks]
        sizes = sorted({tuple(masks.shape[-2:]) for masks in filled})
        if len(sizes) > 1:
            raise ValueError(f"target masks of a batch have the sizes {sizes}; pad them alike")
        class_ids = torch.cat([target.class_ids for target in targets])
        if class_ids.device.type == "cpu":  # on a GPU, this check would wait for the device
            invalid = class_ids[(class_ids < UNNAMED) | (class_ids >= num_classes)].tolist()
            if invalid:
                raise ValueError(f"target class ids {invalid} lie outside 0-{num_classes - 1}")
        masks = torch.cat([masks.to(device) for masks in filled])
        counts = tuple(len(target.class_ids) for target in targets)
        return cls(class_ids.to(device), masks.bool(), counts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The row of the first object of each image."""
        return tuple(sum(self.counts[:image]) for image in range(len(self.counts)))

    def padded_rows(self) -> Tensor:
        """Return the row of the n-th object of each image, (B, N); beyond the last object of an
        image, the row is arbitrary."""
        first = torch.tensor(self.offsets).unsqueeze(1)
        rows = first + torch.arange(max(self.counts))
        return rows.clamp(max=sum(self.counts) - 1).to(self.masks.device)


@dataclass(frozen=True)
class Matching:
    """Matched pairs of queries and objects, ordered by image and then by query.

    In every output, an image has min(Q, number of its objects) pairs, so M is the same for all
    outputs.

    images: (M,), the image of each pair. queries: (L, M), in 0..Q-1. objects: (L, M), rows of the
    `TargetBatch`.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor


class HungarianMatcher:
    """Finds the assignment of least cost between queries and objects, for each output and image.

    The cost of a pair (Mask2Former, arXiv 2112.01527) is mask_weight * binary cross entropy
    + dice_weight * dice - class_weight * probability of the object's class; the last term is left
    out if the class is unknown. The first two terms are computed at `num_points` random points,
    which are the same for all pairs of an output and an image.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def __call__(
        self,
        outputs: list[MaskPredictions],
        targets: TargetBatch,
        seeds: Tensor,
    ) -> Matching:
        """Match the queries of every output with the objects.

        outputs: the auxiliary outputs in order, then the last output.
        seeds: (B,) int64, the seed of the random points of each image.

        Raises `FloatingPointError`, which names the output and the image, if predictions are not
        finite.
        """
        num_outputs, device = len(outputs), targets.masks.device
        if len(targets.class_ids) == 0:
            nothing = torch.zeros((num_outputs, 0), dtype=torch.int64, device=device)
            return Matching(nothing[0], nothing, nothing)
        images = torch.arange(len(targets.counts), device=device)
        keys = torch.stack(
            [stream_keys(seeds, images, torch.full_like(images, n)) for n in range(num_outputs)]
        )  # (L, B)
        points = random_points(keys, self.num_points)
        rows = targets.padded_rows()
        # Processing one output at a time limits memory: the logits of an output at the points are
        # B * Q * P floats. A single copy then brings the costs of all outputs to the CPU.
        features = outputs[0].mask_features
        features = None if features is None else features.float()  # cast once for all outputs
        costs = torch.stack(
            [
                self.costs(replace(output, mask_features=features), own, targets, rows)
                for output, own in zip(outputs, points, strict=True)
            ]
        )
        return assign(costs.cpu().numpy(), targets)

    def costs(
        self, output: MaskPredictions, points: Tensor, targets: TargetBatch, rows: Tensor
    ) -> Tensor:
        """Return the costs (B, Q, N) of one output.

        points: (B, P, 2). rows: (B, N), from `padded_rows`.
        """
        images, most = rows.shape
        class_probs = output.class_logits.float().softmax(-1)
        class_ids = targets.class_ids[rows].unsqueeze(1)  # (B, 1, N)
        columns = class_ids.clamp(min=0).expand(-1, class_probs.shape[1], -1)
        class_cost = -class_probs.gather(2, columns).masked_fill(class_ids == UNNAMED, 0.0)
        logits = logits_at(output, points)
        repeated = points.repeat_interleave(most, dim=0)  # (B*N, P, 2)
        labels = sample_masks(targets.masks, rows.flatten(), repeated).view(images, most, -1)
        return (
            self.class_weight * class_cost
            + self.mask_weight * pairwise_cross_entropy(logits, labels)
            + self.dice_weight * pairwise_dice(logits, labels)
        )


def logits_at(output: MaskPredictions, points: Tensor) -> Tensor:
    """Return the mask logits (B, Q, P), float32, of all queries at points (B, P, 2).

    Bilinear sampling is linear, so the mask features, if they are given, are sampled instead of the
    masks. Their product with `mask_embed` is computed in the dtype of `mask_embed`.
    """
    if output.mask_embed is None or output.mask_features is None:
        return sample_logits(output.mask_logits, points)
    sampled = sample_logits(output.mask_features, points)  # (B, C, P)
    return (output.mask_embed @ sampled.to(output.mask_embed.dtype)).float()


def pairwise_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy (B, Q, N) of logits (B, Q, P) and labels (B, N, P), 0-1.

    For logit x and label t it is softplus(x) - x * t, so one matrix product computes all pairs.
    """
    constant = F.softplus(logits).sum(-1, keepdim=True)
    return (constant - logits @ labels.mT) / logits.shape[-1]


def pairwise_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the dice cost (B, Q, N), 0-1, of logits (B, Q, P) and labels (B, N, P), 0-1."""
    probs = logits.sigmoid()
    overlap = probs @ labels.mT
    total = probs.sum(-1).unsqueeze(2) + labels.sum(-1).unsqueeze(1)
    return 1 - (2 * overlap + 1) / (total + 1)


def assign(costs: np.ndarray, targets: TargetBatch) -> Matching:
    """Solve the assignment of each output and image.

    costs: (L, B, Q, N), the auxiliary outputs first.
    """
    queries: list[np.ndarray] = []
    objects: list[np.ndarray] = []
    for output, output_costs in enumerate(costs):
        for image, (count, offset) in enumerate(zip(targets.counts, targets.offsets, strict=True)):
            problem = output_costs[image, :, :count]
            if not np.isfinite(problem).all():
                which = "last output" if output == len(costs) - 1 else f"auxiliary output {output}"
                raise FloatingPointError(
                    f"predictions of the {which} for image {image} of the batch are not finite; "
                    "check for a learning rate that is too high, or weights or pixels that are not "
                    "finite"
                )
            query, row = linear_sum_assignment(problem)  # sorted by query
            queries.append(query)
            objects.append(row + offset)
    pairs = [min(costs.shape[2], count) for count in targets.counts]
    images = np.repeat(np.arange(len(pairs)), pairs)
    both = np.stack([np.concatenate(queries), np.concatenate(objects)])
    both = both.reshape(2, len(costs), len(images)).astype(np.int64)
    device = targets.masks.device
    pair_queries, pair_objects = torch.from_numpy(both).to(device)
    return Matching(torch.from_numpy(images).to(device), pair_queries, pair_objects)
