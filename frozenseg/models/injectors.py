"""The two injectors of FrozenSeg (arXiv 2409.03525, section 3.2): SAM's spatial knowledge enters
the queries (QueryInjector) and CLIP's coarsest features (FeatureInjector).

Legend: B images, Q queries, C decoder channels, h x w cells.
"""

from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks
from frozenseg.models.layers import AttentionBlock, resize


class QueryInjector(nn.Module):
    """Adds to each query what SAM sees inside the query's current mask."""

    def __init__(self, *, projection: nn.Module) -> None:
        """projection: C -> C on the pooled vectors. The published model shares the one that serves
        the class embedding (the paper has one of its own), hence it is passed in."""
        super().__init__()
        self.projection = projection

    def forward(self, queries: Tensor, embedding: Tensor, mask_logits: Tensor) -> Tensor:
        """queries (B, Q, C), embedding (B, C, h, w), mask_logits (B, Q, h, w) at the same size."""
        return queries + self.projection(pool_masks(embedding, mask_logits))


class FeatureInjector(nn.Module):
    """Lets CLIP's stride-32 tokens attend to SAM's, once per decoder layer that reads them.

    Every such layer has weights of its own, and each starts from the same CLIP tokens: the
    injections are not chained.
    """

    def __init__(self, *, dim: int, num_heads: int, layers: list[int]) -> None:
        """layers: numbers of the decoder layers that read injected features."""
        super().__init__()
        self.blocks = nn.ModuleDict(
            {str(layer): AttentionBlock(dim=dim, num_heads=num_heads) for layer in layers}
        )

    def forward(self, layer: int, tokens: Tensor, positions: Tensor, sam_tokens: Tensor) -> Tensor:
        """tokens (B, h*w, C) and sam_tokens (B, h*w, C) of the stride-32 level; positions of both
        (1, h*w, C). Returns (B, h*w, C)."""
        block = self.blocks[str(layer)]
        return block(tokens, sam_tokens, positions=positions, memory_positions=positions)


def sam_tokens(features: Tensor, size: tuple[int, int], level_embedding: Tensor) -> Tensor:
    """SAM's branch (B, C, h, w) at the size of the stride-32 level, as tokens (B, h*w, C)."""
    return resize(features, size).flatten(2).transpose(1, 2) + level_embedding
