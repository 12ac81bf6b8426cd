"""A frozen CLIP from open_clip: image features, text vectors, and embeddings of image regions.

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
    """A frozen CLIP whose image tower is both the backbone and the classifier of regions."""

    def __init__(self, *, model: Any, name: str, mean: list[float], std: list[float]):
        """Use the towers of an open_clip model.

        model: from `build_clip_model`. name: of its architecture. mean, std: of RGB in 0-255.
        """
        super().__init__(model=model, name=name)
        self.trunk = image_trunk(model.visual, name)
        self.trunk_dtype = torch.float32
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of "res2" (stride 4) to "res5" (stride 32); for a ViT only of "res4"."""
        return self.trunk.channels

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the factor by which CLIP multiplies cosines."""
        return self.model.logit_scale

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> ClipFeatures:
        """Return the features of normalised pixels (B, 3, H, W), with H and W multiples of 32."""
        pixels = pixels.to(self.trunk_dtype)
        with in_type_of(pixels):
            return self.trunk(pixels)

    def set_pool_temperature(self, temperature: float) -> None:
        """Set the temperature that divides the scores when attention pools the cells of a region.

        In some CLIPs the scores are so large that each head attends to a single cell; a temperature
        above 1 lets it attend to several. Only the ResNet tower supports it: for other towers, any
        temperature but 1 raises `UserError`.
        """
        if isinstance(self.trunk, ResNetTrunk):
            self.trunk.temperature = temperature
        elif temperature != 1:
            raise UserError(
                f"{temperature:g}: the image tower of {self.name} is not CLIP's ResNet, the only "
                "one with a pooling temperature; leave it at 1"
            )

    def cast_trunk(self, dtype: torch.dtype) -> None:
        """Store the weights of the trunk in `dtype`, in which it then computes.

        The layers after the pooling of regions stay in float32.
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
        """Return CLIP's embeddings (B, Q, D) of regions, in float32.

        dense: (B, C, h, w), see `ClipFeatures`. mask_logits: (B, Q, h, w), on the same grid.
        """
        with in_float32(dense):
            return self.trunk.encode_regions(dense.float(), mask_logits)

    @torch.no_grad()
    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return CLIP's embeddings (B, D, h, w) of the cells of dense (B, C, h, w), where each cell
        is a region."""
        with in_float32(dense):
            embedded = self.trunk.encode_cells(dense.float())
        return embedded.transpose(1, 2).unflatten(2, dense.shape[-2:])

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Return CLIP's embeddings (B, Q, D) of regions that are each given by M activation maps.

        The embeddings of the M maps of a region are averaged (Mask-Adapter, arXiv 2412.04533). The
        result is in float32, and gradients flow through it.

        dense: (B, C, h, w). maps: (B, Q, M, h, w), logits; their sigmoids are the weights of cells.
        """
        with in_float32(dense):
            embedded = self.trunk.encode_activations(dense.float(), maps.float().flatten(1, 2))
        return embedded.unflatten(1, maps.shape[1:3]).mean(2)


def build_clip_model(name: str, *, quick_gelu: bool) -> Any:
    """Return an open_clip model without pretrained weights: an `open_clip.CLIP`, or a
    `CustomTextCLIP` if the text tower is a separate module; both have the same methods.

    quick_gelu: whether to use QuickGELU, which OpenAI's weights need, instead of GELU. Raises
    `UserError` if the text tower is not CLIP's own.
    """
    config = clip_config(name)
    own_text = config.pop("custom_text", False)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        raise UserError(f"{name}: its text tower is not CLIP's own")
    config["quick_gelu"] = quick_gelu
    return (open_clip.CustomTextCLIP if own_text else open_clip.CLIP)(**config)


class Trunk(Protocol):
    """An image tower that returns features instead of one vector per image.

    channels: number of channels of each level, see `ClipFeatures`. The levels are "res2" to "res5",
    or only "res4", from which `SimpleFeaturePyramid` computes the others.
    """

    channels: dict[str, int]

    def backbone(self) -> list[nn.Module]:
        """Return the parts whose weights may be stored in half precision."""

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the features of normalised pixels (B, 3, H, W)."""

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return embeddings (B, Q, D) of the regions of mask_logits (B, Q, h, w) in dense (B, C, h,
        w)."""

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each as a region."""

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, with cells weighted by the sigmoid of maps (B, Q, h, w)."""


def _timm_trunk(visual: Any) -> Trunk | None:
    """Return the trunk of a timm network in open_clip's adapter; None if it is unsupported."""
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
"""Builds the trunk for each class of image tower in open_clip; None if it cannot be used."""


def image_trunk(visual: nn.Module, name: str) -> Trunk:
    """Return the trunk of an image tower; raises `UserError` if `TRUNKS` has none for it.

    name: name of the model, for the message.
    """
    make = TRUNKS.get(type(visual))
    trunk = None if make is None else make(visual)
    if trunk is None:
        raise UserError(
            f"{name}: its image tower gives no pyramid of features; use e.g. convnext_large_d_320, "
            "RN50x64, ViT-B-16 or MobileCLIP2-S2"
        )
    return trunk
