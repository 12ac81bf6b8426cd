"""How much masks overlap, all pairs at once."""

from torch import Tensor

PIXELS_AT_ONCE = 1 << 16  # masks become floats, which take four times as much memory


def mask_ious(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (N, M) of bool masks (N, H, W) and (M, H, W); 0 of two empty ones."""
    flat = zip(
        first.flatten(1).split(PIXELS_AT_ONCE, 1),
        second.flatten(1).split(PIXELS_AT_ONCE, 1),
        strict=True,
    )
    shared = sum(one.float() @ other.float().T for one, other in flat)
    areas = first.flatten(1).sum(1)[:, None] + second.flatten(1).sum(1)
    return shared / (areas - shared).clamp(min=1)
