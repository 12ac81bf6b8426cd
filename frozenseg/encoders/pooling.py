"""Mask pooling, and masks on the grid of a padded image; used by encoders and decoders."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime.precision import in_compute_type, in_float32

OUTSIDE = -6.0  # logit of a mask where there is no image


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean of features (B, C, h, w) over the cells where mask_logits (B, Q, h, w) > 0: (B, Q, C).

    A mask without a positive cell pools to zero. No gradient reaches the masks. The sums are in
    float32, because those over a large image overflow float16.
    """
    features = features.float()
    inside = (mask_logits.detach() > 0).flatten(2)
    areas = inside.sum(-1, keepdim=True, dtype=torch.int32)
    with in_float32(features):
        pooled = inside.to(features.dtype) @ features.flatten(2).transpose(1, 2)
    # The published areas + 1e-8 give the same numbers, since an empty mask sums to zero, but other
    # runtimes round 1e-8 away.
    return pooled / areas.clamp(min=1)


def pool_activations(features: Tensor, maps: Tensor) -> Tensor:
    """Mean of features (B, C, h, w) weighted by the sigmoid of maps (B, Q, h, w): (B, Q, C).

    For maps of large numbers it is `pool_masks`.
    """
    with in_float32(features):
        weights = log_sigmoid(maps.float().flatten(2)).softmax(-1)  # sigmoids that add up to 1
        return weights @ features.float().flatten(2).transpose(1, 2)


def log_sigmoid(maps: Tensor) -> Tensor:
    """Return the logarithm of the sigmoid of maps.

    PyTorch's own becomes that of a sigmoid which is 0 in exported graphs, and a region without a
    cell of its own then has no number for a result.
    """
    return -F.softplus(-maps)


def pool_predicted_masks(mask_embed: Tensor, features: Tensor) -> Tensor:
    """As `pool_masks`, of masks that are not kept: mask_embed (B, N, C) times features (B, C, h, w)
    gives their logits, here and again in the backward pass.

    Without gradients, or for few masks, `pool_masks` does the same with less work.
    """
    return _PredictedMaskMeans.apply(in_compute_type(mask_embed.detach()), features)


class _PredictedMaskMeans(torch.autograd.Function):
    """`pool_predicted_masks`, one image at a time: the masks of all outputs of a decoder take 0.2
    GB as bool."""

    @staticmethod
    def forward(ctx: Any, mask_embed: Tensor, features: Tensor) -> Tensor:
        sums = features.new_empty(mask_embed.shape, dtype=torch.float32)
        areas = sums.new_empty((*sums.shape[:2], 1))
        with in_float32(features):
            for image, (embed, maps) in enumerate(zip(mask_embed, features, strict=True)):
                inside = _PredictedMaskMeans.inside(embed, maps)
                areas[image] = inside.sum(-1, keepdim=True, dtype=torch.int32)
                sums[image] = inside.float() @ maps.flatten(1).T.float()
        areas.clamp_(min=1)  # as in `pool_masks`
        ctx.save_for_backward(mask_embed, features, areas)
        return sums / areas

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        mask_embed, features, areas = ctx.saved_tensors
        by_features = torch.empty_like(features)
        for image, (embed, maps) in enumerate(zip(mask_embed, features, strict=True)):
            inside = _PredictedMaskMeans.inside(embed, maps).float()
            by_maps = (grad[image] / areas[image]).T @ inside  # (C, h*w)
            by_features[image] = by_maps.view(maps.shape)
        return None, by_features

    @staticmethod
    def inside(embed: Tensor, maps: Tensor) -> Tensor:
        """(N, h*w) bool, from (N, C) and (C, h, w)."""
        return embed @ maps.flatten(1).to(embed.dtype) > 0


def resample_to_padded_grid(
    masks: Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Resample mask logits (P, h, w) over an image to (P, *grid) over the padded image.

    A cell takes the bilinear value at its centre; cells whose centre is in the padding get
    `OUTSIDE`.

    image_size: (height, width) in pixels of the image, at the network's input.
    padded_size: the same of the padded image.
    """
    axes = []
    for length, padded, cells in zip(image_size, padded_size, grid, strict=True):
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * (padded / cells)
        axes.append((2 * centres / length - 1).to(masks))  # -1..1 over the image
    y, x = torch.meshgrid(*axes, indexing="ij")
    values = F.grid_sample(
        masks[None],
        torch.stack((x, y), dim=-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0]
    return torch.where((x < 1) & (y < 1), values, OUTSIDE)
