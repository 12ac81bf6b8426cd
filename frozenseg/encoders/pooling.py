"""Mask pooling, and masks on the grid of a padded image; used by encoders and decoders."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime.precision import in_float32

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
        pooled = _MaskedSum.apply(inside, features.flatten(2).transpose(1, 2))
    return pooled / (areas + 1e-8)  # 1e-8: as published; matters only for empty masks


class _MaskedSum(torch.autograd.Function):
    """The product of masks (B, Q, L) bool and features (B, L, C).

    It keeps the masks as bool for the backward pass, a quarter of the memory of float masks.
    """

    @staticmethod
    def forward(ctx: Any, inside: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return inside.to(features.dtype) @ features

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (inside,) = ctx.saved_tensors
        return None, inside.to(grad.dtype).transpose(1, 2) @ grad


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
