"""The ConvNeXt image tower of an open_clip model, as a feature pyramid.

Legend: B images, Q regions, C channels of the last stage, D joint space, h x w cells.
"""

from typing import Any

from torch import Tensor

from frozenseg.encoders.pooling import pool_masks
from frozenseg.structures import ClipFeatures


class ConvNeXtTrunk:
    """Calls a tower it does not own: the parameters stay with the open_clip model."""

    def __init__(self, visual: Any) -> None:
        """visual: open_clip's tower; untyped, because its parts are reached by name."""
        self.visual = visual
        self.channels = {
            f"res{number + 2}": info["num_chs"]
            for number, info in enumerate(self.visual.trunk.feature_info)
        }

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        features = self.visual.trunk.stem(pixels)
        levels = {}
        for number, stage in enumerate(self.visual.trunk.stages):
            features = levels[f"res{number + 2}"] = stage(features)
        return ClipFeatures(levels, self.visual.trunk.norm_pre(features))

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """The mean of a region's features takes the place of the mean of the whole image."""
        pooled = pool_masks(dense, mask_logits)
        cells = pooled.flatten(0, 1)[:, :, None, None]  # one fake 1 x 1 image per region
        return self.visual.head(self.visual.trunk.head(cells)).unflatten(0, pooled.shape[:2])
