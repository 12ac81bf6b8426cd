"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, eq. 3).

Legend: N images, L queries (all cells of all levels), V levels, P points, M heads, C channels.
"""

import functools
import logging
import math

import torch
from torch import Tensor, nn
from torch.library import CustomOpDef

from frozenseg.models.layers import call
from frozenseg.models.ms_deform_gather import deformable_gather
from frozenseg.models.ms_deform_loop import loop_over_levels
from frozenseg.runtime.linear import apply_linear
from frozenseg.runtime.precision import in_float32
from frozenseg.runtime.triton_launch import runs_triton

logger = logging.getLogger(__name__)


def deformable_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sum of bilinear samples, computed in float32 or wider.

    value: (N, sum of h * w, M, C / M), the cells of all levels, concatenated.
    shapes: (height, width) of each level.
    locations: (N, L, M, V, P, 2) as (x, y), 0-1 over each level; samples outside a level are zero.
    weights: (N, L, M, V, P), the attention weight of each sample.
    Returns (N, L, C) with the dtype of `value`.
    """
    heights, widths = [height for height, _ in shapes], [width for _, width in shapes]
    if runs_triton(value, locations, weights) and (operator := triton_operator()) is not None:
        return operator(value, heights, widths, locations, weights)
    dtype = torch.promote_types(value.dtype, locations.dtype)
    dtype = torch.promote_types(torch.promote_types(dtype, weights.dtype), torch.float32)
    tensors = value.to(dtype), locations.to(dtype), weights.to(dtype)
    if value.device.type == "cpu":
        output = deformable_gather(tensors[0], heights, widths, *tensors[1:])
    else:
        output = loop_over_levels(tensors[0], shapes, *tensors[1:])
    return output.to(value.dtype)


@functools.cache
def triton_operator() -> CustomOpDef | None:
    """Return the operator that runs Triton kernels; None, with a warning, if it cannot be
    imported."""
    try:
        from frozenseg.models.ms_deform_triton import deformable_triton
    # An incomplete Triton lacks files or names; one built for another PyTorch raises other errors.
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        logger.warning(
            "deformable attention: Triton cannot be imported (%s: %s); PyTorch's grid_sample is "
            "used instead, which is slower",
            type(error).__name__,
            error,
        )
        return None
    return deformable_triton


def remap_to_single_level(locations: Tensor, weights: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Read locations and weights made for V levels as the published CUDA kernel does for `levels`.

    The kernel takes the number of levels from the feature shapes, but the published SAM pixel
    decoder builds its buffers for three levels and has only one. The sample with the number
    `query * heads + head` therefore reads consecutive entries that start at the flat position
    `sample * levels * points`. The released weights were trained this way, so this function
    reproduces it, image by image.

    locations: (N, L, M, V, P, 2). weights: (N, L, M, V, P). Returns both with `levels` for V.
    """
    batch, length, heads, _, points, _ = locations.shape
    shape = (batch, length, heads, levels, points)
    used = math.prod(shape[1:])
    return (
        locations.reshape(batch, -1, 2)[:, :used].reshape(*shape, 2),
        weights.reshape(batch, -1)[:, :used].reshape(shape),
    )


def small_softmax(x: Tensor) -> Tensor:
    """Softmax over a short last axis (a dozen numbers).

    On a CPU and without gradients it is five times as fast as PyTorch's softmax.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.softmax(-1)
    exponentials = (x - x.amax(-1, keepdim=True)).exp_()
    return exponentials.div_(exponentials.sum(-1, keepdim=True))


class DeformableAttention(nn.Module):
    """Each query samples `num_points` points of every level around its own reference point.

    recompute: whether training recomputes the sampling locations and weights in the backward pass
        instead of storing their intermediate results.
    """

    def __init__(
        self, *, dim: int, num_levels: int, num_heads: int, num_points: int, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Start each head in its own direction, with point p at distance p + 1 (section A.4)."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[None, None, :, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        references: Tensor,
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Let queries sample tokens (N, L, C) around reference points (L, 2); returns (N, L, C).

        positions: (1, L, C), positional encodings; tokens + positions are the queries.
        references: (x, y), 0-1 over the image. shapes: (height, width) of each level.
        """
        value = apply_linear(self.value_proj, tokens).unflatten(-1, (self.num_heads, -1))
        given = (tokens, positions, references, shapes)
        locations, weights = call(self._samples, *given, recompute=self.recompute)
        if len(shapes) != self.num_levels:
            locations, weights = remap_to_single_level(locations, weights, len(shapes))
        sampled = deformable_attention(value, shapes, locations, weights)
        return apply_linear(self.output_proj, sampled)

    def _samples(
        self,
        tokens: Tensor,
        positions: Tensor,
        references: Tensor,
        shapes: list[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Return the locations (N, L, M, V, P, 2) and weights (N, L, M, V, P) of the samples.

        Half precision is too coarse for the locations, so they stay in float32 under autocast.
        """
        query = tokens + positions
        layout = (*query.shape[:2], self.num_heads, self.num_levels, self.num_points)
        # Offsets are in cells; dividing them by (width, height) makes them relative to the level.
        # The sizes are repeated for all samples, since PyTorch broadcasts slowly over a last axis
        # of two numbers.
        sizes = level_sizes(tuple(shapes), layout[2:], query.device).to(query.dtype)
        with in_float32(query):
            offsets = (apply_linear(self.sampling_offsets, query) / sizes).view(*layout, 2)
            locations = references[None, :, None, None, None] + offsets
            weights = apply_linear(self.attention_weights, query).view(*layout[:3], -1)
            return locations, small_softmax(weights).view(layout)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with residual and post-norm.

    recompute_parts: whether training recomputes, in the backward pass, the parts that are cheap but
        have large intermediate results (the feed-forward network, and the locations and weights of
        the samples): at 1024 x 1024 in bfloat16 it then stores 0.12 GB instead of 0.18 GB.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        recompute_parts: bool = False,
    ) -> None:
        super().__init__()
        self.recompute_parts = recompute_parts
        self.self_attn = DeformableAttention(
            dim=dim,
            num_levels=num_levels,
            num_heads=num_heads,
            num_points=num_points,
            recompute=recompute_parts,
        )
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        references: Tensor,
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Refine tokens (N, L, C) with positional encodings (1, L, C); returns (N, L, C)."""
        attended = self.self_attn(tokens, positions, references, shapes)
        tokens = self.norm1(tokens + attended)
        return call(self._feed_forward, tokens, recompute=self.recompute_parts)

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        hidden = apply_linear(self.linear1, tokens, activation="relu")
        return self.norm2(apply_linear(self.linear2, hidden, residual=tokens))


# Every layer or image needs the results of the next two functions, so they are cached. They are
# created outside inference mode, so that they can be used in training as well.


@functools.lru_cache(maxsize=16)
def level_sizes(
    shapes: tuple[tuple[int, int], ...], layout: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Return (width, height) of the levels, repeated so that it matches all offsets of a query.

    layout: (heads, levels, points); the attention may have more levels than `shapes`.
    """
    with torch.inference_mode(False), torch.no_grad():
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
        return sizes[:, None].expand(*layout, 2).flatten().to(device)


@functools.lru_cache(maxsize=16)
def reference_points(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return the centres (L, 2) of the cells of all levels, as (x, y), 0-1 over the image."""
    with torch.inference_mode(False), torch.no_grad():
        centres = []
        for height, width in shapes:
            y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
            x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
            centres.append(torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).flatten(0, 1))
        return torch.cat(centres)
