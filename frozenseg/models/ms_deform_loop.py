"""Deformable attention by PyTorch's `grid_sample`, level by level; it runs on every device.

Legend: N images, L queries, V levels, P points, M heads, D channels per head, S cells in total.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def loop_over_levels(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute `deformable_attention` for tensors of one dtype; returns (N, L, M * D)."""
    batch, length, heads = weights.shape[:3]
    output = value.new_zeros(batch * heads, value.shape[-1], length)
    maps, grids = _maps(value, shapes), _grids(locations)
    for level, grid in enumerate(grids):
        sampled = F.grid_sample(
            maps[level], grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (N*M, D, L, P)
        output = output + (sampled * _weights_of(weights, level)).sum(-1)
    return output.view(batch, -1, length).transpose(1, 2)


def loop_gradients(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights in `loop_over_levels`.

    grad: (N, L, M * D), the gradient of the output. Autograd is not used, because it cannot record
    inside a custom operator.
    """
    batch, length, heads = weights.shape[:3]
    by_output = grad.transpose(1, 2).reshape(batch * heads, -1, length, 1)  # (N*M, D, L, 1)
    by_value, by_locations, by_weights = [], [], []
    for level, (maps, grid) in enumerate(zip(_maps(value, shapes), _grids(locations), strict=True)):
        sampled = torch.ops.aten.grid_sampler_2d(maps, grid, 0, 0, False)
        by_maps, by_grid = torch.ops.aten.grid_sampler_2d_backward(
            by_output * _weights_of(weights, level), maps, grid, 0, 0, False, (True, True)
        )
        by_value.append(by_maps.view(batch, heads, value.shape[-1], -1).permute(0, 3, 1, 2))
        by_locations.append(_by_query(2 * by_grid, batch))
        by_weights.append(_by_query((sampled * by_output).sum(1), batch))
    return torch.cat(by_value, 1), torch.stack(by_locations, 3), torch.stack(by_weights, 3)


def _maps(value: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """(N, S, M, D) -> (N*M, D, h, w) for each level."""
    levels = value.split([height * width for height, width in shapes], dim=1)
    return [
        level.permute(0, 2, 3, 1).reshape(-1, value.shape[-1], *shape)
        for level, shape in zip(levels, shapes, strict=True)
    ]


def _grids(locations: Tensor) -> Tensor:
    """(N, L, M, V, P, 2) in 0-1 -> (V, N*M, L, P, 2) in -1 to 1, as `grid_sample` expects."""
    return (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)


def _weights_of(weights: Tensor, level: int) -> Tensor:
    """(N, L, M, V, P) -> (N*M, 1, L, P)."""
    return weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)


def _by_query(tensor: Tensor, batch: int) -> Tensor:
    """(N*M, L, ...) -> (N, L, M, ...)."""
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2)
