"""Points and boxes that prompt SAM.

Legend: M masks, s x s pixels of a low-resolution mask, N points. Points and boxes are (x, y) in
pixels of SAM's square input, which is 2 s wide.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

BOX_NOISE, MOST_BOX_NOISE = 0.1, 20.0  # share of a side; pixels of 1024 (SAM's appendix A)


def sample_points(
    where: Tensor, truth: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a pixel of each (M, s, s) bool mask uniformly: points (M, 1, 2), labels (M, 1) float.

    where: the masks to draw from; if one is empty, any pixel may be drawn. Labels are 1 inside
    `truth`.
    """
    flat = where.flatten(1).float()
    flat = torch.where(flat.sum(dim=1, keepdim=True) > 0, flat, 1.0)  # empty mask
    indices = torch.multinomial(flat, 1, generator=generator)  # (M, 1)
    return _points(indices, truth.shape[-1]), truth.flatten(1).gather(1, indices).float()


def middle_points(truth: Tensor) -> Tensor:
    """Return the point (M, 1, 2) of each mask farthest from its border, for SAM's single click."""
    indices = [
        int(cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1].argmax())
        for mask in truth.cpu().numpy().astype(np.uint8)
    ]
    return _points(torch.tensor(indices, device=truth.device)[:, None], truth.shape[-1])


def _points(indices: Tensor, side: int) -> Tensor:
    """Turn flat indices (M, N) of low-resolution pixels into points (M, N, 2) of SAM's input.

    A low-resolution pixel spans two of the input; SAM itself adds the half pixel to its centre.
    """
    x, y = indices % side, indices // side
    return torch.stack([x, y], dim=-1).float() * 2 + 0.5


def noisy_boxes(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Return the boxes (M, 4) of the masks in SAM's input, with noise of a tenth of the box."""
    side = truth.shape[-1]
    columns, rows = truth.any(dim=1).int(), truth.any(dim=2).int()  # (M, s)
    low = torch.stack([columns.argmax(dim=1), rows.argmax(dim=1)], dim=1)
    high = side - torch.stack([columns.flip(1).argmax(dim=1), rows.flip(1).argmax(dim=1)], dim=1)
    boxes = 2 * torch.cat([low, high], dim=1).float()
    spread = BOX_NOISE * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn(boxes.shape, generator=generator, device=boxes.device) * spread
    most = MOST_BOX_NOISE * 2 * side / 1024
    return (boxes + noise.clamp(-most, most)).clamp(0, 2 * side)
