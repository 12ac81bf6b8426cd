"""The loss of Fusioner (arXiv 2210.15138): binary cross entropy of each class and labelled pixel.

It is averaged within each image, so all images have the same weight, whatever share of their pixels
is labelled.

Legend: B images, K queried classes, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_losses(logits: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean binary cross entropy (B,) over the labelled pixels and the queried classes.

    logits: (B, K, h, w); they span the same area as the targets and are resized to them bilinearly.
    targets: (B, K, H, W) bool.
    labelled: (B, H, W) bool, the pixels that count; an image without any has the loss 0.
    """
    with torch.autocast(logits.device.type, enabled=False):  # losses are computed in float32
        resized = F.interpolate(
            logits.float(), size=targets.shape[-2:], mode="bilinear", align_corners=False
        )
        losses = F.binary_cross_entropy_with_logits(
            resized, targets.to(resized.dtype), reduction="none"
        )
        sums = (losses * labelled[:, None]).flatten(1).sum(1)
        return sums / (labelled.flatten(1).sum(1) * targets.shape[1]).clamp(min=1)
