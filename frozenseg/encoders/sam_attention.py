"""SAM's attention blocks by PyTorch's fused kernel, with decomposed relative positions.

Legend: B images, M heads, h x w cells, side of a window in cells, C channels.
"""

import functools

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention, Block, PatchEmbed, get_rel_pos
from torch import Tensor

from frozenseg.runtime.linear import apply_linear, prepack, to_int8

BIAS_ELEMENTS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Floats of the position bias in memory at once: one head of a global block on a CPU, four on
CUDA."""


class FusedAttention(Attention):
    """The attention of segment-anything without its three score matrices, with equal outputs.

    The position bias of a global block is (M, h*w, h*w), 0.8 GB for ViT-B. It is computed for a few
    heads at a time, in one buffer. All queries of a head are processed together, because the CPU
    kernel is slower with few queries.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the global attention of cells (B, h, w, C), in the same shape, plus `residual`."""
        height, width = x.shape[1:3]
        parts = apply_linear(self.qkv, x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1))
        attended = self._attend(parts.permute(2, 0, 3, 1, 4).contiguous(), height, width)
        return apply_linear(self.proj, attended.transpose(1, 2).reshape(x.shape), residual=residual)

    def in_windows(self, x: Tensor, side: int, residual: Tensor | None = None) -> Tensor:
        """Return the attention of cells (B, h, w, C) within windows of side x side cells, plus
        `residual`.

        segment-anything pads the cells with zeros to complete windows. The query, key and value of
        a zero cell are the bias of `qkv`, so here the padding is added after the linear layer.
        """
        batch, height, width, _ = x.shape
        rows, columns = -(-height // side), -(-width // side)
        qkv = apply_linear(self.qkv, x)
        if (rows * side, columns * side) != (height, width):
            bias = self.qkv.bias.to(qkv.dtype)
            padded = bias.expand(batch, rows * side, columns * side, -1).contiguous()
            padded[:, :height, :width] = qkv
            qkv = padded
        parts = qkv.view(batch, rows, side, columns, side, 3, self.num_heads, -1)
        parts = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4)
        attended = self._attend(parts, side, side)
        attended = attended.view(batch, rows, columns, self.num_heads, side, side, -1)
        cells = attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(
            batch, rows * side, columns * side, -1
        )
        return apply_linear(self.proj, cells[:, :height, :width], residual=residual)

    def _attend(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """Attend with query, key and value (3, B, M, h*w, C / M); returns (B, M, h*w, C / M)."""
        query, key, value = qkv.flatten(1, 2)  # (N, h*w, C / M), N = B * M
        grid = query.unflatten(1, (height, width))
        rows = _relative(self.rel_pos_h, height)  # (h, h, C / M)
        columns = _relative(self.rel_pos_w, width)
        of_rows = torch.einsum("nhwc,hkc->nhwk", grid, rows)
        of_columns = torch.einsum("nhwc,wkc->nhwk", grid, columns)
        if query.dtype != torch.float32:
            heads = attend_with_positions(query, key, value, of_rows, of_columns)
            return heads.unflatten(0, qkv.shape[1:3])
        of_rows, of_columns = of_rows[..., :, None], of_columns[..., None, :]
        limit = BIAS_ELEMENTS["cpu" if query.device.type == "cpu" else "cuda"]
        taken = min(len(query), max(1, limit // (height * width) ** 2))  # heads at once
        shape = (taken, height, width, height, width)
        buffer = None if torch.is_grad_enabled() else query.new_empty(shape)
        attended = []
        parts = (of_rows, of_columns, query, key, value)
        for row_bias, column_bias, q, k, v in zip(*(p.split(taken) for p in parts), strict=True):
            # `out` fixes the memory layout, which a sum would otherwise inherit from its operands.
            out = buffer if buffer is None else buffer[: len(row_bias)]
            bias = torch.add(row_bias, column_bias, out=out).flatten(3).flatten(1, 2)
            # Passed as the heads of one image, since CUDA's fused kernels need four axes.
            attended.append(
                F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None])
            )
        return torch.cat(attended, 1).unflatten(1, qkv.shape[1:3])[0]


def attend_with_positions(
    query: Tensor, key: Tensor, value: Tensor, of_rows: Tensor, of_columns: Tensor
) -> Tensor:
    """Return attention whose position bias is part of the product of queries and keys.

    The bias of a query and a key is a number for the key's row plus a number for its column. These
    numbers are appended to the query as further channels, and the key's row and column to the key
    as unit vectors. The product is then score plus bias, and the bias of all pairs is never stored.
    The value is padded with zeros to the same number of channels, as PyTorch's fused kernels
    require.

    query, key, value: (N, h*w, C). of_rows: (N, h, w, h), the bias of each query for each row of
    keys. of_columns: (N, h, w, w), the same for columns. Returns (N, h*w, C).
    """
    count, _, channels = query.shape
    height, width = of_rows.shape[1:3]
    bias = (of_rows.flatten(1, 2), of_columns.flatten(1, 2))
    queries = torch.cat((query * channels**-0.5, *bias), -1)
    places = _places(height, width, query.dtype, query.device).expand(count, -1, -1)
    keys = torch.cat((key, places), -1)
    values = F.pad(value, (0, height + width))
    # Passed as the heads of one image, since CUDA's fused kernels need four axes.
    attended = F.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=1.0)
    return attended[0, ..., :channels]


def _relative(table: Tensor, length: int) -> Tensor:
    """Return the vector of each query and key position, (length, length, C).

    table: (2 * length - 1, C), one vector for each difference of positions; a table of another
    length is resized.
    """
    if len(table) != 2 * length - 1:
        return get_rel_pos(length, length, table)
    return table[_differences(length, table.device)]


# Every block needs the results of the next two functions, so they are cached. They are created
# outside inference mode, so that they can be used in training as well.


@functools.lru_cache(maxsize=8)
def _differences(length: int, device: torch.device) -> Tensor:
    """Return the table row (length, length) for each query (row) and key (column)."""
    with torch.inference_mode(False), torch.no_grad():
        steps = torch.arange(length, device=device)
        return steps[:, None] - steps + (length - 1)


@functools.lru_cache(maxsize=8)
def _places(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the row and the column of each cell as two unit vectors side by side: (h*w, h + w)."""
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.eye(height, dtype=dtype, device=device)[:, None].expand(-1, width, -1)
        columns = torch.eye(width, dtype=dtype, device=device)[None].expand(height, -1, -1)
        return torch.cat((rows, columns), -1).flatten(0, 1)


class FusedNorm(LayerNorm2d):
    """The channel norm of segment-anything by PyTorch's fused kernel, with equal outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        cells = x.permute(0, 2, 3, 1)
        normed = F.layer_norm(cells, cells.shape[-1:], self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class LinearPatches(PatchEmbed):
    """The patch embedding of segment-anything, computed on a GPU as a matrix product: on an H100,
    the encoder of ViT-B takes 5.8 ms with it and 6.1 ms with a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) to cells (B, h, w, C)."""
        return super().forward(x) if x.device.type == "cpu" else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """Compute `forward` as a matrix product."""
        height, width = self.proj.kernel_size
        patches = x.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.proj.weight.flatten(1), self.proj.bias)


class FusedBlock(Block):
    """The block of segment-anything with `FusedAttention`; its parameters and outputs are equal."""

    attn: FusedAttention

    def forward(self, x: Tensor) -> Tensor:
        """Map cells (B, h, w, C) to the same shape."""
        normed = self.norm1(x)
        side = self.window_size
        x = self.attn.in_windows(normed, side, x) if side else self.attn(normed, x)
        hidden = apply_linear(self.mlp.lin1, self.norm2(x), activation="gelu")
        return apply_linear(self.mlp.lin2, hidden, residual=x)

    def prepack(self, *, int8: bool = False) -> None:
        """Prepack the weights of an encoder that only predicts, or quantise them to 8 bits."""
        pack = to_int8 if int8 else prepack
        for layer in (self.attn.qkv, self.attn.proj, self.mlp.lin1, self.mlp.lin2):
            pack(layer)


def fuse_attention(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """Replace the classes of blocks, patch embedding and norms by those of this module, in place.

    The modules and the names of parameters stay the same.
    """
    encoder.patch_embed.__class__ = LinearPatches
    for block in encoder.blocks:
        block.__class__ = FusedBlock
        block.attn.__class__ = FusedAttention
    for layer in encoder.neck:
        if isinstance(layer, LayerNorm2d):
            layer.__class__ = FusedNorm
    return encoder
