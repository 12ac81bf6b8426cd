"""The two injectors of FrozenSeg (arXiv 2409.03525, section 3.2).

The Query Injector adds SAM's spatial knowledge to the queries, the Feature Injector adds it to
CLIP's coarsest features.

Legend: B images, Q queries, C decoder channels, h x w cells.
"""

from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks
from frozenseg.models.layers import AttentionBlock, resize

Memory = tuple[Tensor, Tensor]
"""Tokens (B, L, C) that others attend to, and the same with positional encodings added."""


class QueryInjector(nn.Module):
    """Adds to each query SAM's embedding, pooled under the query's current mask."""

    def __init__(self, *, projection: nn.Module) -> None:
        """projection: applied to the pooled vectors (C to C).

        It is passed in because the published model shares it with the class embedding; the paper
        describes one of its own.
        """
        super().__init__()
        self.projection = projection

    def forward(self, queries: Tensor, embedding: Tensor, mask_logits: Tensor) -> Tensor:
        """Return queries (B, Q, C) + embedding (B, C, h, w) pooled under masks (B, Q, h, w)."""
        return queries + self.projection(pool_masks(embedding, mask_logits))


class FeatureInjector(nn.Module):
    """Lets CLIP's stride-32 tokens attend to SAM's, for each decoder layer that reads them.

    Every such layer has weights of its own and starts from the same CLIP tokens: the injections are
    not chained.
    """

    def __init__(self, *, dim: int, num_heads: int, layers: list[int]) -> None:
        """layers: numbers of the decoder layers that read injected features."""
        super().__init__()
        self.blocks = nn.ModuleDict(
            {str(layer): AttentionBlock(dim=dim, num_heads=num_heads) for layer in layers}
        )

    def forward(self, layer: int, tokens: Tensor, positions: Tensor, sam: Memory) -> Tensor:
        """CLIP's tokens (B, h*w, C) of the stride-32 level after attention to SAM's tokens.

        layer: number of the decoder layer. positions: (1, h*w, C), of CLIP's tokens.
        """
        return self.blocks[str(layer)](tokens, *sam, positions=positions)


def sam_tokens(features: Tensor, size: tuple[int, int], level_embedding: Tensor) -> Tensor:
    """SAM's decoded features (B, C, h, w), resized to the stride-32 level: (B, h*w, C) tokens."""
    return resize(features, size).flatten(2).transpose(1, 2) + level_embedding
