"""Layers that the decoders share: MLP, attention, feed-forward, positional encodings, resizing."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frozenseg.runtime.linear import apply_linear
from frozenseg.runtime.precision import in_compute_type


class WithEmbeddings(nn.Module):
    """A module with parameters that are learned tables, like the weight of an `nn.Embedding`.

    embeddings: the names of these parameters; weight decay treats them as embeddings.
    """

    embeddings: frozenset[str]


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(
        self, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int
    ) -> None:
        super().__init__()
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims, dims[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention on (B, N, C) tokens through PyTorch's fused kernel.

    It has the same parameters as `nn.MultiheadAttention`, whose weights load unchanged.
    """

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Let queries (B, N, C) attend to key and value (B, M, C); returns (B, N, C).

        mask: (B, N, M) bool, True where a query may attend to a key.
        """
        query, key, value = (
            F.linear(tokens, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens, weight, bias in zip(
                (query, key, value),
                in_compute_type(self.in_proj_weight).chunk(3),
                in_compute_type(self.in_proj_bias).chunk(3),
                strict=True,
            )
        )  # 3 x (B, heads, N or M, C / heads)
        if mask is not None:
            mask = mask[:, None]  # the same for all heads, broadcast rather than copied
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Attention with residual and LayerNorm (post-norm); positional encodings are added to queries
    and keys only."""

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor | None = None,
        key: Tensor | None = None,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Let tokens (B, N, C) attend to memory (B, M, C); returns (B, N, C).

        memory: the values; None: the tokens attend to themselves.
        key: memory with its positional encodings added; None if the keys have no such encodings.
        positions: the positional encodings of the tokens.
        mask: as in `Attention`.
        """
        query = in_compute_type(tokens + positions)
        if memory is None:
            memory, key = in_compute_type(tokens), query
        key = memory if key is None else key
        return self.norm(tokens + self.attention(query, key, memory, mask))


class FeedForwardBlock(nn.Module):
    """Two linear layers with ReLU between them, then residual and LayerNorm (post-norm)."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        hidden = apply_linear(self.linear1, tokens, activation="relu")
        return self.norm(apply_linear(self.linear2, hidden, residual=tokens))


def call(function: Callable[..., Any], *given: Any, recompute: bool) -> Any:
    """Call a function, with activation checkpointing if requested.

    recompute: whether training recomputes the function's intermediate results in the backward pass
        instead of storing them; the function must then contain nothing random.
    """
    if not (recompute and torch.is_grad_enabled()):
        return function(*given)
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)


def sine_positions(
    height: int, width: int, dim: int, *, device: torch.device | str, temperature: float = 10000.0
) -> Tensor:
    """Return sine positional encodings (1, dim, height, width), after DETR (arXiv 2005.12872).

    The first half of the channels encodes the row, the second half the column.
    """
    half, device = dim // 2, torch.device(device)
    rows = _sine_table(height, half, device, temperature)[:, :, None].expand(half, height, width)
    columns = _sine_table(width, half, device, temperature)[:, None, :].expand(half, height, width)
    return torch.cat((rows, columns))[None]


# Every level of every image needs one of these small tables, so they are cached. They are created
# outside inference mode, so that they can be used in training as well.
@functools.lru_cache(maxsize=64)
def _sine_table(count: int, half: int, device: torch.device, temperature: float) -> Tensor:
    """Return the encodings (half, count) of the positions along one axis."""
    with torch.inference_mode(False), torch.no_grad():
        pair = torch.arange(half, dtype=torch.float32, device=device).div(2, rounding_mode="floor")
        frequency = temperature ** (2 * pair / half)
        # The divisor is count + 1e-6 as in DETR; released weights were trained with it.
        steps = torch.arange(1, count + 1, dtype=torch.float32, device=device)
        angle = (steps / (count + 1e-6) * 2 * math.pi)[:, None] / frequency  # (count, half)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1).T


def _channels_last(features: Tensor) -> Tensor:
    """Return feature maps (B, C, h, w) with channels last in memory, and the matching strides.

    PyTorch's resize derives the layout from the strides. In a batch of one image, the stride of the
    batch axis is arbitrary, so it is set here.
    """
    features = features.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = features.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return (
        features if features.stride() == strides else features.as_strided(features.shape, strides)
    )


def fast_layout(features: Tensor) -> Tensor:
    """Return feature maps in the layout that PyTorch resizes fastest.

    On CUDA, channels should be last in memory; otherwise a single thread processes all channels of
    a cell. On a CPU, that layout takes three times as long.
    """
    return _channels_last(features) if _is_on_gpu(features) else features.contiguous()


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def resize(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize feature maps (B, C, h, w) bilinearly to (B, C, *size)."""
    if features.shape[-2:] == torch.Size(size):
        return features
    return F.interpolate(fast_layout(features), size=size, mode="bilinear", align_corners=False)
