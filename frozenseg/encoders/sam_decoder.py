"""SAM's two-way transformer for many prompts on one image: the same numbers for less work.

Prompts have a few tokens, the image has thousands of cells. segment-anything projects every cell
for every prompt; here the projections are applied to the tokens instead (q W_q (x W_k)^T =
(q W_q W_k^T) x^T), the image stays one until the first layer has told prompts apart, and softmax
never runs along the short axis in memory.

Legend: N prompts, T tokens of a prompt, A heads of c channels, P cells, C channels.
"""

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor


def two_way(
    transformer: TwoWayTransformer, cells: Tensor, positions: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """`transformer(...)` of segment-anything.

    cells, positions: (1, P, C) of the image; prompts (N, T, C). Returns tokens (N, T, C) and cells
    (N, P, C).
    """
    tokens = prompts
    placed = cells + positions
    for layer in transformer.layers:
        tokens, cells = _layer(layer, tokens, cells, placed, prompts)
        placed = cells + positions
    attention = transformer.final_attn_token_to_image
    tokens = tokens + _tokens_ask_cells(attention, tokens + prompts, placed, cells)
    return transformer.norm_final_attn(tokens), cells


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, cells: Tensor, placed: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """One block; placed: cells with positions."""
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        asked = tokens + prompts
        tokens = tokens + layer.self_attn(q=asked, k=asked, v=tokens)
    tokens = layer.norm1(tokens)
    tokens = tokens + _tokens_ask_cells(
        layer.cross_attn_token_to_image, tokens + prompts, placed, cells
    )
    tokens = layer.norm2(tokens)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    cells = _cells_ask_tokens(
        layer.cross_attn_image_to_token, placed, cells, tokens + prompts, tokens
    )
    return tokens, layer.norm4(cells)


def _heads(tokens: Tensor, attention: Attention) -> Tensor:
    """(N, T, A * c) -> (N, A, T, c)."""
    return tokens.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _tokens_ask_cells(
    attention: Attention, queries: Tensor, placed: Tensor, cells: Tensor
) -> Tensor:
    """(N, T, C): attention of tokens to keys `placed` with values `cells`, (1 or N, P, C)."""
    heads, count = attention.num_heads, queries.shape[1]
    asked = _heads(attention.q_proj(queries), attention)  # (N, A, T, c)
    # The bias of the keys adds the same to all cells, which softmax does not see.
    of_keys = attention.k_proj.weight.unflatten(0, (heads, -1))  # (A, c, C)
    asked = (asked @ of_keys / asked.shape[-1] ** 0.5).flatten(1, 2)  # (N, A * T, C)
    weights = _product(asked, placed.mT).softmax(-1)  # (N, A * T, P)
    pooled = _product(weights, cells).unflatten(1, (heads, count))  # (N, A, T, C)
    of_values = attention.v_proj.weight.unflatten(0, (heads, -1)).mT  # (A, C, c)
    values = (pooled @ of_values).transpose(1, 2).flatten(2)  # weights sum to 1: add the bias once
    return attention.out_proj(values + attention.v_proj.bias)


def _cells_ask_tokens(
    attention: Attention, placed: Tensor, cells: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """(N, P, C): `cells` plus their attention, as queries `placed`, to the tokens."""
    heads, count = attention.num_heads, keys.shape[1]
    key = (
        _heads(attention.k_proj(keys), attention) / (attention.k_proj.out_features // heads) ** 0.5
    )  # (N, A, T, c)
    of_queries = attention.q_proj.weight.unflatten(0, (heads, -1))  # (A, c, C)
    bias = attention.q_proj.bias.view(heads, -1, 1)
    scores = _product((key @ of_queries).flatten(1, 2), placed.mT)  # (N, A * T, P)
    scores = scores.unflatten(1, (heads, count)) + key @ bias
    weights = scores.softmax(2).flatten(1, 2)  # over the tokens
    of_output = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (A, c, C)
    value = (_heads(attention.v_proj(values), attention) @ of_output).flatten(1, 2)
    start = (cells + attention.out_proj.bias).expand(len(value), -1, -1)
    return torch.baddbmm(start, weights.mT, value)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(N, R, S) @ (1 or N, S, P); one image for all prompts is one matrix product."""
    if len(right) == len(left):
        return torch.bmm(left, right)
    return (left.flatten(0, 1) @ right[0]).unflatten(0, left.shape[:2])
