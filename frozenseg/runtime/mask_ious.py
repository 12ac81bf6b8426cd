"""How much masks overlap, all pairs at once."""

from torch import Tensor

PIXELS_AT_ONCE = 1 << 16  # masks become floats, which take four times as much memory


def mask_ious(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (N, M) of bool masks (N, H, W) and (M, H, W); 0 of two empty ones."""
    shared = shared_pixels(first, second)
    areas = first.flatten(1).sum(1)[:, None] + second.flatten(1).sum(1)
    return shared / (areas - shared).clamp(min=1)


def covered_shares(first: Tensor, second: Tensor) -> Tensor:
    """Return how much of each of `first` lies in each of `second`: (N, M), 0-1; 0 of empty ones.

    The masks are those of `mask_ious`.
    """
    return shared_pixels(first, second) / first.flatten(1).sum(1).clamp(min=1)[:, None]


def shared_pixels(first: Tensor, second: Tensor) -> Tensor:
    """Return how many pixels two masks share: (N, M) float of bool masks as of `mask_ious`."""
    flat = zip(
        first.flatten(1).split(PIXELS_AT_ONCE, 1),
        second.flatten(1).split(PIXELS_AT_ONCE, 1),
        strict=True,
    )
    return sum(one.float() @ other.float().T for one, other in flat)
