"""The modified ResNet image tower of an open_clip model, with attention pooling under masks.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells, M heads.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.encoders.pooling import log_sigmoid
from frozenseg.structures import ClipFeatures


class ResNetTrunk:
    """Runs a tower that it does not own: the parameters belong to the open_clip model.

    temperature: the scores of the attention pooling are divided by it.
    """

    temperature = 1.0

    def __init__(self, visual: Any) -> None:
        """visual: open_clip's image tower; untyped, because its parts are accessed by name."""
        self.visual = visual
        self.channels = {
            f"res{number + 1}": getattr(visual, f"layer{number}")[-1].conv3.out_channels
            for number in range(1, 5)
        }

    def backbone(self) -> list[nn.Module]:
        """Return the parts that compute the pyramid."""
        return [part for name, part in self.visual.named_children() if name != "attnpool"]

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the feature pyramid of normalised pixels (B, 3, H, W)."""
        features = self.visual.stem(pixels)
        levels = {}
        for number in range(1, 5):
            features = levels[f"res{number + 1}"] = getattr(self.visual, f"layer{number}")(features)
        return ClipFeatures(levels, features)

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return embeddings (B, Q, D) of regions by CLIP's attention pooling, in which the query
        (the mean of the image) attends only to the cells of one region.

        For a region without a positive cell it attends to the entire image, because attention to no
        cell is undefined. dense: (B, C, h, w). mask_logits: (B, Q, h, w).
        """
        inside = (mask_logits > 0).flatten(2)  # (B, Q, h*w)
        inside = inside | ~inside.any(-1, keepdim=True)
        scores, values = self._scores(dense)
        weights = scores.masked_fill(~inside[:, None], float("-inf")).softmax(-1)  # (B, M, Q, h*w)
        return self._pooled(weights, values)

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, but with log(sigmoid(maps)) added to the scores of the cells; for
        maps (B, Q, h, w) of large absolute values, both give the same result."""
        scores, values = self._scores(dense)
        weights = (scores + log_sigmoid(maps.flatten(2))[:, None]).softmax(-1)  # (B, M, Q, h*w)
        return self._pooled(weights, values)

    def _scores(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B, M, 1, h*w) of the cells, and their values (B, M, h*w, C / M).

        The query is the same for all regions, so its scores are computed only once.
        """
        pool = self.visual.attnpool
        tokens = dense.flatten(2).transpose(1, 2)  # (B, h*w, C)
        query = tokens.mean(1, keepdim=True) + pool.positional_embedding[:1]
        keys = self._keys(dense)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)

        query = heads(pool.q_proj(query))
        scores = query @ heads(pool.k_proj(keys)).transpose(-2, -1)
        return scores / (self.temperature * query.shape[-1] ** 0.5), heads(pool.v_proj(keys))

    def _pooled(self, weights: Tensor, values: Tensor) -> Tensor:
        pooled = (weights @ values).transpose(1, 2)  # (B, Q, M, C / M)
        return self.visual.attnpool.c_proj(pooled.flatten(2))

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each pooled separately.

        Attention to a single key returns the value of that key, so neither a query nor a softmax is
        needed.
        """
        pool = self.visual.attnpool
        return pool.c_proj(pool.v_proj(self._keys(dense)))

    def _keys(self, dense: Tensor) -> Tensor:
        """Return the cells (B, h*w, C) plus positional embeddings, interpolated to their grid."""
        table = self.visual.attnpool.positional_embedding[1:]
        grid = round(len(table) ** 0.5)
        positions = F.interpolate(
            table.T.reshape(1, -1, grid, grid),
            size=dense.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        return (dense + positions).flatten(2).transpose(1, 2)
