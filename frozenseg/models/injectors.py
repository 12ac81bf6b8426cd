"""The two injectors of FrozenSeg (arXiv 2409.03525, section 3.2).

The Query Injector adds SAM's spatial knowledge to the queries, the Feature Injector adds it to
CLIP's coarsest features.

Legend: B images, Q queries, C decoder channels, h x w cells.
"""

from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks
from frozenseg.models.layers import AttentionBlock, resize

Memory = tuple[Tensor, Tensor]
"""Tokens (B, L, C) that other tokens attend to: without and with positional encodings added."""


class QueryInjector(nn.Module):
    """Adds SAM's embedding, pooled under the query's current mask, to each query."""

    def __init__(self, *, projection: nn.Module) -> None:
        """projection: applied to the pooled vectors (C to C).

        It is passed in because the published model shares it with the class embedding; the paper
        describes a separate projection.
        """
        super().__init__()
        self.projection = projection

    def forward(self, queries: Tensor, embedding: Tensor, mask_logits: Tensor) -> Tensor:
        """Add to queries (B, Q, C) the embedding (B, C, h, w) pooled under masks (B, Q, h, w)."""
        return queries + self.projection(pool_masks(embedding, mask_logits))


class FeatureInjector(nn.Module):
    """Lets CLIP's stride-32 tokens attend to SAM's tokens, for each decoder layer that reads them.

    Each of these layers has its own weights and starts from the same CLIP tokens: the injections
    are not chained.
    """

    def __init__(self, *, dim: int, num_heads: int, layers: list[int]) -> None:
        """layers: indices of the decoder layers that read injected features."""
        super().__init__()
        self.blocks = nn.ModuleDict(
            {str(layer): AttentionBlock(dim=dim, num_heads=num_heads) for layer in layers}
        )

    def forward(self, layer: int, tokens: Tensor, positions: Tensor, sam: Memory) -> Tensor:
        """Return CLIP's tokens (B, h*w, C) of the stride-32 level after attention to SAM's tokens.

        layer: index of the decoder layer. positions: (1, h*w, C), positional encodings of CLIP's
        tokens. sam: SAM's tokens.
        """
        return self.blocks[str(layer)](tokens, *sam, positions=positions)


def sam_tokens(features: Tensor, size: tuple[int, int], level_embedding: Tensor) -> Tensor:
    """Resize SAM's decoded features (B, C, h, w) to the stride-32 level: (B, h*w, C) tokens."""
    return resize(features, size).flatten(2).transpose(1, 2) + level_embedding
