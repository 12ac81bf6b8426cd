"""The loss of Fusioner: each class is a yes-or-no question at every labelled pixel.

Binary cross entropy over non-ignored pixels, one sample at a time: images weigh the
same however much of them is labelled. Legend: B images, K classes asked, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_losses(logits: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    """Mean binary cross entropy of each image (B,), over its labelled pixels and its classes.

    logits: (B, K, h, w) over the same area as the targets, resized to them bilinearly. targets:
    (B, K, H, W) bool. labelled: (B, H, W) bool, pixels that count. An image without any has 0.
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
