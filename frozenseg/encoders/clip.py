"""A frozen CLIP of open_clip: image features, text vectors, and embeddings of image regions.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells.
"""

from collections.abc import Callable
from typing import Any, Protocol

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.clip_timm import TimmTrunk, has_pyramid
from frozenseg.encoders.clip_vit import TimmVitTrunk, VitTrunk
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock
from frozenseg.errors import UserError
from frozenseg.runtime.precision import in_float32, in_type_of
from frozenseg.structures import ClipFeatures


class FrozenClip(ClipText):
    """CLIP whose image tower is both backbone and classifier of regions."""

    def __init__(self, *, model: Any, name: str, mean: list[float], std: list[float]):
        """model: from `build_clip_model`. name: of its architecture. mean, std: of RGB in 0-255."""
        super().__init__(model=model, name=name)
        self.trunk = image_trunk(model.visual, name)
        self.trunk_dtype = torch.float32
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of "res2" (stride 4) to "res5" (stride 32); of a ViT, of "res4" alone."""
        return self.trunk.channels

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the scale of CLIP's cosines."""
        return self.model.logit_scale

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> ClipFeatures:
        """Return the feature pyramid of normalised pixels (B, 3, H, W), H and W multiples of 32."""
        pixels = pixels.to(self.trunk_dtype)
        with in_type_of(pixels):
            return self.trunk(pixels)

    def set_pool_temperature(self, temperature: float) -> None:
        """Divide the scores by which attention pools the cells of a region.

        Where a CLIP's scores are so large that each head looks at one cell, a temperature above 1
        makes it look at several. Only a ResNet has such an attention; raises `UserError` otherwise.
        """
        if isinstance(self.trunk, ResNetTrunk):
            self.trunk.temperature = temperature
        elif temperature != 1:
            raise UserError(f"{temperature:g}: {self.name} pools without attention; leave it at 1")

    def cast_trunk(self, dtype: torch.dtype) -> None:
        """Keep the weights of the trunk in `dtype`, in which it then computes.

        The layers behind the pooling of regions stay in float32.
        """
        self.trunk_dtype = dtype
        for part in self.trunk.backbone():
            for block in part.modules():
                if isinstance(block, FusedConvNeXtBlock):
                    block.fold_scale()
            part.to(dtype)
        for parameter in getattr(self.trunk, "parameters", list)():
            parameter.data = parameter.data.to(dtype)

    @torch.no_grad()
    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """CLIP's embeddings (B, Q, D) of regions, in float32.

        dense: (B, C, h, w) of `ClipFeatures`. mask_logits: (B, Q, h, w), on the same grid.
        """
        with in_float32(dense):
            return self.trunk.encode_regions(dense.float(), mask_logits)

    @torch.no_grad()
    def encode_cells(self, dense: Tensor) -> Tensor:
        """CLIP's embeddings (B, D, h, w) of the cells of dense (B, C, h, w), each a region."""
        with in_float32(dense):
            embedded = self.trunk.encode_cells(dense.float())
        return embedded.transpose(1, 2).unflatten(2, dense.shape[-2:])

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """CLIP's embeddings (B, Q, D) of regions given by M maps each, in float32, with gradients.

        dense: (B, C, h, w). maps: (B, Q, M, h, w), logits of how much each cell counts; the
        embeddings of a region's maps are averaged (Mask-Adapter, arXiv 2412.04533).
        """
        with in_float32(dense):
            embedded = self.trunk.encode_activations(dense.float(), maps.float().flatten(1, 2))
        return embedded.unflatten(1, maps.shape[1:3]).mean(2)


def build_clip_model(name: str, *, quick_gelu: bool) -> Any:
    """Return an open_clip model without weights: `open_clip.CLIP`, or `CustomTextCLIP` where the
    text tower is a part of its own, with the same methods.

    quick_gelu: the activation that OpenAI's weights need, in place of GELU.
    """
    config = clip_config(name)
    own_text = config.pop("custom_text", False)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        raise UserError(f"{name}: its text tower is not CLIP's own")
    config["quick_gelu"] = quick_gelu
    return (open_clip.CustomTextCLIP if own_text else open_clip.CLIP)(**config)


class Trunk(Protocol):
    """An image tower as features. channels: of its levels, as in `ClipFeatures`.

    The levels are "res2" to "res5", or "res4" alone, from which `SimpleFeaturePyramid` makes them.
    """

    channels: dict[str, int]

    def backbone(self) -> list[nn.Module]:
        """Return the parts that may be kept in half precision."""

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the features of normalised pixels (B, 3, H, W)."""

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embeddings (B, Q, D) of regions. dense: (B, C, h, w). mask_logits: (B, Q, h, w)."""

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Embeddings (B, h*w, D) of the cells of dense (B, C, h, w), as of regions of one cell."""

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """As `encode_regions`, where cells count as much as the sigmoid of maps (B, Q, h, w)."""


def _timm_trunk(visual: Any) -> Trunk | None:
    """Return the tower in open_clip's adapter of timm; None for a network of another kind."""
    network = visual.trunk
    if isinstance(network, ConvNeXt):
        return ConvNeXtTrunk(visual)
    if isinstance(network, TimmVisionTransformer | Eva):
        return TimmVitTrunk(visual)
    return TimmTrunk(visual) if has_pyramid(network) else None


def _vit_trunk(visual: Any) -> Trunk | None:
    return VitTrunk(visual) if visual.attn_pool is None and visual.proj is not None else None


TRUNKS: dict[type[nn.Module], Callable[[Any], Trunk | None]] = {
    ModifiedResNet: ResNetTrunk,
    TimmModel: _timm_trunk,
    VisionTransformer: _vit_trunk,
}
"""By the class of open_clip's image tower. None: it is one that cannot be used."""


def image_trunk(visual: nn.Module, name: str) -> Trunk:
    """Return the image tower as features; raises `UserError` for a kind of tower that is in no row.

    name: of the model, for messages.
    """
    make = TRUNKS.get(type(visual))
    trunk = None if make is None else make(visual)
    if trunk is None:
        raise UserError(
            f"{name}: its image tower gives no pyramid of features; take e.g. convnext_large_d_320,"
            " RN50x64, ViT-B-16 or MobileCLIP2-S2"
        )
    return trunk
