"""The masked-attention transformer decoder (Mask2Former) with FrozenSeg's two injectors.

Legend: B images, Q queries, C decoder channels, D joint CLIP space, K classes, L cells of a level.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks
from frozenseg.models.injectors import FeatureInjector, QueryInjector, sam_tokens
from frozenseg.models.layers import MLP, AttentionBlock, FeedForwardBlock, resize, sine_positions
from frozenseg.structures import MaskPredictions

NUM_LEVELS = 3  # strides 32, 16, 8, visited in turn

Classify = Callable[[Tensor, Tensor], Tensor]
"""(class embeddings (B, Q, D), logit scale) -> class logits (B, Q, K + 1)."""


class DecoderLayer(nn.Module):
    """Cross-attention inside the current masks, self-attention of the queries, feed-forward."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.cross_attention = AttentionBlock(dim=dim, num_heads=num_heads)
        self.self_attention = AttentionBlock(dim=dim, num_heads=num_heads)
        self.feed_forward = FeedForwardBlock(dim=dim, hidden_dim=hidden_dim)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        keys: Tensor,
        key_positions: Tensor | None,
        mask: Tensor,
    ) -> Tensor:
        queries = self.cross_attention(
            queries, keys, positions=query_positions, memory_positions=key_positions, mask=mask
        )
        queries = self.self_attention(
            queries, queries, positions=query_positions, memory_positions=query_positions
        )
        return self.feed_forward(queries)


class MaskDecoder(nn.Module):
    """Queries in nine layers, each followed by a prediction of masks (and, where used, classes).

    Queries after layer l get SAM's pooled features if `l % 3 == query_injector_level`; layers with
    `l % 3 == feature_injector_level` read CLIP tokens that have attended to SAM's. None switches an
    injector off. The injection after the last layer would touch nothing and is left out.
    """

    embeddings = frozenset({"query_features", "query_positions", "level_embedding"})
    """Parameters that are learned tables: `nn.Embedding`s in Mask2Former."""

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
        """embed_dim: D. keep_key_positions: keys behind the Feature Injector keep their positions;
        the published model loses them there."""
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
        """levels: (B, C, h, w) at strides 32, 16, 8; mask_features (B, C, h, w) at stride 4.

        sam_embedding (B, C, h, w) is what the Query Injector pools, sam_level (B, C, h, w) what the
        Feature Injector attends to. With `auxiliary`, for training, the outputs of all layers come
        along, and all have `factors`.
        """
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        keys = [self._keys(number, levels, sam_level) for number in range(NUM_LEVELS)]
        masks = MaskHead(mask_features, full=auxiliary)
        queries = self.query_features.expand(mask_features.shape[0], -1, -1)
        outputs = []
        for number, layer in enumerate(self.layers):
            level = number % NUM_LEVELS
            embedded = self.norm(queries)
            mask_embedding = self.mask_embedding(embedded)
            if auxiliary:
                outputs.append(self._predict(embedded, mask_embedding, masks, classify))
            if number > 0 and (number - 1) % NUM_LEVELS == self.query_injector_level:
                assert self.query_injector is not None and sam_embedding is not None
                size = (sam_embedding.shape[-2], sam_embedding.shape[-1])
                inside = masks.logits(mask_embedding, size)
                queries = self.query_injector(queries, sam_embedding, inside)
            tokens, positions, sam = keys[level]
            if sam is not None:
                assert self.feature_injector is not None
                tokens = self.feature_injector(number, tokens, positions, sam)
            keep = sam is None or self.keep_key_positions
            inside = attention_mask(masks.logits(mask_embedding, sizes[level]))
            queries = layer(
                queries, self.query_positions, tokens, positions if keep else None, inside
            )
        embedded = self.norm(queries)
        last = self._predict(embedded, self.mask_embedding(embedded), masks, classify)
        return replace(last, auxiliary=outputs)

    def _keys(
        self, number: int, levels: list[Tensor], sam_level: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (B, L, C) of a level, their positions (1, L, C), and SAM's tokens (B, L, C) if the
        Feature Injector works on this level."""
        level, embedding = levels[number], self.level_embedding[number]
        size = (level.shape[-2], level.shape[-1])
        tokens = level.flatten(2).transpose(1, 2) + embedding
        positions = sine_positions(*size, level.shape[1], device=level.device)
        positions = positions.flatten(2).transpose(1, 2)
        if number != self.feature_injector_level:
            return tokens, positions, None
        assert sam_level is not None, "the Feature Injector needs SAM's branch"
        return tokens, positions, sam_tokens(sam_level, size, embedding)

    def _predict(
        self, embedded: Tensor, mask_embedding: Tensor, masks: "MaskHead", classify: Classify
    ) -> MaskPredictions:
        mask_logits = masks.logits(mask_embedding)
        pooled = self.pooling_projection(pool_masks(masks.features, mask_logits))
        class_logits = classify(self.class_embedding(pooled + embedded), self.logit_scale)
        factors = (mask_embedding, masks.features) if masks.full else None
        return MaskPredictions(class_logits, mask_logits, factors=factors)


class MaskHead:
    """Mask logits at any size.

    A mask is a product of query and mask features, and resizing is linear: resizing the features
    once per size gives the same numbers as resizing Q masks in each layer, for a fraction of the
    work. With `full` (in training, where every layer's masks are needed at stride 4) they are
    resized instead, and carry no gradient (`MaskPredictions.factors`).
    """

    def __init__(self, features: Tensor, *, full: bool) -> None:
        self.features = features
        self.full = full
        self._resized: dict[tuple[int, int], Tensor] = {}
        self._last: tuple[Tensor, Tensor] | None = None

    def logits(self, mask_embedding: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """mask_embedding (B, Q, C) -> (B, Q, *size), at the features' own size without `size`."""
        if size is None or self.full:
            if self._last is None or self._last[0] is not mask_embedding:
                with torch.set_grad_enabled(torch.is_grad_enabled() and not self.full):
                    product = torch.einsum("bqc,bchw->bqhw", mask_embedding, self.features)
                self._last = (mask_embedding, product)
            return self._last[1] if size is None else resize(self._last[1], size)
        if size not in self._resized:
            self._resized[size] = resize(self.features, size)
        return torch.einsum("bqc,bchw->bqhw", mask_embedding, self._resized[size])


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Where queries may look: (B, Q, h, w) logits -> (B, Q, h*w) bool, True at probability >= 0.5.

    A query whose mask is empty looks everywhere, or its attention would be undefined.
    """
    inside = mask_logits.detach().flatten(2) >= 0
    return inside | ~inside.any(-1, keepdim=True)
