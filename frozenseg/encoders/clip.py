"""A frozen CLIP of open_clip: image features, text vectors, and embeddings of image regions.

Legend: B images, Q regions, C channels of the last stage, D dimension of the joint space, h x w
cells.
"""

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock
from frozenseg.errors import UserError
from frozenseg.runtime.precision import in_float32, in_type_of
from frozenseg.structures import ClipFeatures


class FrozenClip(ClipText):
    """CLIP with a convolutional image tower (ConvNeXt or ResNet), both backbone and classifier."""

    def __init__(self, *, model: open_clip.CLIP, name: str, mean: list[float], std: list[float]):
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
        """Channels of "res2" (stride 4) to "res5" (stride 32)."""
        return self.trunk.channels

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the scale of CLIP's cosines."""
        return self.model.logit_scale

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> ClipFeatures:
        """The feature pyramid of normalised pixels (B, 3, H, W), H and W multiples of 32."""
        pixels = pixels.to(self.trunk_dtype)
        with in_type_of(pixels):
            return self.trunk(pixels)

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

    @torch.no_grad()
    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """CLIP's embeddings (B, Q, D) of regions, in float32.

        dense: (B, C, h, w) of `ClipFeatures`. mask_logits: (B, Q, h, w), on the same grid.
        """
        with in_float32(dense):
            return self.trunk.encode_regions(dense.float(), mask_logits)


def build_clip_model(name: str, *, quick_gelu: bool) -> open_clip.CLIP:
    """An open_clip model without weights. quick_gelu: the activation that OpenAI's weights need,
    in place of GELU."""
    config = clip_config(name)
    if config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]:
        raise UserError(f"{name}: its text tower is not CLIP's own")
    config["quick_gelu"] = quick_gelu
    return open_clip.CLIP(**config)


def image_trunk(visual: nn.Module, name: str) -> ConvNeXtTrunk | ResNetTrunk:
    """The image tower as a feature pyramid; raises `UserError` for other kinds of towers.

    name: of the model, for messages.
    """
    if isinstance(visual, ModifiedResNet):
        return ResNetTrunk(visual)
    stages = getattr(getattr(visual, "trunk", None), "stages", None)
    if stages is None:
        raise UserError(
            f"{name}: a ConvNeXt or ResNet image tower is needed, e.g. convnext_large_d_320 or "
            "RN50x64"
        )
    return ConvNeXtTrunk(visual)
