"""Random points at which masks are compared, and values of masks at them.

A mask loss over all pixels costs much memory; Mask2Former (arXiv 2112.01527, section 3.3) compares
predicted and annotated masks at some thousand points instead, as PointRend (arXiv 1912.08193).

Points are (x, y) in [0, 1]^2 of the padded image: its corners are at 0 and 1, the centre of the
first of W columns at 0.5 / W. Legend: M masks, P points, C maps that share points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_points(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Uniform points (*shape, 2). The generator, if given, lives on `device`."""
    return torch.rand(*shape, 2, device=device, generator=generator)


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear values (M, C, P) float32 of maps (M, C, h, w) at points (M, P, 2); zero outside."""
    grid = (2 * points - 1).unsqueeze(1)  # (M, 1, P, 2) in [-1, 1]
    return F.grid_sample(logits.float(), grid, align_corners=False).squeeze(2)


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Bilinear values (R, P) in 0-1 of masks (M, H, W) bool: `masks[rows[r]]` at points (R, P, 2).

    The same arithmetic as `sample_logits`, but it reads only the four neighbours of each point:
    masks at full resolution are neither copied per row nor turned into floats.
    """
    height, width = masks.shape[-2:]
    pixel_x, pixel_y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    column, row = pixel_x.floor().long(), pixel_y.floor().long()
    right, below = pixel_x - column, pixel_y - row  # weights of the further neighbours
    offset = (rows * (height * width)).unsqueeze(-1)
    flat = masks.flatten()
    values = torch.zeros_like(right)
    for x, weight_x in ((column, 1 - right), (column + 1, right)):
        for y, weight_y in ((row, 1 - below), (row + 1, below)):
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = offset + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            values += weight_x * weight_y * (flat[index] & inside)
    return values


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points (M, num_points, 2) for the masks (M, h, w), most of them where a mask is uncertain.

    Of num_points * oversample_ratio random points, those with the logit nearest to 0 are kept, as
    many as num_points * importance_sample_ratio; the rest is drawn anew (PointRend, section 3.1).
    """
    num_masks, device = len(mask_logits), mask_logits.device
    num_candidates = int(num_points * oversample_ratio)
    num_uncertain = int(num_points * importance_sample_ratio)
    candidates = random_points((num_masks, num_candidates), device, generator)
    uncertainty = -sample_logits(mask_logits.unsqueeze(1), candidates).squeeze(1).abs()
    chosen = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices  # (M, num_uncertain)
    uncertain = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
    rest = random_points((num_masks, num_points - num_uncertain), device, generator)
    return torch.cat([uncertain, rest], dim=1)
