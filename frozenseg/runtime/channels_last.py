"""Norms of feature maps whose channels are last in memory, by Triton kernels on CUDA.

PyTorch's depthwise convolution, followed by the norm over channels, takes two to three times as
long as the kernel of this module; its group norm, which copies such maps, takes up to five times as
long (logs/gpu/README.md). The kernels are for half precision without gradients.

Legend: B images, C channels, h x w cells.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.runtime.triton_launch import kernels_work, launch, runs_triton

PART = "norms of features"  # the name of these operations in warnings
TILE = 1024  # values of a row that a program holds at once, for each of its four rows
MOST_CHANNELS = 4096
GROUP_TILE = 8192  # values that a program of `group_norm`, with eight warps, holds at once
SUM_PARTS = 256  # parts of an image that are summed in parallel, two for each multiprocessor


def runs_kernels(maps: Tensor) -> bool:
    """Return whether the kernels of this module support maps (B, C, h, w)."""
    return (
        maps.dtype in (torch.float16, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and 0 < maps.shape[1] <= MOST_CHANNELS
        and maps.numel() > 0
        and runs_triton(maps)
        and kernels_work(PART)
    )


def groups_are_powers_of_two(channels: int, groups: int) -> bool:
    """Return whether both numbers are powers of two, as `group_norm` requires."""
    return channels == _power_of_two(channels) and groups == _power_of_two(groups)


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether `depthwise_layer_norm` supports this convolution."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == layer.in_channels == layer.out_channels
        and layer.kernel_size == (7, 7)
        and layer.padding == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.bias is not None
    )


@torch.library.custom_op("frozenseg::depthwise_layer_norm", mutates_args=())
def depthwise_layer_norm(
    cells: Tensor, taps: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """Compute a depthwise 7 x 7 convolution, followed by a layer norm over channels.

    cells: (B, h, w, C), contiguous. taps: (7, 7, C), contiguous, the weights of the convolution,
    which pads with 3 zeros. bias: (C,). scale, shift, eps: parameters of the norm. Returns (B, h,
    w, C).
    """
    output = torch.empty_like(cells)
    batch, height, width, channels = cells.shape
    block = _power_of_two(channels)
    columns = max(1, min(TILE // block, _power_of_two(width)))
    if launch(
        PART,
        _kernels().depthwise_norm,
        (-(-width // columns), -(-height // 4), batch),
        *(cells, taps, bias, scale, shift, output, height, width, eps),
        instead="PyTorch's convolution and norm are used instead",
        CHANNELS=channels,
        BLOCK_CHANNELS=block,
        BLOCK_COLUMNS=columns,
        num_warps=4 if block <= TILE else 8,
    ):
        return output
    weight = taps.permute(2, 0, 1)[:, None]
    mixed = F.conv2d(cells.permute(0, 3, 1, 2), weight, bias, padding=3, groups=channels)
    normed = F.layer_norm(mixed.permute(0, 2, 3, 1), (channels,), scale, shift, eps)
    return normed.contiguous()


@depthwise_layer_norm.register_fake
def _(
    cells: Tensor, taps: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    return torch.empty_like(cells)


@torch.library.custom_op("frozenseg::group_norm", mutates_args=())
def group_norm(
    maps: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, relu: bool
) -> Tensor:
    """Compute PyTorch's group norm of maps (B, C, h, w), then ReLU if requested.

    The result has its channels last in memory. C and `groups` must be powers of two.
    """
    maps = maps.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = maps.shape
    cells, block = height * width, max(1, GROUP_TILE // channels)
    of_group = channels // groups
    sums = maps.new_empty((batch, SUM_PARTS, 2, channels), dtype=torch.float32)
    factors = maps.new_empty((batch, 2, channels), dtype=torch.float32)
    output = torch.empty_like(maps)
    run = functools.partial(
        launch, PART, instead="PyTorch's group norm is used instead", CHANNELS=channels, num_warps=8
    )
    kernels = _kernels()
    if (
        run(
            kernels.group_sums,
            (SUM_PARTS, batch),
            *(maps, sums, cells),
            PARTS=SUM_PARTS,
            BLOCK_CELLS=block,
        )
        and run(
            kernels.group_factors,
            (channels // max(of_group, min(32, channels)), batch),
            *(sums, maps, scale, shift, factors, cells, eps),
            GROUP=of_group,
            PARTS=SUM_PARTS,
            BLOCK_CHANNELS=max(of_group, min(32, channels)),
        )
        and run(
            kernels.scale_and_shift,
            (-(-cells // block), batch),
            *(maps, factors, output, cells),
            RELU=relu,
            BLOCK_CELLS=block,
        )
    ):
        return output
    normed = F.group_norm(maps, groups, scale, shift, eps)
    return (normed.relu() if relu else normed).contiguous(memory_format=torch.channels_last)


@group_norm.register_fake
def _(maps: Tensor, groups: int, scale: Tensor, shift: Tensor, eps: float, relu: bool) -> Tensor:
    return torch.empty_like(maps, memory_format=torch.channels_last)


@functools.cache
def _kernels() -> Any:
    from frozenseg.runtime import channels_last_kernels

    return channels_last_kernels


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
