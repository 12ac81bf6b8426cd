"""A frozen CLIP through open_clip: image features, text vectors, and CLIP's own view of a region.

Legend: B images, Q regions, C channels of the last stage, D joint space, h x w cells.
"""

import hashlib
import json
from pathlib import Path

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from frozenseg.encoders.clip_convnext import ConvNeXtTrunk
from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.frozen import Frozen
from frozenseg.errors import UserError, nearest
from frozenseg.structures import ClipFeatures

CONFIGS = Path(__file__).parent / "clip_configs"  # our own small models, in open_clip's format


class FrozenClip(Frozen):
    """CLIP with a convolutional image tower (ConvNeXt or ResNet), as backbone and as classifier."""

    def __init__(self, *, model: open_clip.CLIP, name: str, mean: list[float], std: list[float]):
        """model: from `build_clip_model`. mean, std: of RGB in 0-255."""
        super().__init__()
        self.model = self.freeze(model)
        self.name = name
        self.trunk = image_trunk(model.visual, name)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of "res2" (stride 4) to "res5" (stride 32)."""
        return self.trunk.channels

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.model.text_projection.shape[-1]

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> ClipFeatures:
        """pixels (B, 3, H, W), normalised, H and W multiples of 32."""
        return self.trunk(pixels)

    @torch.no_grad()
    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """dense (B, C, h, w), mask_logits (B, Q, h, w) -> CLIP's embedding of regions (B, Q, D)."""
        return self.trunk.encode_regions(dense, mask_logits)

    @torch.no_grad()
    def encode_text(self, texts: list[str], batch_size: int = 128) -> Tensor:
        """(N, D) vectors, not normalised, in the order of `texts`; open_clip's own text tower."""
        device = self.model.text_projection.device
        tokens = self.tokenizer(texts)  # (N, context length), zeros behind the end of a text
        for row in (tokens[:, -1] != 0).nonzero()[:, 0].tolist():
            # Full to the last place: the tokenizer may have cut it silently.
            length = len(self.tokenizer.encode(texts[row])) + 2  # start and end of text
            if length > self.model.context_length:
                raise UserError(
                    f"{texts[row][:60]!r}: {length} tokens, the text encoder reads "
                    f"{self.model.context_length}; use a shorter name"
                )
        vectors = [self.model.encode_text(part.to(device)) for part in tokens.split(batch_size)]
        return torch.cat(vectors).float()

    def text_fingerprint(self) -> str:
        """A digest of all that decides text vectors: architecture, weights, open_clip's version."""
        digest = hashlib.sha256()
        config = open_clip.get_model_config(self.name)
        quick_gelu = any(isinstance(part, QuickGELU) for part in self.model.transformer.modules())
        digest.update(json.dumps([config, quick_gelu, open_clip.__version__]).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            if not name.startswith("visual."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def build_clip_model(name: str, *, quick_gelu: bool) -> open_clip.CLIP:
    """An open_clip model without weights. quick_gelu: the activation that OpenAI's weights need."""
    for path in CONFIGS.glob("*.json"):
        open_clip.add_model_config(path)
    known = open_clip.list_models()
    if name not in known:
        raise UserError(f"MODEL.FROZEN_SEG.CLIP_MODEL_NAME {name}: unknown; {nearest(name, known)}")
    config = open_clip.get_model_config(name)
    if config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]:
        raise UserError(
            f"MODEL.FROZEN_SEG.CLIP_MODEL_NAME {name}: its text tower is not CLIP's own"
        )
    config["quick_gelu"] = quick_gelu or config.get("quick_gelu", False)
    return open_clip.CLIP(**config)


def image_trunk(visual: nn.Module, name: str) -> ConvNeXtTrunk | ResNetTrunk:
    """The image tower as a feature pyramid; name: of the model, for the error message."""
    if isinstance(visual, ModifiedResNet):
        return ResNetTrunk(visual)
    stages = getattr(getattr(visual, "trunk", None), "stages", None)
    if stages is None:
        raise UserError(
            f"MODEL.FROZEN_SEG.CLIP_MODEL_NAME {name}: a ConvNeXt or ResNet image tower is needed, "
            "e.g. convnext_large_d_320 or RN50x64"
        )
    return ConvNeXtTrunk(visual)
