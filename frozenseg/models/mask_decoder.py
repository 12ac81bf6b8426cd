"""Mask2Former's masked-attention decoder (arXiv 2112.01527) with FrozenSeg's two injectors.

Legend: B images, Q queries, C decoder channels, D joint CLIP space, K classes, L cells of a level.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks, pool_predicted_masks
from frozenseg.models.injectors import FeatureInjector, Memory, QueryInjector, sam_tokens
from frozenseg.models.layers import (
    MLP,
    AttentionBlock,
    FeedForwardBlock,
    WithEmbeddings,
    fast_layout,
    resize,
    sine_positions,
)
from frozenseg.runtime.precision import in_compute_type
from frozenseg.structures import MaskPredictions

NUM_LEVELS = 3  # strides 32, 16, 8, visited in turn

Classify = Callable[[Tensor, Tensor], Tensor]
"""Maps class embeddings (B, Q, D) and the logit scale to class logits (B, Q, K + 1), void last."""


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention of the queries, and a feed-forward network."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.cross_attention = AttentionBlock(dim=dim, num_heads=num_heads)
        self.self_attention = AttentionBlock(dim=dim, num_heads=num_heads)
        self.feed_forward = FeedForwardBlock(dim=dim, hidden_dim=hidden_dim)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        key: Tensor | None,
        mask: Tensor,
    ) -> Tensor:
        """Let queries (B, Q, C) attend to memory (B, L, C) where mask (B, Q, L) is True.

        key: as in `AttentionBlock`.
        """
        queries = self.cross_attention(queries, memory, key, positions=query_positions, mask=mask)
        return self.feed_forward(self.self_attention(queries, positions=query_positions))


class MaskDecoder(WithEmbeddings):
    """Refines queries layer by layer and predicts a mask and a class from each of them.

    The Query Injector runs after the layers l with `l % 3 == query_injector_level`, the Feature
    Injector before the layers with `l % 3 == feature_injector_level`; None disables an injector.
    After the last layer the Query Injector would have no effect and is left out.
    """

    embeddings = frozenset({"query_features", "query_positions", "level_embedding"})
    """In Mask2Former these parameters are `nn.Embedding`s."""

    def __init__(
        self,
        *,
        num_queries: int,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        mask_dim: int,
        embed_dim: int,
        query_injector_level: int | None,
        feature_injector_level: int | None,
        keep_key_positions: bool,
    ) -> None:
        """Make the layers.

        num_queries: Q.
        dim: C.
        num_heads: number of heads of all attention layers.
        hidden_dim: width of the feed-forward networks.
        num_layers: 9 as published.
        mask_dim: channels of the mask features.
        embed_dim: D.
        query_injector_level: 0, 1 or 2 (stride 32, 16, 8), or None.
        feature_injector_level: the same for the Feature Injector.
        keep_key_positions: whether keys keep positional encodings after the Feature Injector (the
            published model drops them).
        """
        super().__init__()
        self.query_injector_level = query_injector_level
        self.feature_injector_level = feature_injector_level
        self.keep_key_positions = keep_key_positions
        self.layers = nn.ModuleList(
            DecoderLayer(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim)
            for _ in range(num_layers)
        )
        self.query_features = nn.Parameter(torch.randn(num_queries, dim))
        self.query_positions = nn.Parameter(torch.randn(num_queries, dim))
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, dim))
        self.norm = nn.LayerNorm(dim)
        self.mask_embedding = MLP(input_dim=dim, hidden_dim=dim, output_dim=mask_dim, num_layers=3)
        self.pooling_projection = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.class_embedding = MLP(
            input_dim=dim, hidden_dim=dim, output_dim=embed_dim, num_layers=3
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.query_injector = (
            None
            if query_injector_level is None
            else QueryInjector(projection=self.pooling_projection)
        )
        self.feature_injector = (
            None
            if feature_injector_level is None
            else FeatureInjector(
                dim=dim,
                num_heads=num_heads,
                layers=list(range(feature_injector_level, num_layers, NUM_LEVELS)),
            )
        )

    def forward(
        self,
        levels: list[Tensor],
        mask_features: Tensor,
        classify: Classify,
        *,
        sam_embedding: Tensor | None = None,
        sam_level: Tensor | None = None,
        auxiliary: bool = False,
    ) -> MaskPredictions:
        """Predict masks and classes.

        levels: (B, C, h, w) at strides 32, 16 and 8.
        mask_features: (B, C, h, w) at stride 4.
        classify: turns class embeddings into class logits.
        sam_embedding: (B, C, h, w), which the Query Injector pools.
        sam_level: (B, C, h, w), which the Feature Injector attends to.
        auxiliary: whether to return the outputs of all layers, for training; they have
            `mask_embed` and `mask_features`, and their `mask_logits` are empty.
        """
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        memories = [self._memory(number, levels, sam_level) for number in range(NUM_LEVELS)]
        masks = MaskHead(mask_features)
        queries = self.query_features.expand(mask_features.shape[0], -1, -1)
        # The normalised queries before each layer, and their mask embeddings.
        earlier: list[tuple[Tensor, Tensor]] = []
        for number, layer in enumerate(self.layers):
            level = number % NUM_LEVELS
            embedded = self.norm(queries)
            mask_embed = self.mask_embedding(embedded)
            earlier.append((embedded, mask_embed))
            if number > 0 and (number - 1) % NUM_LEVELS == self.query_injector_level:
                assert self.query_injector is not None and sam_embedding is not None
                size = (sam_embedding.shape[-2], sam_embedding.shape[-1])
                query_masks = masks.logits(mask_embed, size)
                queries = self.query_injector(queries, sam_embedding, query_masks)
            tokens, positions, memory = memories[level]
            key: Tensor | None = memory[1]
            if level == self.feature_injector_level:
                assert self.feature_injector is not None
                tokens = self.feature_injector(number, tokens, positions, memory)
                key = tokens + positions if self.keep_key_positions else None
            else:
                tokens = memory[0]
            attended = attention_mask(masks.logits(mask_embed, sizes[level]))
            queries = layer(queries, self.query_positions, tokens, key, attended)
        embedded = self.norm(queries)
        mask_embed = self.mask_embedding(embedded)
        if auxiliary:
            return self._predict_all([*earlier, (embedded, mask_embed)], masks.features, classify)
        mask_logits = masks.logits(mask_embed)
        pooled = pool_masks(masks.features, mask_logits)
        return MaskPredictions(self._classify(pooled, embedded, classify), mask_logits)

    def _memory(
        self, number: int, levels: list[Tensor], sam_level: Tensor | None
    ) -> tuple[Tensor, Tensor, Memory]:
        """Return the tokens (B, L, C) of a level, their positional encodings (1, L, C), and the
        memory: the tokens themselves, or SAM's tokens at the level of the Feature Injector.

        Several layers read the memory, so it is cast to the dtype of matrix products here, once.
        """
        level, embedding = levels[number], self.level_embedding[number]
        size = (level.shape[-2], level.shape[-1])
        tokens = level.flatten(2).transpose(1, 2) + embedding
        positions = sine_positions(*size, level.shape[1], device=level.device)
        positions = positions.flatten(2).transpose(1, 2)
        attended = tokens
        if number == self.feature_injector_level:
            assert sam_level is not None, "the Feature Injector needs SAM's decoded features"
            attended = sam_tokens(sam_level, size, embedding)
        memory = in_compute_type(attended), in_compute_type(attended + positions)
        return tokens, positions, memory

    def _predict_all(
        self, outputs: list[tuple[Tensor, Tensor]], mask_features: Tensor, classify: Classify
    ) -> MaskPredictions:
        """Return the predictions of all outputs, computed together, for training.

        outputs: for each output its queries (B, Q, C) after the norm, and their mask embeddings.
        """
        embedded, mask_embed = (torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
        pooled = pool_predicted_masks(mask_embed, mask_features)
        logits = self._classify(pooled, embedded, classify).chunk(len(outputs), 1)
        nothing = mask_embed.new_empty((*outputs[0][0].shape[:2], 0, 0))
        *auxiliary, last = (
            MaskPredictions(own, nothing, mask_embed=of_masks, mask_features=mask_features)
            for own, (_, of_masks) in zip(logits, outputs, strict=True)
        )
        return replace(last, auxiliary=auxiliary)

    def _classify(self, pooled: Tensor, embedded: Tensor, classify: Classify) -> Tensor:
        """Return class logits (B, N, K + 1) from the features pooled under the queries' masks and
        from the queries themselves, both (B, N, C)."""
        embeddings = self.class_embedding(self.pooling_projection(pooled) + embedded)
        return classify(embeddings, self.logit_scale)


class MaskHead:
    """Computes mask logits at any size: products of mask embeddings and the mask features.

    Resizing is linear, so resizing the features once per size gives the same numbers as resizing Q
    masks in each layer, for a fraction of the work. The logits carry no gradient: the losses
    recompute the logits of matched queries (see `MaskPredictions.mask_embed`).
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self._resized: dict[tuple[int, int], Tensor] = {}

    @functools.cached_property
    def _to_resize(self) -> Tensor:
        """The features in the memory layout that resizing needs, converted once for all sizes."""
        return fast_layout(self.features)

    @torch.no_grad()
    def logits(self, mask_embed: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return mask logits (B, Q, *size) of mask_embed (B, Q, C); by default at the size of the
        mask features."""
        size = size or (self.features.shape[-2], self.features.shape[-1])
        if size not in self._resized:
            self._resized[size] = in_compute_type(resize(self._to_resize, size))
        return torch.einsum("bqc,bchw->bqhw", mask_embed, self._resized[size])


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Return where queries may attend: (B, Q, h*w) bool, True where mask_logits (B, Q, h, w) >= 0.

    A query whose mask is empty attends everywhere, because its attention would otherwise be
    undefined.
    """
    inside = mask_logits.detach().flatten(2) >= 0
    return inside | ~inside.any(-1, keepdim=True)
