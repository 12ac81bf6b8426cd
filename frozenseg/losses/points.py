"""Random points at which masks are compared, and the values of masks at points.

A mask loss over all pixels takes much memory. Mask2Former (arXiv 2112.01527, section 3.3) therefore
compares predicted and annotated masks at several thousand points, following PointRend (arXiv
1912.08193).

Points are (x, y) in [0, 1]^2 over the padded image, whose corners are at 0 and 1; with W columns,
the centre of the first column is at 0.5 / W.

Legend: B images, R streams of points, M masks, P points, C maps that share points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64: 2^64 / golden ratio, odd


def stream_keys(seeds: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
    """Return the keys (R,) of random streams: stream numbers[r] of the image images[r].

    seeds (B,), images (R,) and numbers (R,) are int64. The streams of an image depend only on its
    own seed, so they are the same however a batch is split over passes and processes.
    """
    return _mix(seeds[images] + GOLDEN * (numbers + 1))


def random_points(keys: Tensor, count: int) -> Tensor:
    """Return the first `count` uniform points (*keys.shape, count, 2) of each stream; keys are
    int64.

    The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
    2014). The i-th number of a stream is a hash of key + i * GOLDEN, so all numbers are computed at
    once, and they are equal on every device.
    """
    steps = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    bits = _mix(keys.unsqueeze(-1) + steps)
    # 24 bits for each coordinate, the precision of a float32 in [0, 1).
    return torch.stack((_right(bits, 40), _right(bits, 16) & 0xFFFFFF), dim=-1).float() * 2.0**-24


def _mix(bits: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64; it relies on int64 products wrapping around."""
    bits = (bits ^ _right(bits, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as int64
    bits = (bits ^ _right(bits, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB as int64
    return bits ^ _right(bits, 31)


def _right(bits: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros; PyTorch's own shift would copy the sign bit."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Sample maps (M, C, h, w) bilinearly at points (M, P, 2): (M, C, P), float32.

    Outside the maps the values are 0.
    """
    grid = (2 * points - 1).unsqueeze(1)  # (M, 1, P, 2) in [-1, 1]
    return F.grid_sample(logits.float(), grid, align_corners=False).squeeze(2)


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Sample masks bilinearly: the values (R, P), 0-1, of `masks[rows[r]]` at points (R, P, 2).

    The arithmetic is the same as in `sample_logits`, but only the four neighbours of each point are
    read: masks at full resolution are neither copied nor converted to float. masks: (M, H, W) bool.
    """
    height, width = masks.shape[-2:]
    pixel_x, pixel_y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    column, row = pixel_x.floor().long(), pixel_y.floor().long()
    right, below = pixel_x - column, pixel_y - row  # weights of the right and lower neighbours
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
    keys: Tensor,
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
) -> Tensor:
    """Return points (M, num_points, 2) for masks (M, h, w), most of them where a mask is uncertain.

    Of num_points * oversample_ratio random points, the num_points * importance_sample_ratio points
    with logits closest to 0 are kept; the remaining points are further random points (PointRend,
    section 3.1).

    keys: (M,), the key of each mask's random stream.
    """
    num_candidates = int(num_points * oversample_ratio)
    num_uncertain = int(num_points * importance_sample_ratio)
    num_rest = num_points - num_uncertain
    candidates, rest = random_points(keys, num_candidates + num_rest).split(
        [num_candidates, num_rest], dim=1
    )
    uncertainty = -sample_logits(mask_logits.unsqueeze(1), candidates).squeeze(1).abs()
    chosen = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices  # (M, num_uncertain)
    uncertain = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([uncertain, rest], dim=1)
