"""A frozen CLIP through open_clip: image features, text vectors, and CLIP's own view of a region.

Legend: B images, Q regions, C channels of the last stage, D joint space, h x w cells.
"""

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.clip_text import ClipText
from frozenseg.errors import UserError
from frozenseg.runtime.precision import in_float32
from frozenseg.structures import ClipFeatures


class FrozenClip(ClipText):
    """CLIP with a convolutional image tower (ConvNeXt or ResNet), as backbone and as classifier."""

    def __init__(self, *, model: open_clip.CLIP, name: str, mean: list[float], std: list[float]):
        """model: from `build_clip_model`. mean, std: of RGB in 0-255."""
        super().__init__(model=model, name=name)
        self.trunk = image_trunk(model.visual, name)
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
        return self.model.logit_scale

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> ClipFeatures:
        """pixels (B, 3, H, W), normalised, H and W multiples of 32."""
        return self.trunk(pixels)

    @torch.no_grad()
    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """dense (B, C, h, w), mask_logits (B, Q, h, w) -> CLIP's embedding of regions (B, Q, D), in
        float32."""
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
    """The image tower as a feature pyramid; name: of the model, for the error message."""
    if isinstance(visual, ModifiedResNet):
        return ResNetTrunk(visual)
    stages = getattr(getattr(visual, "trunk", None), "stages", None)
    if stages is None:
        raise UserError(
            f"{name}: a ConvNeXt or ResNet image tower is needed, e.g. convnext_large_d_320 or "
            "RN50x64"
        )
    return ConvNeXtTrunk(visual)
