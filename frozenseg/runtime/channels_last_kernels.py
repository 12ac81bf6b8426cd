"""The Triton kernels of `channels_last`: maps (B, h, w, C) whose channels are last in memory.

This module is imported only if Triton is installed. All arithmetic is in float32, whatever the
dtype of the maps.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-any-return"

import triton
import triton.language as tl


@triton.jit
def _normed(total, channel, known, scale, shift, eps, CHANNELS: tl.constexpr):
    """Normalise (n, C) values over the channels; padding channels are ignored."""
    mean = tl.sum(total, axis=1) / CHANNELS
    centred = tl.where(known, total - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / CHANNELS
    normed = centred * tl.rsqrt(variance + eps)[:, None]
    normed *= tl.load(scale + channel, mask=known, other=0).to(tl.float32)
    return normed + tl.load(shift + channel, mask=known, other=0).to(tl.float32)


@triton.jit
def depthwise_norm(
    maps,
    taps,
    bias,
    scale,
    shift,
    output,
    height,
    width,
    eps,
    CHANNELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute a depthwise 7 x 7 convolution, followed by the norm over channels.

    A program computes several columns of four rows, with all their channels. It loads ten rows of
    cells, and each loaded cell contributes to up to four sums. taps: (49, C), the weights of the
    convolution. scale, shift: (C,), parameters of the norm.
    """
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row = tl.program_id(1) * 4
    first_row = tl.program_id(2).to(tl.int64) * height  # the image's first row
    channel = tl.arange(0, BLOCK_CHANNELS)
    known = channel < CHANNELS
    sum0 = tl.zeros((BLOCK_COLUMNS, BLOCK_CHANNELS), dtype=tl.float32)
    sum0 += tl.load(bias + channel, mask=known, other=0).to(tl.float32)
    sum1, sum2, sum3 = sum0, sum0, sum0
    for right in range(7):
        x = column + right - 3
        inside = ((x >= 0) & (x < width))[:, None] & known
        # The weights for the loaded row in the first sum, and those loaded for the last three rows.
        tap = tl.zeros((BLOCK_CHANNELS,), dtype=tl.float32)
        tap1, tap2, tap3 = tap, tap, tap
        for below in tl.static_range(10):
            y = row + below - 3
            mask = inside & (y >= 0) & (y < height)
            cell = (first_row + y) * width + x
            tile = tl.load(maps + cell[:, None] * CHANNELS + channel, mask=mask, other=0)
            tile = tile.to(tl.float32)
            tap3 = tap2
            tap2 = tap1
            tap1 = tap
            if below < 7:
                source = taps + (below * 7 + right) * CHANNELS + channel
                tap = tl.load(source, mask=known, other=0).to(tl.float32)
                sum0 += tile * tap
            if below >= 1 and below < 8:
                sum1 += tile * tap1
            if below >= 2 and below < 9:
                sum2 += tile * tap2
            if below >= 3:
                sum3 += tile * tap3
    place = (first_row + row) * width + column
    target = output + place[:, None] * CHANNELS + channel
    mask = (column < width)[:, None] & known
    kind = output.dtype.element_ty
    step = width * CHANNELS
    normed = _normed(sum0, channel, known, scale, shift, eps, CHANNELS)
    tl.store(target, normed.to(kind), mask=mask)
    normed = _normed(sum1, channel, known, scale, shift, eps, CHANNELS)
    tl.store(target + step, normed.to(kind), mask=mask & (row + 1 < height))
    normed = _normed(sum2, channel, known, scale, shift, eps, CHANNELS)
    tl.store(target + 2 * step, normed.to(kind), mask=mask & (row + 2 < height))
    normed = _normed(sum3, channel, known, scale, shift, eps, CHANNELS)
    tl.store(target + 3 * step, normed.to(kind), mask=mask & (row + 3 < height))


@triton.jit
def group_sums(
    maps,
    sums,
    cells,
    CHANNELS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Sum the channels, and their squares, over one of PARTS parts of an image's cells.

    The values of the image's first cell are subtracted first, because with a large mean the
    variance would be lost in the sum of squares. C is a power of two. sums: (B, PARTS, 2, C)
    float32.
    """
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    maps += image * cells * CHANNELS
    pivot = tl.load(maps + channel).to(tl.float32)
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    squares = tl.zeros((CHANNELS,), dtype=tl.float32)
    for start in range(part * BLOCK_CELLS, cells, PARTS * BLOCK_CELLS):
        cell = start + tl.arange(0, BLOCK_CELLS)
        mask = (cell < cells)[:, None]
        tile = tl.load(maps + cell[:, None] * CHANNELS + channel, mask=mask, other=0)
        tile = tl.where(mask, tile.to(tl.float32) - pivot, 0.0)
        total += tl.sum(tile, axis=0)
        squares += tl.sum(tile * tile, axis=0)
    target = sums + (image * PARTS + part) * 2 * CHANNELS + channel
    tl.store(target, total)
    tl.store(target + CHANNELS, squares)


@triton.jit
def group_factors(
    sums,
    maps,
    scale,
    shift,
    factors,
    cells,
    eps,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Compute the factor and the offset by which a group norm changes each channel, from the sums
    of `group_sums`.

    A program handles complete groups of one image. PARTS and GROUP, the number of channels per
    group, are powers of two. factors: (B, 2, C) float32.
    """
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_CHANNELS
    channel = first + tl.arange(0, BLOCK_CHANNELS)
    part = image * PARTS + tl.arange(0, PARTS)
    source = sums + part[:, None] * 2 * CHANNELS + channel
    total = tl.sum(tl.load(source), axis=0)
    squares = tl.sum(tl.load(source + CHANNELS), axis=0)
    pivot = tl.load(maps + image * cells * CHANNELS + channel).to(tl.float32)
    means = total / cells  # relative to the pivot
    # The variance of a group: the variance within its channels, plus that of their means.
    groups: tl.constexpr = BLOCK_CHANNELS // GROUP
    within = tl.reshape(squares / cells - means * means, (groups, GROUP))
    of_channels = tl.reshape(means + pivot, (groups, GROUP))
    mean = tl.sum(of_channels, axis=1) / GROUP
    centred = of_channels - mean[:, None]
    variance = (tl.sum(within, axis=1) + tl.sum(centred * centred, axis=1)) / GROUP
    place = first + tl.arange(0, groups)[:, None] * GROUP + tl.arange(0, GROUP)
    factor = tl.rsqrt(variance + eps)[:, None] * tl.load(scale + place).to(tl.float32)
    number = tl.load(shift + place).to(tl.float32) - mean[:, None] * factor
    target = factors + image * 2 * CHANNELS + place
    tl.store(target, factor)
    tl.store(target + CHANNELS, number)


@triton.jit
def scale_and_shift(
    maps,
    factors,
    output,
    cells,
    RELU: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    """Multiply each channel by a factor and add an offset. factors: (B, 2, C) float32."""
    image = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    channel = tl.arange(0, CHANNELS)
    factor = tl.load(factors + image * 2 * CHANNELS + channel)
    number = tl.load(factors + (image * 2 + 1) * CHANNELS + channel)
    place = (image * cells + cell)[:, None] * CHANNELS + channel
    mask = (cell < cells)[:, None]
    tile = tl.load(maps + place, mask=mask, other=0).to(tl.float32) * factor + number
    if RELU:
        tile = tl.maximum(tile, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(output + place, tile.to(output.dtype.element_ty), mask=mask)
