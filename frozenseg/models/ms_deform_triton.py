"""Deformable attention on CUDA, by the Triton kernels of `ms_deform_kernels`.

This module is imported only if Triton is installed. If a kernel fails to compile or launch,
`ms_deform_loop` is used instead.

Legend: N images, L queries, V levels, P points, M heads, D channels per head, S cells in total.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from frozenseg.models.ms_deform_kernels import deformable_backward, deformable_forward
from frozenseg.models.ms_deform_loop import loop_gradients, loop_over_levels
from frozenseg.models.ms_deform_operator import connect
from frozenseg.runtime.triton_launch import launch

PART = "deformable attention"  # the name of this operation in warnings

# Bags x channels of a program: four numbers per thread with Triton's default of four warps.
TILE = 512


@torch.library.custom_op("frozenseg::deformable_triton", mutates_args=())
def deformable_triton(
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Compute `deformable_attention` in one kernel; heights and widths are those of the levels.

    value (N, S, M, D), locations (N, L, M, V, P, 2) and weights (N, L, M, V, P) are each in
    float32, float16 or bfloat16. Returns (N, L, M * D) with the dtype of `value`.
    """
    batch, length, heads = weights.shape[:3]
    output = value.new_empty(batch, length, heads * value.shape[-1])
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    levels = _level_table(tuple(heights), tuple(widths), value.device)
    if _run(deformable_forward, (value, levels, locations, weights, output), value, weights):
        return output
    shapes = list(zip(heights, widths, strict=True))
    output = loop_over_levels(value.float(), shapes, locations.float(), weights.float())
    return output.to(value.dtype).contiguous()


@torch.library.custom_op("frozenseg::deformable_triton_backward", mutates_args=())
def deformable_triton_backward(
    grad: Tensor,
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights; grad (N, L, M * D) is the gradient of
    the output.

    Many samples share a cell, so the gradient of `value` is summed by atomic additions. Their order
    differs from run to run, and so do the last digits of the result.
    """
    grad, value = grad.contiguous(), value.contiguous()
    locations, weights = locations.contiguous(), weights.contiguous()
    results = (
        torch.zeros_like(value, dtype=torch.float32),
        torch.zeros_like(locations),
        torch.zeros_like(weights),
    )
    levels = _level_table(tuple(heights), tuple(widths), value.device)
    inputs = (grad, value, levels, locations, weights)
    if not _run(deformable_backward, (*inputs, *results), value, weights):
        shapes = list(zip(heights, widths, strict=True))
        results = loop_gradients(
            grad.float(), value.float(), shapes, locations.float(), weights.float()
        )
    by_value, by_locations, by_weights = (
        result.to(tensor.dtype).contiguous()
        for result, tensor in zip(results, (value, locations, weights), strict=True)
    )
    return by_value, by_locations, by_weights


def _run(kernel: Any, tensors: tuple[Tensor, ...], value: Tensor, weights: Tensor) -> bool:
    """Launch a kernel and return whether it ran, or had nothing to do."""
    if not math.prod(weights.shape[:3]) * value.shape[3]:
        return True  # an empty grid cannot be launched
    grid, sizes = _grid_and_sizes(value, weights)
    return launch(
        PART, kernel, grid, *tensors, instead="PyTorch's grid_sample is used instead", **sizes
    )


# The cache saves a copy to the device in every layer. Recorded CUDA graphs also read these tables
# without keeping them alive, so none may be evicted. A table has a few bytes and serves all images
# of one padded size.
@functools.cache
def _level_table(heights: tuple[int, ...], widths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a table (V, 3): height, width and index of the first cell of each level."""
    rows, start = [], 0
    for height, width in zip(heights, widths, strict=True):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _grid_and_sizes(value: Tensor, weights: Tensor) -> tuple[tuple[int], dict[str, int]]:
    batch, length, heads, levels, points = weights.shape
    block_channels = triton.next_power_of_2(value.shape[3])
    block_bags = max(1, TILE // block_channels)
    sizes = {
        "cells": value.shape[1],
        "length": length,
        "bags": batch * length * heads,
        "heads": heads,
        "LEVELS": levels,
        "POINTS": points,
        "CHANNELS": value.shape[3],
        "BLOCK_CHANNELS": block_channels,
        "BLOCK_BAGS": block_bags,
    }
    return (triton.cdiv(sizes["bags"], block_bags),), sizes


connect(deformable_triton, deformable_triton_backward)
