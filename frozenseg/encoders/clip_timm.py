"""CLIP's convolutional image towers from timm as feature pyramids, e.g. MobileCLIP's FastViT.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells.
"""

from typing import Any

from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_activations, pool_masks
from frozenseg.structures import ClipFeatures

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class TimmTrunk:
    """Runs a timm network inside open_clip's adapter; it owns neither of them.

    As in `ConvNeXtTrunk`, the mean of a region's features goes through the head.
    """

    def __init__(self, visual: Any) -> None:
        """visual: the adapter of a network for which `has_pyramid` is True."""
        self.visual, self.network = visual, visual.trunk
        found = {stage["reduction"]: place for place, stage in enumerate(self.network.feature_info)}
        self.stages = {name: found[stride] for name, stride in STRIDES.items()}
        self.channels = {
            name: self.network.feature_info[place]["num_chs"] for name, place in self.stages.items()
        }

    def backbone(self) -> list[nn.Module]:
        """Return the parts that compute the pyramid."""
        return [part for name, part in self.network.named_children() if name != "head"]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that belong to the network itself, not to one of its submodules."""
        return list(self.network.parameters(recurse=False))

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the feature pyramid of normalised pixels (B, 3, H, W)."""
        dense, levels = self.network.forward_intermediates(
            pixels, indices=list(self.stages.values())
        )
        return ClipFeatures(dict(zip(self.stages, levels, strict=True)), dense)

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return embeddings (B, Q, D) of the regions of mask_logits (B, Q, h, w) in dense (B, C, h,
        w)."""
        return self._embedded(pool_masks(dense, mask_logits))

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each as a region."""
        return self._embedded(dense.flatten(2).mT)

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, with means weighted by maps (B, Q, h, w)."""
        return self._embedded(pool_activations(dense, maps))

    def _embedded(self, pooled: Tensor) -> Tensor:
        cells = pooled.flatten(0, 1)[:, :, None, None]  # each region as a 1 x 1 image
        encoded = self.visual.head(self.network.forward_head(cells))
        return encoded.unflatten(0, pooled.shape[:2])


def has_pyramid(network: Any) -> bool:
    """Return whether a timm network has features at all `STRIDES`, for images of any size."""
    stages = getattr(network, "feature_info", None) or ()
    reductions = {stage["reduction"] for stage in stages}
    any_size = not hasattr(network, "patch_embed")  # its windows and positions fit one size only
    return (
        any_size
        and reductions >= set(STRIDES.values())
        and hasattr(network, "forward_intermediates")
    )
