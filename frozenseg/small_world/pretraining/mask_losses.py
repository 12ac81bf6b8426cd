"""SAM's losses: focal and dice for the mask, squared error for the IoU that SAM predicts for it.

Legend: M masks, K alternatives for each, s x s pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0  # arXiv 2304.02643, appendix A
FOCAL_GAMMA = 2.0
# Weight of the inside of a mask, the smaller part of an image. With RetinaNet's 0.25 all masks had
# shrunk to nothing after 40 steps of training from scratch.
FOCAL_ALPHA = 0.75


def mask_losses(logits: Tensor, quality: Tensor, truth: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Compute focal, dice and IoU losses of (M, K, s, s) logits against (M, s, s) masks.

    quality: (M, K) the predicted IoU. Of several alternatives, only the one with the smallest focal
    and dice loss counts, but all learn their IoU. Also returns the logits (M, s, s) of the
    alternatives with the highest predicted IoU.
    """
    logits, target = logits.float(), truth[:, None].float().expand_as(logits)
    focal = _focal(logits, target).flatten(2).mean(-1)  # (M, K)
    probs = logits.sigmoid()
    shared = (probs * target).flatten(2).sum(-1)
    dice = 1 - (2 * shared + 1) / ((probs + target).flatten(2).sum(-1) + 1)
    least = (FOCAL_WEIGHT * focal + DICE_WEIGHT * dice).argmin(dim=1, keepdim=True)
    with torch.no_grad():
        overlap = iou(logits > 0, truth[:, None])
    losses = {
        "focal": focal.gather(1, least).mean(),
        "dice": dice.gather(1, least).mean(),
        "iou_error": F.mse_loss(quality.float(), overlap),
        "iou": overlap.gather(1, least).mean(),
    }
    best = quality.argmax(dim=1)
    return losses, logits[torch.arange(len(logits), device=logits.device), best]


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the focal loss (arXiv 1708.02002) elementwise."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = 1 - torch.exp(-entropy)
    weight = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return weight * missed**FOCAL_GAMMA * entropy


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Compute the IoU of bool masks (..., H, W) that broadcast; it is 0 where both are empty."""
    shared = (first & second).flatten(-2).sum(-1)
    return shared / (first | second).flatten(-2).sum(-1).clamp(min=1)
