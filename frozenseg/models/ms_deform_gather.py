"""Deformable attention on the CPU: one `embedding_bag` sums all samples of a query and head.

A bilinear sample is a weighted sum of four cells, so the output of a query and head is a weighted
sum of levels * points * 4 rows of the value table. `embedding_bag` computes it in one pass without
storing the samples. PyTorch's backward pass of `embedding_bag` sorts all rows and is slow; the one
in this module sorts the samples once and computes four such sums, one for each corner.

A "bag" is the set of rows that are summed for one query and head, or their sum.

Legend: N images, L queries, V levels, P points, M heads, D channels per head, S cells in total.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.models.ms_deform_operator import connect

# Sizes of the chunks: small enough to limit memory, large enough to keep all threads busy.
CHUNK_SAMPLES = 2**18
CHUNK_CELLS = 2**16


@torch.library.custom_op("frozenseg::deformable_gather", mutates_args=())
def deformable_gather(
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Compute `deformable_attention` by gathering; heights and widths are those of the levels.

    value (N, S, M, D), locations (N, L, M, V, P, 2) and weights (N, L, M, V, P) have one dtype,
    float32 or float64. Returns (N, L, M * D).
    """
    batch, length, heads, levels, points, _ = locations.shape
    constants = _constants(tuple(heights), tuple(widths), heads, points, locations.dtype)
    output = value.new_empty(batch, length, heads * value.shape[-1])
    for image in range(batch):
        table = value[image].reshape(-1, value.shape[-1])
        for part in _parts(length, _queries_at_a_time(weights)):
            corners = _Corners.of(locations[image, part], constants)
            shares = corners.shares(weights[image, part]).view(-1, levels * points * 4)
            rows = corners.rows(constants).view(shares.shape)
            bags = F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
            output[image, part] = bags.view(-1, output.shape[-1])
    return output


@torch.library.custom_op("frozenseg::deformable_gather_backward", mutates_args=())
def deformable_gather_backward(
    grad: Tensor,
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights; grad (N, L, M * D) is the gradient of
    the output."""
    batch, length, heads, levels, points, _ = locations.shape
    depth = value.shape[-1]
    constants = _constants(tuple(heights), tuple(widths), heads, points, locations.dtype)
    grad_value = torch.empty_like(value, memory_format=torch.contiguous_format)
    grad_locations = torch.empty_like(locations, memory_format=torch.contiguous_format)
    grad_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    samples = length * heads * levels * points
    first_rows = torch.empty(samples, dtype=torch.int32, device="cpu")
    shares = value.new_empty(samples, 4)
    for image in range(batch):
        table = value[image].reshape(-1, depth)
        bags = grad[image].reshape(-1, depth)  # (L * M, D)
        for part in _parts(length, _queries_at_a_time(weights)):
            corners = _Corners.of(locations[image, part], constants)
            rows = corners.rows(constants)
            dots = _dots(table, rows.view(-1, levels * points * 4), bags[_times(part, heads)])
            grad_locations[image, part], grad_weights[image, part] = corners.gradients(
                dots.view(rows.shape), weights[image, part], constants
            )
            here = _times(part, heads * levels * points)
            shares[here] = corners.shares(weights[image, part]).view(-1, 4)
            first_rows[here] = rows.view(-1, 4)[:, 0]
        grad_value[image] = _scatter(
            bags, first_rows, shares, list(zip(heights, widths, strict=True)), heads
        ).view(value.shape[1:])
    return grad_value, grad_locations, grad_weights


def _dots(table: Tensor, rows: Tensor, bags: Tensor) -> Tensor:
    """Return the dot products (B, K) of each bag (B, D) with the table rows (B, K) that it sums."""
    dots = table.new_empty(rows.shape)
    count = rows.shape[1]
    buffer = table.new_empty(min(len(rows), max(1, CHUNK_CELLS // count)) * count, table.shape[1])
    for part in _parts(len(rows), len(buffer) // count):
        cells = buffer[: (part.stop - part.start) * count]
        torch.index_select(table, 0, rows[part].view(-1), out=cells)
        products = cells.view(-1, count, table.shape[1]).mul_(bags[part, None])
        torch.sum(products, -1, out=dots[part])
    return dots


def _scatter(
    bags: Tensor, first_rows: Tensor, shares: Tensor, shapes: list[tuple[int, int]], heads: int
) -> Tensor:
    """Return the gradient (S * M, D) of the table: each bag is added to the rows that it sums.

    Samples are sorted by the row of their first corner, so that all samples of one row are adjacent
    and the gradient of a row can be computed by `embedding_bag` as well. Within a level, the rows
    of the other corners are at a fixed distance from that row.
    """
    cells = sum(height * width for height, width in shapes)
    order = first_rows.argsort()
    counts = torch.bincount(first_rows, minlength=cells * heads)
    offsets = (counts.cumsum(0) - counts).int()
    sources = (order // (len(order) // len(bags))).int()
    sorted_shares = shares.index_select(0, order).t().contiguous()
    total = bags.new_zeros(cells * heads, bags.shape[-1])
    for corner in range(4):
        sums = F.embedding_bag(
            sources, bags, offsets, per_sample_weights=sorted_shares[corner], mode="sum"
        )
        start = 0
        for height, width in shapes:
            end = start + height * width * heads
            step = _steps(height, width, heads)[corner]
            total[start + step : end] += sums[start : end - step]
            start = end
    return total


def _queries_at_a_time(weights: Tensor) -> int:
    return max(1, CHUNK_SAMPLES // weights[0, 0].numel())


def _parts(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _times(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def _steps(height: int, width: int, heads: int) -> tuple[int, int, int, int]:
    """Return the distances in rows from the first corner of a sample to all four corners.

    Along an axis with a single cell there is no second corner, and the distance is 0.
    """
    right, down = heads * (width > 1), heads * width * (height > 1)
    return 0, right, down, right + down


@dataclass(frozen=True)
class _Constants:
    """Constants of the levels and heads, for all samples of one query."""

    size: Tensor  # (M, V, P, 2) as (width, height)
    last: Tensor  # (M, V, P, 2), the largest (column, row) that a first corner can have
    second: Tensor  # (M, V, P, 2), cells from first to second corner; infinity if there is none
    stride: Tensor  # (2, M, V, P), rows of the table from a cell to the next: right, down
    start: Tensor  # (M, V, P), table row of the level's first cell
    steps: Tensor  # (4, M, V, P), see `_steps`


@functools.lru_cache(maxsize=64)
def _constants(
    heights: tuple[int, ...], widths: tuple[int, ...], heads: int, points: int, dtype: torch.dtype
) -> _Constants:
    """Return the constants; they are cached, because computing them takes longer than the attention
    of a small image."""
    shapes = list(zip(heights, widths, strict=True))
    starts = [sum(h * w for h, w in shapes[:i]) * heads for i in range(len(shapes))]

    def spread(numbers: list[int]) -> Tensor:  # one for each level -> (M, V, P)
        table = torch.tensor(numbers, dtype=torch.int32, device="cpu")[:, None]
        return table.expand(heads, len(shapes), points).contiguous()

    size = torch.stack((spread(list(widths)), spread(list(heights))), -1).to(dtype)
    steps = zip(*(_steps(height, width, heads) for height, width in shapes), strict=True)
    return _Constants(
        size=size,
        last=(size - 2).clamp(min=0),
        second=torch.where(size > 1, 1.0, torch.inf).to(dtype),
        stride=torch.stack((spread([heads] * len(shapes)), spread([w * heads for w in widths]))),
        start=spread(starts) + torch.arange(heads, dtype=torch.int32, device="cpu")[:, None, None],
        steps=torch.stack([spread(list(corner)) for corner in steps]),
    )


@dataclass(frozen=True)
class _Corners:
    """The two columns and two rows of cells around each sample; all tensors (L, M, V, P, 2)."""

    first: Tensor  # column and row of the first corner, moved into the level if it lies outside
    shift: Tensor  # column and row of the first corner before that move, relative to `first`
    near: Tensor  # bilinear weights of the first column and row
    far: Tensor  # bilinear weights of the second column and row

    @classmethod
    def of(cls, locations: Tensor, constants: _Constants) -> "_Corners":
        """Find the corners around samples at `locations` (L, M, V, P, 2).

        For a first corner j and a sample at x, the weights are the hat function of x - j and
        x - j - 1. A first corner outside the level is moved inside. Cells inside the level keep
        their weights, and cells outside are never read.
        """
        position = locations * constants.size
        position -= 0.5
        floor = position.floor()
        first = torch.minimum(floor.clamp(min=0), constants.last)
        position -= first
        near = position.abs().neg_().add_(1).clamp_(min=0)
        position -= constants.second
        far = position.abs_().neg_().add_(1).clamp_(min=0)
        floor -= first
        return cls(first=first, shift=floor, near=near, far=far)

    def shares(self, weights: Tensor) -> Tensor:
        """Return weights (L, M, V, P, 4) of the four cells, multiplied by those of the samples."""
        shares = weights.new_empty(*weights.shape, 4)
        near, far = self.near[..., 1] * weights, self.far[..., 1] * weights
        torch.mul(near, self.near[..., 0], out=shares[..., 0])
        torch.mul(near, self.far[..., 0], out=shares[..., 1])
        torch.mul(far, self.near[..., 0], out=shares[..., 2])
        torch.mul(far, self.far[..., 0], out=shares[..., 3])
        return shares

    def rows(self, constants: _Constants) -> Tensor:
        """Return the rows of the four cells in the value table: (L, M, V, P, 4), int32."""
        # NaN stays in the bilinear weights, but an index must be a number.
        first = self.first.nan_to_num(nan=0.0).int()
        start = torch.addcmul(constants.start, first[..., 0], constants.stride[0])
        start.addcmul_(first[..., 1], constants.stride[1])
        rows = start.new_empty(*start.shape, 4)
        for corner in range(4):
            torch.add(start, constants.steps[corner], out=rows[..., corner])
        return rows

    def gradients(
        self, dots: Tensor, weights: Tensor, constants: _Constants
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of locations (L, M, V, P, 2) and weights (L, M, V, P).

        dots: (L, M, V, P, 4), the gradients of `shares`. Bilinear sampling is not differentiable at
        cell centres; there the derivative from the right is used, as in `grid_sample`.
        """
        # The hat function rises (slope +1) before its middle and falls (slope -1) after it.
        middle = self.shift == 0
        near = (self.shift == -1).to(dots.dtype).sub_(middle.to(dots.dtype))
        far = middle.to(dots.dtype).sub_((self.shift == 1).to(dots.dtype))
        far = far * (constants.second == 1)
        near_x, near_y = self.near.unbind(-1)
        far_x, far_y = self.far.unbind(-1)
        top = near_x * dots[..., 0] + far_x * dots[..., 1]
        bottom = near_x * dots[..., 2] + far_x * dots[..., 3]
        left = near_y * dots[..., 0] + far_y * dots[..., 2]
        right = near_y * dots[..., 1] + far_y * dots[..., 3]
        grad_weights = near_y * top + far_y * bottom
        grad = torch.stack(
            (near[..., 0] * left + far[..., 0] * right, near[..., 1] * top + far[..., 1] * bottom),
            -1,
        )
        return grad * (constants.size * weights[..., None]), grad_weights


connect(deformable_gather, deformable_gather_backward)
