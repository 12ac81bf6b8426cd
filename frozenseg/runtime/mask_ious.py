"""Overlaps of masks, computed for all pairs at once."""

from torch import Tensor

PIXELS_AT_ONCE = 1 << 16  # masks are converted to float, which takes four times as much memory


def mask_ious(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (N, M) of bool masks (N, H, W) and (M, H, W); 0 for two empty masks."""
    shared = shared_pixels(first, second)
    areas = first.flatten(1).sum(1)[:, None] + second.flatten(1).sum(1)
    return shared / (areas - shared).clamp(min=1)


def covered_shares(first: Tensor, second: Tensor) -> Tensor:
    """Return the share of each mask of `first` that lies in each mask of `second`: (N, M), 0-1.

    The masks are as in `mask_ious`; the share of an empty mask is 0.
    """
    return shared_pixels(first, second) / first.flatten(1).sum(1).clamp(min=1)[:, None]


def shared_pixels(first: Tensor, second: Tensor) -> Tensor:
    """Return how many pixels two masks share: (N, M) float; the masks are as in `mask_ious`."""
    flat = zip(
        first.flatten(1).split(PIXELS_AT_ONCE, 1),
        second.flatten(1).split(PIXELS_AT_ONCE, 1),
        strict=True,
    )
    return sum(one.float() @ other.float().T for one, other in flat)
