"""The ConvNeXt image tower of an open_clip model as a feature pyramid.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells.
"""

from typing import Any

from torch import Tensor, nn

from frozenseg.encoders.convnext_block import fuse_blocks
from frozenseg.encoders.pooling import pool_activations, pool_masks
from frozenseg.structures import ClipFeatures


class ConvNeXtTrunk:
    """Runs a tower that it does not own: the parameters belong to the open_clip model."""

    def __init__(self, visual: Any) -> None:
        """visual: open_clip's image tower; untyped, because its parts are accessed by name.

        Its blocks are turned into `FusedConvNeXtBlock`s.
        """
        self.visual = visual
        fuse_blocks(visual.trunk)
        self.channels = {
            f"res{number + 2}": info["num_chs"]
            for number, info in enumerate(self.visual.trunk.feature_info)
        }

    def backbone(self) -> list[nn.Module]:
        """Return the parts that compute the pyramid."""
        return [part for name, part in self.visual.trunk.named_children() if name != "head"]

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the feature pyramid of normalised pixels (B, 3, H, W)."""
        features = self.visual.trunk.stem(pixels)
        levels = {}
        for number, stage in enumerate(self.visual.trunk.stages):
            features = levels[f"res{number + 2}"] = stage(features)
        return ClipFeatures(levels, self.visual.trunk.norm_pre(features))

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return CLIP's embeddings (B, Q, D) of regions: the head, applied to the mean of each
        region's features.

        dense: (B, C, h, w). mask_logits: (B, Q, h, w).
        """
        return self._embedded(pool_masks(dense, mask_logits))

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each as a region."""
        return self._embedded(dense.flatten(2).mT)

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, with means weighted by maps (B, Q, h, w), see
        `pool_activations`."""
        return self._embedded(pool_activations(dense, maps))

    def _embedded(self, pooled: Tensor) -> Tensor:
        cells = pooled.flatten(0, 1)[:, :, None, None]  # each region as a 1 x 1 image
        return self.visual.head(self.visual.trunk.head(cells)).unflatten(0, pooled.shape[:2])
