"""Frozen visual encoders behind one interface: a padded batch in, unit patch tokens and grid out.

What they learned from decides their kind: words (CLIP), images alone (DINO, MoCo v3), masks (SAM).
Fusioner (arXiv 2210.15138) joins any of them with any text encoder. Inputs may have any
size that is a multiple of `stride`; tables of positions are interpolated to it.

Legend: B images, C channels of a token, h x w cells.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.frozen import Frozen
from frozenseg.encoders.sam import FrozenSam
from frozenseg.errors import UserError, nearest
from frozenseg.structures import ImageBatch, PatchTokens


class PatchEncoder(Frozen):
    """A frozen visual encoder."""

    channels: int
    """C."""
    stride: int
    """Images are padded to a multiple of so many pixels."""

    @property
    def network(self) -> nn.Module:
        """What the weights of the encoder's file are loaded into."""
        raise NotImplementedError

    def cells(self, images: ImageBatch) -> Tensor:
        """(B, C, h, w) over the padded images, not normalised."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: ImageBatch) -> PatchTokens:
        """The cells as unit vectors; a cell of zeros stays zero."""
        cells = self.cells(images)
        tokens = F.normalize(cells.flatten(2).transpose(1, 2), dim=-1)
        return PatchTokens(tokens, (cells.shape[-2], cells.shape[-1]))


class _Normalizing(PatchEncoder):
    """An encoder that takes normalised pixels. mean, std: of RGB in 0-255."""

    def __init__(self, *, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = self.freeze(model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def network(self) -> nn.Module:
        return self.model


class ClipVitPatches(_Normalizing):
    """CLIP's ViT: its patch tokens behind the last norm and the projection to the joint space, so
    C is that of the text vectors (Fusioner). The class token is dropped."""

    def __init__(self, *, model: VisionTransformer, mean: list[float], std: list[float]) -> None:
        super().__init__(model=model, mean=mean, std=std)
        self.channels = model.output_dim
        self.stride = model.patch_size[0]

    def cells(self, images: ImageBatch) -> Tensor:
        vit: Any = self.model
        patches = vit.conv1(images.normalized(self.mean, self.std))  # (B, width, h, w)
        grid = (patches.shape[-2], patches.shape[-1])
        patches = patches.flatten(2).transpose(1, 2)  # (B, h*w, width)
        first = vit.class_embedding.expand(len(patches), 1, -1)
        tokens = torch.cat((first, patches), dim=1)
        tokens = tokens + interpolate_positions(vit.positional_embedding, grid)
        tokens = vit.transformer(vit.ln_pre(tokens))[:, 1:]
        return (vit.ln_post(tokens) @ vit.proj).transpose(1, 2).unflatten(2, grid)


class ClipResNetPatches(_Normalizing):
    """CLIP's ResNet: each cell of the last stage as CLIP's pooling sees it alone, in the joint
    space.

    The published code has no ResNet; this is our reading of "after the projection" for it.
    """

    stride = 32

    def __init__(self, *, model: ModifiedResNet, mean: list[float], std: list[float]) -> None:
        super().__init__(model=model, mean=mean, std=std)
        self.trunk = ResNetTrunk(model)
        self.channels = model.attnpool.c_proj.out_features

    def cells(self, images: ImageBatch) -> Tensor:
        dense = self.trunk(images.normalized(self.mean, self.std)).dense
        return self.trunk.encode_cells(dense).transpose(1, 2).unflatten(2, dense.shape[-2:])


class TimmPatches(_Normalizing):
    """A ViT of timm, for DINO and MoCo v3: patch tokens behind the last norm, prefix dropped."""

    def __init__(self, *, model: TimmVisionTransformer) -> None:
        """model: from `build_timm_vit`. Both methods trained with ImageNet's usual statistics."""
        mean, std = (
            [255 * value for value in values]
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        super().__init__(model=model, mean=mean, std=std)
        self.channels = model.embed_dim
        self.stride = model.patch_embed.patch_size[0]

    def cells(self, images: ImageBatch) -> Tensor:
        pixels = images.normalized(self.mean, self.std)
        grid = (pixels.shape[-2] // self.stride, pixels.shape[-1] // self.stride)
        vit: Any = self.model
        tokens = vit.forward_features(pixels)[:, vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, grid)


class SamPatches(PatchEncoder):
    """SAM's image encoder at SAM's own input size, its embedding spread over the padded images."""

    def __init__(self, *, sam: FrozenSam) -> None:
        super().__init__()
        self.sam = sam
        self.channels = sam.channels
        self.stride = sam.model.image_encoder.patch_embed.proj.stride[0]

    @property
    def network(self) -> nn.Module:
        return self.sam.model

    def cells(self, images: ImageBatch) -> Tensor:
        return self.sam(images)


def clip_patches(
    visual: nn.Module, *, name: str, mean: list[float], std: list[float]
) -> ClipVitPatches | ClipResNetPatches:
    """The image tower of an open_clip model as a patch encoder; name: for the error message."""
    if isinstance(visual, ModifiedResNet):
        return ClipResNetPatches(model=visual, mean=mean, std=std)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return ClipVitPatches(model=visual, mean=mean, std=std)
    raise UserError(
        f"{name}: a ViT or ResNet image tower of CLIP is needed, e.g. ViT-L-14, ViT-B-16 or RN101"
    )


def build_timm_vit(name: str) -> TimmVisionTransformer:
    """A ViT of timm without head and weights, for inputs of any size."""
    known = timm.list_models("*vit*")
    if name.partition(".")[0] not in known:
        raise UserError(f"{name}: unknown; {nearest(name, known)}")
    model = None
    if "vit" in name:
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        except (TypeError, RuntimeError):  # no plain ViT, or a weights tag that timm does not know
            model = None
    if not isinstance(model, TimmVisionTransformer):
        raise UserError(f"{name}: not a plain ViT of timm; take e.g. vit_base_patch16_224")
    return model


def interpolate_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A ViT's table (1 + n*n, C), class token first, for h x w patches: (1 + h*w, C); bicubic, as
    open_clip and timm resize such tables."""
    side = round((len(table) - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(
        square.float(), size=grid, mode="bicubic", align_corners=False, antialias=True
    )
    return torch.cat((table[:1], resized[0].flatten(1).T.to(table.dtype)))
