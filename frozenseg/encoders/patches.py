"""Frozen visual encoders with one interface: they map a padded batch to normalised patch tokens.

They were trained with texts (CLIP), on images only (DINO, MoCo v3), or with masks (SAM). Fusioner
(arXiv 2210.15138) combines any of them with any text encoder. The height and width of an input may
be any multiples of `stride`; positional embeddings are interpolated to its size.

Legend: B images, C channels of a token, h x w cells.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from frozenseg.encoders.clip_resnet import ResNetTrunk
from frozenseg.encoders.clip_vit import clip_vit_tokens
from frozenseg.encoders.frozen import Frozen
from frozenseg.encoders.sam import FrozenSam
from frozenseg.errors import UserError, nearest
from frozenseg.structures import ImageBatch, PatchTokens


class PatchEncoder(Frozen):
    """A frozen visual encoder.

    channels: C. stride: images are padded to a multiple of it, in pixels.
    """

    channels: int
    stride: int

    @property
    def network(self) -> nn.Module:
        """The module into which the encoder's weight file is loaded."""
        raise NotImplementedError

    def cells(self, images: ImageBatch) -> Tensor:
        """Return features (B, C, h, w) that span the padded images, not normalised."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: ImageBatch) -> PatchTokens:
        """Return the cells as unit vectors; a zero vector stays zero."""
        cells = self.cells(images)
        tokens = F.normalize(cells.flatten(2).transpose(1, 2), dim=-1)
        return PatchTokens(tokens, (cells.shape[-2], cells.shape[-1]))


class _Normalizing(PatchEncoder):
    """Base class of encoders that read normalised pixels. mean, std: of RGB in 0-255."""

    def __init__(self, *, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = self.freeze(model)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def network(self) -> nn.Module:
        """See `PatchEncoder`."""
        return self.model


class ClipVitPatches(_Normalizing):
    """Patch tokens of CLIP's ViT after the last norm and the projection to the joint space.

    C is therefore the dimension of the text vectors. The class token is dropped.
    """

    def __init__(self, *, model: VisionTransformer, mean: list[float], std: list[float]) -> None:
        super().__init__(model=model, mean=mean, std=std)
        self.channels = model.output_dim
        self.stride = model.patch_size[0]

    def cells(self, images: ImageBatch) -> Tensor:
        """See `PatchEncoder`."""
        vit: Any = self.model
        tokens, grid = clip_vit_tokens(vit, images.normalized(self.mean, self.std))
        return (tokens @ vit.proj).transpose(1, 2).unflatten(2, grid)


class ClipResNetPatches(_Normalizing):
    """Cells of the last stage of CLIP's ResNet, each mapped separately into the joint space.

    The published code has no ResNet; this is our interpretation of "after the projection".
    """

    stride = 32

    def __init__(self, *, model: ModifiedResNet, mean: list[float], std: list[float]) -> None:
        super().__init__(model=model, mean=mean, std=std)
        self.trunk = ResNetTrunk(model)
        self.channels = model.attnpool.c_proj.out_features

    def cells(self, images: ImageBatch) -> Tensor:
        """See `PatchEncoder`."""
        dense = self.trunk(images.normalized(self.mean, self.std)).dense
        return self.trunk.encode_cells(dense).transpose(1, 2).unflatten(2, dense.shape[-2:])


class TimmPatches(_Normalizing):
    """Patch tokens of a timm ViT after the last norm, without prefix tokens."""

    def __init__(self, *, model: TimmVisionTransformer | Eva) -> None:
        """model: from `build_timm_vit`. DINO, DINOv3 and MoCo v3 normalise pixels by the statistics
        of ImageNet."""
        mean, std = (
            [255 * value for value in values]
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        super().__init__(model=model, mean=mean, std=std)
        self.channels = model.embed_dim
        self.stride = model.patch_embed.patch_size[0]

    def cells(self, images: ImageBatch) -> Tensor:
        """See `PatchEncoder`."""
        pixels = images.normalized(self.mean, self.std)
        grid = (pixels.shape[-2] // self.stride, pixels.shape[-1] // self.stride)
        vit: Any = self.model
        tokens = vit.forward_features(pixels)[:, vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, grid)


class SamPatches(PatchEncoder):
    """SAM's image embedding, computed at SAM's input size and aligned with the padded images."""

    def __init__(self, *, sam: FrozenSam) -> None:
        super().__init__()
        self.sam = sam
        self.channels = sam.channels
        self.stride = sam.model.image_encoder.patch_embed.proj.stride[0]

    @property
    def network(self) -> nn.Module:
        """See `PatchEncoder`."""
        return self.sam.model

    def cells(self, images: ImageBatch) -> Tensor:
        """See `PatchEncoder`."""
        return self.sam(images)


def clip_patches(
    visual: nn.Module, *, name: str, mean: list[float], std: list[float]
) -> ClipVitPatches | ClipResNetPatches:
    """Return the image tower of an open_clip model as a patch encoder.

    name: name of the model, for the message. Raises `UserError` if the tower is neither a ResNet
    nor a ViT without attention pooling.
    """
    if isinstance(visual, ModifiedResNet):
        return ClipResNetPatches(model=visual, mean=mean, std=std)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return ClipVitPatches(model=visual, mean=mean, std=std)
    raise UserError(
        f"{name}: a ViT or ResNet image tower of CLIP is needed, e.g. ViT-L-14, ViT-B-16 or RN101"
    )


def build_timm_vit(name: str) -> TimmVisionTransformer | Eva:
    """Return a timm ViT without head and without pretrained weights, for inputs of any size.

    The ViTs of DINOv3, which have rotary positions, are of timm's class `Eva`.

    Raises `UserError` if the name is unknown or is not that of a plain ViT.
    """
    known = timm.list_models("*vit*")
    if name.partition(".")[0] not in known:
        raise UserError(f"{name}: unknown; {nearest(name, known)}")
    model = None
    if "vit" in name:
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        # timm raises these for other architectures, and for unknown weight tags.
        except (TypeError, RuntimeError):
            model = None
    if not isinstance(model, TimmVisionTransformer | Eva):
        raise UserError(f"{name}: not a plain ViT of timm; use e.g. vit_base_patch16_224")
    return model
