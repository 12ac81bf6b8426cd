"""Deformable attention as Triton kernels, for CUDA: no samples are stored, forward or backward.

Imported only where Triton is. A program takes some (image, query, head) triples ("bags") and all
their samples, a tile of bags x channels at a time. All arithmetic and the gradients' sums are in
float32, whatever the inputs are.

Legend: N images, L queries, V levels, P points, M heads, D channels a head, S cells of all levels.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-any-return"

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from frozenseg.models.ms_deform_operator import connect

TILE = 512  # bags x channels of a program: four numbers a thread at Triton's default of four warps


@torch.library.custom_op("frozenseg::deformable_triton", mutates_args=())
def deformable_triton(
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """`deformable_attention` in one kernel; the levels' sizes come as two lists.

    value (N, S, M, D), locations (N, L, M, V, P, 2), weights (N, L, M, V, P), each in float32,
    float16 or bfloat16. Returns (N, L, M * D) in the type of the value.
    """
    batch, length, heads = weights.shape[:3]
    output = value.new_empty(batch, length, heads * value.shape[-1])
    if output.numel():
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        levels = _level_table(tuple(heights), tuple(widths), value.device)
        grid, sizes = _launch(value, weights)
        with torch.cuda.device_of(value):
            _forward[grid](value, levels, locations, weights, output, **sizes)
    return output


@torch.library.custom_op("frozenseg::deformable_triton_backward", mutates_args=())
def deformable_triton_backward(
    grad: Tensor,
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by value, locations and weights; grad (N, L, M * D) is that of the output.

    Many samples share a cell, so the value's gradient is summed with atomic additions, in an order
    that differs from run to run: its last digits do too.
    """
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.zeros_like(locations), torch.zeros_like(weights)
    if grad.numel():
        levels = _level_table(tuple(heights), tuple(widths), value.device)
        grid, sizes = _launch(value, weights)
        results = (grad_value, grad_locations, grad_weights)
        with torch.cuda.device_of(value):
            _backward[grid](grad.contiguous(), value, levels, locations, weights, *results, **sizes)
    return grad_value.to(value.dtype, copy=False), grad_locations, grad_weights


@functools.lru_cache(maxsize=64)  # else a copy to the device, layer by layer
def _level_table(heights: tuple[int, ...], widths: tuple[int, ...], device: torch.device) -> Tensor:
    """(V, 3): height, width and first cell of each level."""
    rows, start = [], 0
    for height, width in zip(heights, widths, strict=True):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _launch(value: Tensor, weights: Tensor) -> tuple[tuple[int], dict[str, int]]:
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


@triton.jit
def _sample(locations, weights, number, height, width, inside):
    """Position in cells from the first cell's centre, and weight, of the samples `number`."""
    x = tl.load(locations + 2 * number, mask=inside, other=0).to(tl.float32) * width - 0.5
    y = tl.load(locations + 2 * number + 1, mask=inside, other=0).to(tl.float32) * height - 0.5
    return x, y, tl.load(weights + number, mask=inside, other=0).to(tl.float32)


@triton.jit
def _corner(x, y, right, below, height, width, inside):
    """One of the four cells around (x, y): its index, bilinear shares, and whether it exists."""
    column = tl.floor(x) + right
    row = tl.floor(y) + below
    exists = (column >= 0) & (column < width) & (row >= 0) & (row < height) & inside
    # Where nothing exists the position may be infinite: it must not reach the index.
    cell = tl.where(exists, row, 0).to(tl.int32) * width + tl.where(exists, column, 0).to(tl.int32)
    return cell, 1 - tl.abs(x - column), 1 - tl.abs(y - row), exists


@triton.jit
def _forward(
    value,
    level_table,
    locations,
    weights,
    output,
    cells,
    length,
    bags,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_BAGS: tl.constexpr,
):
    bag = tl.program_id(0).to(tl.int64) * BLOCK_BAGS + tl.arange(0, BLOCK_BAGS)
    inside = bag < bags
    first = bag // (length * heads) * cells * heads + bag % heads  # row of the image's first cell
    channel = tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros((BLOCK_BAGS, BLOCK_CHANNELS), dtype=tl.float32)
    for level in range(LEVELS):
        height = tl.load(level_table + 3 * level)
        width = tl.load(level_table + 3 * level + 1)
        start = tl.load(level_table + 3 * level + 2)
        for point in range(POINTS):
            number = (bag * LEVELS + level) * POINTS + point
            x, y, weight = _sample(locations, weights, number, height, width, inside)
            lost = (x != x) | (y != y)  # not a number: the result is none either
            for corner in tl.static_range(4):
                cell, share_x, share_y, exists = _corner(
                    x, y, corner % 2, corner // 2, height, width, inside
                )
                share = tl.where(exists | lost, share_x * share_y * weight, 0)
                row = first + (start + cell) * heads
                tile = tl.load(
                    value + row[:, None] * CHANNELS + channel,
                    mask=exists[:, None] & (channel < CHANNELS),
                    other=0,
                )
                total += share[:, None] * tile.to(tl.float32)
    tl.store(
        output + bag[:, None] * CHANNELS + channel,
        total.to(output.dtype.element_ty),
        mask=inside[:, None] & (channel < CHANNELS),
    )


@triton.jit
def _backward(
    grad,
    value,
    level_table,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    cells,
    length,
    bags,
    heads,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_BAGS: tl.constexpr,
):
    bag = tl.program_id(0).to(tl.int64) * BLOCK_BAGS + tl.arange(0, BLOCK_BAGS)
    inside = bag < bags
    first = bag // (length * heads) * cells * heads + bag % heads
    channel = tl.arange(0, BLOCK_CHANNELS)
    out = tl.load(
        grad + bag[:, None] * CHANNELS + channel,
        mask=inside[:, None] & (channel < CHANNELS),
        other=0,
    ).to(tl.float32)
    for level in range(LEVELS):
        height = tl.load(level_table + 3 * level)
        width = tl.load(level_table + 3 * level + 1)
        start = tl.load(level_table + 3 * level + 2)
        for point in range(POINTS):
            number = (bag * LEVELS + level) * POINTS + point
            x, y, weight = _sample(locations, weights, number, height, width, inside)
            by_x = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            by_y = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            by_weight = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            for corner in tl.static_range(4):
                cell, share_x, share_y, exists = _corner(
                    x, y, corner % 2, corner // 2, height, width, inside
                )
                share_x = tl.where(exists, share_x, 0)
                share_y = tl.where(exists, share_y, 0)
                offsets = (first + (start + cell) * heads)[:, None] * CHANNELS + channel
                mask = exists[:, None] & (channel < CHANNELS)
                tile = tl.load(value + offsets, mask=mask, other=0).to(tl.float32)
                tl.atomic_add(
                    grad_value + offsets,
                    (share_x * share_y * weight)[:, None] * out,
                    mask=mask,
                    sem="relaxed",
                )
                dot = tl.sum(tile * out, axis=1)
                by_weight += share_x * share_y * dot
                # A corner's share grows towards it: +1 a cell for the right one, -1 for the left.
                by_x += (2 * (corner % 2) - 1) * share_y * dot
                by_y += (2 * (corner // 2) - 1) * share_x * dot
            kind = grad_locations.dtype.element_ty
            tl.store(grad_locations + 2 * number, (by_x * weight * width).to(kind), mask=inside)
            tl.store(
                grad_locations + 2 * number + 1, (by_y * weight * height).to(kind), mask=inside
            )
            tl.store(
                grad_weights + number, by_weight.to(grad_weights.dtype.element_ty), mask=inside
            )


connect(deformable_triton, deformable_triton_backward)
