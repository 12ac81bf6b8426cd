"""The Triton kernels of deformable attention; neither forward nor backward stores the samples.

This module is imported only if Triton is installed. A program processes several (image, query,
head) triples ("bags") with all their samples, as a tile of bags x channels. All arithmetic is in
float32, whatever the dtype of the inputs. The memory layouts and sizes are those of
`ms_deform_triton`.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-any-return"

import triton
import triton.language as tl


@triton.jit
def _position(locations, number, size, inside):
    """Convert locations, 0-1 over `size` cells, to cells from the centre of the first cell.

    Positions far outside the level, or infinite, are moved to just outside it: there no corner
    exists either, and the shares stay finite. NaN stays NaN.
    """
    position = tl.load(locations + number, mask=inside, other=0).to(tl.float32) * size - 0.5
    position = tl.maximum(position, -2.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(position, size + 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _corner(x, y, right, below, height, width):
    """Return one of the four cells around (x, y): its index, its bilinear shares along x and y, and
    whether it exists.

    The index is kept within the level by arithmetic, not by `tl.where`: Triton 3.6 and 3.7 fail to
    compile a selection per bag whose condition also masks a tile, because they lose its layout.
    """
    column = tl.floor(x) + right
    row = tl.floor(y) + below
    exists = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    near_column = tl.minimum(tl.maximum(column, 0.0), width - 1.0).to(tl.int32)
    near_row = tl.minimum(tl.maximum(row, 0.0), height - 1.0).to(tl.int32)
    return near_row * width + near_column, 1 - tl.abs(x - column), 1 - tl.abs(y - row), exists


@triton.jit
def deformable_forward(
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
    """Forward kernel: the weighted samples of each bag, summed over levels and points."""
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
            x = _position(locations, 2 * number, width, inside)
            y = _position(locations, 2 * number + 1, height, inside)
            weight = tl.load(weights + number, mask=inside, other=0).to(tl.float32)
            for corner in tl.static_range(4):
                cell, share_x, share_y, exists = _corner(
                    x, y, corner % 2, corner // 2, height, width
                )
                row = first + (start + cell) * heads
                # A cell that does not exist is read as zero, so its share has no effect unless the
                # share is NaN; then the result is NaN as well.
                tile = tl.load(
                    value + row[:, None] * CHANNELS + channel,
                    mask=(exists & inside)[:, None] & (channel < CHANNELS),
                    other=0,
                )
                total += (share_x * share_y * weight)[:, None] * tile.to(tl.float32)
    tl.store(
        output + bag[:, None] * CHANNELS + channel,
        total.to(output.dtype.element_ty),
        mask=inside[:, None] & (channel < CHANNELS),
    )


@triton.jit
def deformable_backward(
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
    """Backward kernel: gradients of value (atomic sums), locations and weights."""
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
            x = _position(locations, 2 * number, width, inside)
            y = _position(locations, 2 * number + 1, height, inside)
            weight = tl.load(weights + number, mask=inside, other=0).to(tl.float32)
            by_x = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            by_y = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            by_weight = tl.zeros((BLOCK_BAGS,), dtype=tl.float32)
            for corner in tl.static_range(4):
                cell, share_x, share_y, exists = _corner(
                    x, y, corner % 2, corner // 2, height, width
                )
                offsets = (first + (start + cell) * heads)[:, None] * CHANNELS + channel
                mask = (exists & inside)[:, None] & (channel < CHANNELS)
                tile = tl.load(value + offsets, mask=mask, other=0).to(tl.float32)
                tl.atomic_add(
                    grad_value + offsets,
                    (share_x * share_y * weight)[:, None] * out,
                    mask=mask,
                    sem="relaxed",
                )
                dot = tl.sum(tile * out, axis=1)
                by_weight += share_x * share_y * dot
                # As x grows, the share of a right corner rises (+1) and of a left one falls (-1).
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
