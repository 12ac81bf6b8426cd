"""SAM's mask decoder for many points on one image: the same results with less work.

The two steps of `PointDecoder` are those of segment-anything's `predict_masks` in another order:
the quality of a mask depends only on tokens, so it is known before the mask is computed.

A prompt has a few tokens, while the image has thousands of cells. segment-anything projects every
cell for every prompt. Here the projections are applied to the tokens instead, since q W_q (x W_k)^T
= (q W_q W_k^T) x^T. All prompts share the cells of the image up to the first layer that updates
them. In all scores of tokens and cells, the cells are the last axis, so that in no softmax the
short axis of the tokens is the contiguous one.

Legend: N prompts, T tokens of a prompt, A heads of c channels, P cells, C channels.
"""

from collections.abc import Callable

import torch
from segment_anything.modeling import Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


class PointDecoder:
    """A SAM's prompt encoder and mask decoder for prompts of one point each.

    attend and masks are functions that take and return only tensors; they may be replaced by other
    functions with the same signature.
    """

    def __init__(self, sam: Sam) -> None:
        """Use the prompt encoder and the mask decoder of a SAM."""
        self.sam = sam
        self.attend: Callable[[Tensor, Tensor], tuple[Tensor, ...]] = _Attend(sam)
        self.masks: Callable[[Tensor, Tensor], Tensor] = _Masks(sam)

    @property
    def side(self) -> int:
        """The side of SAM's square input, in pixels."""
        return int(self.sam.image_encoder.img_size)


class _Attend(nn.Module):
    """The first step: computes the tokens and cells of each point, and the quality of its masks."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.encoder, self.decoder = sam.prompt_encoder, sam.mask_decoder

    def forward(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (N, T, C), cells (N, P, C), and the predicted IoU (N, 3) of the masks.

        embedding: (1, C, h, w). points: (N, 2), x and y in pixels of SAM's square input.
        """
        encoder, decoder = self.encoder, self.decoder
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        # As segment-anything encodes a point inside a mask: an empty point follows it.
        place = encoder.pe_layer.forward_with_coords(
            points[:, None] + 0.5, encoder.input_image_size
        )
        inside, empty = encoder.point_embeddings[1].weight, encoder.not_a_point_embed.weight
        count = points.shape[0]
        prompts = torch.cat(
            (fixed.expand(count, -1, -1), place + inside, empty.expand(count, 1, -1)), dim=1
        )
        image = (embedding + encoder.no_mask_embed.weight[..., None, None]).flatten(2).mT
        positions = encoder.get_dense_pe().flatten(2).mT
        tokens, cells = two_way(decoder.transformer, image, positions, prompts)
        # The first of SAM's four masks is meant for unambiguous prompts and is left out.
        return tokens, cells, decoder.iou_prediction_head(tokens[:, 0])[:, 1:]


class _Masks(nn.Module):
    """The second step: computes the masks of the prompts that are worth it."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.decoder, self.grid = sam.mask_decoder, sam.prompt_encoder.image_embedding_size

    def forward(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """Return mask logits (N, 3, s, s) from tokens (N, T, C) and cells (N, P, C)."""
        decoder = self.decoder
        features = decoder.output_upscaling(cells.transpose(1, 2).unflatten(2, self.grid))
        weights = torch.stack(
            [
                decoder.output_hypernetworks_mlps[number](tokens[:, 1 + number])
                for number in range(1, decoder.num_mask_tokens)
            ],
            dim=1,
        )  # (N, 3, C / 8)
        return (weights @ features.flatten(2)).unflatten(2, features.shape[-2:])


def two_way(
    transformer: TwoWayTransformer, cells: Tensor, positions: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the forward pass of segment-anything's `transformer`.

    cells, positions: (1, P, C) of the image. prompts: (N, T, C).
    Returns tokens (N, T, C) and cells (N, P, C).
    """
    tokens = prompts
    positioned = cells + positions
    for layer in transformer.layers:
        tokens, cells = _layer(layer, tokens, cells, positioned, prompts)
        positioned = cells + positions
    attention = transformer.final_attn_token_to_image
    tokens = tokens + _attend_to_cells(attention, tokens + prompts, positioned, cells)
    return transformer.norm_final_attn(tokens), cells


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, cells: Tensor, positioned: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Run one block. positioned: cells plus their positional encodings."""
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        queries = tokens + prompts
        tokens = tokens + layer.self_attn(q=queries, k=queries, v=tokens)
    tokens = layer.norm1(tokens)
    tokens = tokens + _attend_to_cells(
        layer.cross_attn_token_to_image, tokens + prompts, positioned, cells
    )
    tokens = layer.norm2(tokens)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    cells = _attend_to_tokens(
        layer.cross_attn_image_to_token, positioned, cells, tokens + prompts, tokens
    )
    return tokens, layer.norm4(cells)


def _heads(tokens: Tensor, attention: Attention) -> Tensor:
    """(N, T, A * c) -> (N, A, T, c)."""
    return tokens.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _attend_to_cells(
    attention: Attention, queries: Tensor, positioned: Tensor, cells: Tensor
) -> Tensor:
    """Return the attention (N, T, C) of tokens to the keys `positioned` and the values `cells`,
    both (1 or N, P, C)."""
    heads, count = attention.num_heads, queries.shape[1]
    query = _heads(attention.q_proj(queries), attention)  # (N, A, T, c)
    # The bias of the keys adds the same number to the scores of all cells; softmax ignores it.
    key_weight = attention.k_proj.weight.unflatten(0, (heads, -1))  # (A, c, C)
    query = (query @ key_weight / query.shape[-1] ** 0.5).flatten(1, 2)  # (N, A * T, C)
    weights = _product(query, positioned.mT).softmax(-1)  # (N, A * T, P)
    pooled = _product(weights, cells).unflatten(1, (heads, count))  # (N, A, T, C)
    value_weight = attention.v_proj.weight.unflatten(0, (heads, -1)).mT  # (A, C, c)
    # The weights of a query sum to 1, so the bias of the values is added only once.
    values = (pooled @ value_weight).transpose(1, 2).flatten(2)
    return attention.out_proj(values + attention.v_proj.bias)


def _attend_to_tokens(
    attention: Attention, positioned: Tensor, cells: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Return `cells` plus their attention, as queries `positioned`, to the tokens: (N, P, C)."""
    heads, count = attention.num_heads, keys.shape[1]
    key = (
        _heads(attention.k_proj(keys), attention) / (attention.k_proj.out_features // heads) ** 0.5
    )  # (N, A, T, c)
    query_weight = attention.q_proj.weight.unflatten(0, (heads, -1))  # (A, c, C)
    bias = attention.q_proj.bias.view(heads, -1, 1)
    scores = _product((key @ query_weight).flatten(1, 2), positioned.mT)  # (N, A * T, P)
    scores = scores.unflatten(1, (heads, count)) + key @ bias
    weights = scores.softmax(2).flatten(1, 2)  # over the tokens
    output_weight = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(
        1, 2, 0
    )  # (A, c, C)
    value = (_heads(attention.v_proj(values), attention) @ output_weight).flatten(1, 2)
    start = (cells + attention.out_proj.bias).expand(value.shape[0], -1, -1)
    return torch.baddbmm(start, weights.mT, value)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return (N, R, S) @ (1 or N, S, P); for one image shared by all prompts it is a single matrix
    product."""
    if right.shape[0] == left.shape[0]:
        return torch.bmm(left, right)
    return (left.flatten(0, 1) @ right[0]).unflatten(0, left.shape[:2])
