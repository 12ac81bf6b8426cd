"""Mask pooling, and resampling of masks to the grid of a padded image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime.precision import in_compute_type, in_float32

OUTSIDE = -6.0  # the mask logit of cells outside the image


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Return the mean (B, Q, C) of features (B, C, h, w) where mask_logits (B, Q, h, w) > 0.

    A mask without a positive cell pools to zero. No gradient reaches the masks. The sums are
    computed in float32, because sums over a large image overflow float16.
    """
    features = features.float()
    inside = (mask_logits.detach() > 0).flatten(2)
    areas = inside.sum(-1, keepdim=True, dtype=torch.int32)
    with in_float32(features):
        pooled = inside.to(features.dtype) @ features.flatten(2).transpose(1, 2)
    # The published code divides by areas + 1e-8, with the same result, since an empty mask sums to
    # zero; but other runtimes round 1e-8 to zero.
    return pooled / areas.clamp(min=1)


def pool_activations(features: Tensor, maps: Tensor) -> Tensor:
    """Return the mean (B, Q, C) of features (B, C, h, w), weighted by the sigmoid of maps (B, Q, h,
    w).

    For maps of large absolute values the result equals that of `pool_masks`.
    """
    with in_float32(features):
        weights = log_sigmoid(maps.float().flatten(2)).softmax(-1)  # sigmoids with the sum 1
        return weights @ features.float().flatten(2).transpose(1, 2)


def log_sigmoid(maps: Tensor) -> Tensor:
    """Return the logarithm of the sigmoid of maps.

    In exported graphs, PyTorch's own function becomes the logarithm of a sigmoid that may be 0, and
    the result for a region without any cell is then NaN.
    """
    return -F.softplus(-maps)


def pool_predicted_masks(mask_embed: Tensor, features: Tensor) -> Tensor:
    """Like `pool_masks`, for masks that are not stored: their logits are the products of mask_embed
    (B, N, C) and features (B, C, h, w), computed here and again in the backward pass.

    Without gradients, or for few masks, `pool_masks` gives the same result with less work.
    """
    return _PredictedMaskMeans.apply(in_compute_type(mask_embed.detach()), features)


class _PredictedMaskMeans(torch.autograd.Function):
    """`pool_predicted_masks`, one image at a time, because the masks of all outputs of a decoder
    take 0.2 GB as bool."""

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
        """Return the masks (N, h*w) as bool, from embeddings (N, C) and maps (C, h, w)."""
        return embed @ maps.flatten(1).to(embed.dtype) > 0


def resample_to_padded_grid(
    masks: Tensor, image_size: tuple[int, int], padded_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Resample mask logits (P, h, w) that span an image to (P, *grid) that span the padded image.

    A cell gets the bilinearly interpolated value at its centre; cells whose centre is in the
    padding get `OUTSIDE`.

    image_size: (height, width) of the image in pixels, at the network's input.
    padded_size: (height, width) of the padded image in pixels.
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
