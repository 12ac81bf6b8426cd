"""Convolutional image towers of CLIP from timm as feature pyramids, e.g. MobileCLIP's FastViT.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells.
"""

from typing import Any

from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_activations, pool_masks
from frozenseg.structures import ClipFeatures

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmTrunk:
    """Calls a network of timm in open_clip's adapter, neither of which it owns.

    Of a region, the mean of its features goes through the head, as `ConvNeXtTrunk` has it.
    """

    def __init__(self, visual: Any) -> None:
        """visual: the adapter, of a network for which `has_pyramid` is True."""
        self.visual, self.network = visual, visual.trunk
        found = {stage["reduction"]: place for place, stage in enumerate(self.network.feature_info)}
        self.stages = {name: found[stride] for name, stride in STRIDES.items()}
        self.channels = {
            name: self.network.feature_info[place]["num_chs"] for name, place in self.stages.items()
        }

    def backbone(self) -> list[nn.Module]:
        """Return the parts that make the pyramid."""
        return [part for name, part in self.network.named_children() if name != "head"]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the network itself, which are in none of its parts."""
        return list(self.network.parameters(recurse=False))

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the feature pyramid of normalised pixels (B, 3, H, W)."""
        dense, levels = self.network.forward_intermediates(
            pixels, indices=list(self.stages.values())
        )
        return ClipFeatures(dict(zip(self.stages, levels, strict=True)), dense)

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embeddings (B, Q, D) of regions. dense: (B, C, h, w). mask_logits: (B, Q, h, w)."""
        return self._embedded(pool_masks(dense, mask_logits))

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Embeddings (B, h*w, D) of the cells of dense (B, C, h, w), as of regions of one cell."""
        return self._embedded(dense.flatten(2).mT)

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """As `encode_regions`, of means that are weighted by maps (B, Q, h, w)."""
        return self._embedded(pool_activations(dense, maps))

    def _embedded(self, pooled: Tensor) -> Tensor:
        cells = pooled.flatten(0, 1)[:, :, None, None]  # each region as a 1 x 1 image
        encoded = self.visual.head(self.network.forward_head(cells))
        return encoded.unflatten(0, pooled.shape[:2])


def has_pyramid(network: Any) -> bool:
    """Whether a network of timm gives features at all of `STRIDES`, for images of any size."""
    stages = getattr(network, "feature_info", None) or ()
    reductions = {stage["reduction"] for stage in stages}
    any_size = not hasattr(network, "patch_embed")  # windows and positions have one size
    return (
        any_size
        and reductions >= set(STRIDES.values())
        and hasattr(network, "forward_intermediates")
    )
