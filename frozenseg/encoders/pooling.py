"""Mean of features under masks; used by the encoders and by the decoder."""

from torch import Tensor


def pool_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean of features (B, C, h, w) over the cells where mask_logits (B, Q, h, w) > 0: (B, Q, C).

    A mask without a positive cell pools to zero. No gradient reaches the masks.
    """
    masks = (mask_logits.detach() > 0).to(features.dtype).flatten(2)
    areas = masks.sum(-1, keepdim=True)
    pooled = masks @ features.flatten(2).transpose(1, 2)
    return pooled / (areas + 1e-8)  # 1e-8: as published; matters only for empty masks
