"""ViTs as image towers of CLIP: one map of cells at stride 16, from which regions are pooled.

There are two kinds: open_clip's own ViT, and ViTs from timm (SigLIP, EVA02, MobileCLIP-B, PE). The
pyramid that Mask2Former needs is computed from the map by trained layers
(`frozenseg.models.simple_pyramid`).

Legend: B images, Q regions, C channels of a token, D dimension of the joint space, h x w cells,
M heads.
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from timm.layers.format import Format
from torch import Tensor, nn

from frozenseg.encoders.pooling import log_sigmoid, pool_activations, pool_masks
from frozenseg.structures import ClipFeatures

STRIDE = 16
LEVEL = "res4"
"""The name of the only level, which has stride 16."""


class VitTrunk:
    """Runs open_clip's ViT, which it does not own.

    Inputs are resized so that a patch, whatever its size, covers 16 x 16 pixels of the image. The
    embedding of a region is the projected mean of its patch tokens after the last norm; the class
    token is left out, since it describes the entire image.
    """

    def __init__(self, visual: Any) -> None:
        """visual: open_clip's image tower; untyped, because its parts are accessed by name."""
        self.visual = visual
        self.patch = visual.patch_size[0]
        self.channels = {LEVEL: visual.conv1.out_channels}

    def backbone(self) -> list[nn.Module]:
        """Return the parts that compute the cells."""
        return [part for name, part in self.visual.named_children() if name != "attn_pool"]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that belong to the tower itself, not to one of its submodules,
        except the last projection."""
        own = self.visual.named_parameters(recurse=False)
        return [parameter for name, parameter in own if name != "proj"]

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the cells of normalised pixels (B, 3, H, W), with H and W multiples of 32."""
        tokens, grid = clip_vit_tokens(self.visual, at_stride_16(pixels, self.patch))
        cells = tokens.transpose(1, 2).unflatten(2, grid)
        return ClipFeatures({LEVEL: cells}, cells)

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return embeddings (B, Q, D) of the regions of mask_logits (B, Q, h, w) in dense (B, C, h,
        w)."""
        return pool_masks(dense, mask_logits) @ self.visual.proj.float()

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each as a region."""
        return dense.flatten(2).mT @ self.visual.proj.float()

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, with means weighted by maps (B, Q, h, w)."""
        return pool_activations(dense, maps) @ self.visual.proj.float()


class TimmVitTrunk:
    """Runs a timm ViT inside open_clip's adapter; it owns neither of them.

    It works like `VitTrunk`, except that if the tower pools by attention with a learned query
    (SigLIP), that query attends only to the cells of the region.
    """

    def __init__(self, visual: Any) -> None:
        """visual: the adapter. From now on its ViT accepts images of any size."""
        self.visual, self.vit = visual, visual.trunk
        accept_any_size(self.vit)
        self.patch = self.vit.feature_info[-1]["reduction"]
        self.channels = {LEVEL: self.vit.embed_dim}

    def backbone(self) -> list[nn.Module]:
        """Return the parts that compute the cells."""
        after = ("attn_pool", "fc_norm", "head_drop", "head")
        return [part for name, part in self.vit.named_children() if name not in after]

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that belong to the ViT itself, not to one of its submodules."""
        return list(self.vit.parameters(recurse=False))

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        """Return the cells of normalised pixels (B, 3, H, W), with H and W multiples of 32."""
        (cells,) = self.vit.forward_intermediates(
            at_stride_16(pixels, self.patch), indices=1, norm=True, intermediates_only=True
        )
        return ClipFeatures({LEVEL: cells}, cells)

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Return embeddings (B, Q, D) of the regions of mask_logits (B, Q, h, w) in dense (B, C, h,
        w)."""
        pool = getattr(self.vit, "attn_pool", None)
        if pool is None:
            pooled = pool_masks(dense, mask_logits)
        else:
            pooled = attend_under_masks(pool, dense, mask_logits)
        return self._embedded(pooled)

    def encode_cells(self, dense: Tensor) -> Tensor:
        """Return embeddings (B, h*w, D) of the cells of dense (B, C, h, w), each as a region."""
        pool = getattr(self.vit, "attn_pool", None)
        if pool is None:
            return self._embedded(dense.flatten(2).mT)
        _, values = _scores(pool, dense)
        # Attention to a single key returns its value.
        return self._embedded(_projected(pool, values))

    def encode_activations(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Like `encode_regions`, with means weighted by maps (B, Q, h, w); if the tower pools by
        attention, log(sigmoid(maps)) is added to the scores instead."""
        pool = getattr(self.vit, "attn_pool", None)
        if pool is None:
            return self._embedded(pool_activations(dense, maps))
        return self._embedded(attend_under_activations(pool, dense, maps))

    def _embedded(self, pooled: Tensor) -> Tensor:
        return self.visual.head(self.vit.head(self.vit.fc_norm(pooled)))


def attend_under_masks(pool: AttentionPoolLatent, dense: Tensor, mask_logits: Tensor) -> Tensor:
    """Return regions (B, Q, C) pooled by timm's attention, whose learned query attends only to the
    cells of a region.

    For a region without a positive cell it attends to the entire image, because attention to no
    cell is undefined.
    """
    inside = (mask_logits > 0).flatten(2)  # (B, Q, h*w)
    inside = inside | ~inside.any(-1, keepdim=True)
    scores, values = _scores(pool, dense)
    weights = scores.masked_fill(~inside[:, None], float("-inf")).softmax(-1)  # (B, M, Q, h*w)
    return _projected(pool, weights @ values)


def attend_under_activations(pool: AttentionPoolLatent, dense: Tensor, maps: Tensor) -> Tensor:
    """Like `attend_under_masks`, but with log(sigmoid(maps)) added to the scores of the cells; for
    maps (B, Q, h, w) of large absolute values, both give the same result."""
    scores, values = _scores(pool, dense)
    weights = (scores + log_sigmoid(maps.flatten(2))[:, None]).softmax(-1)
    return _projected(pool, weights @ values)


def _scores(pool: AttentionPoolLatent, dense: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores (B, M, 1, h*w) of the cells, and their values (B, M, h*w, c).

    The query is the same for all regions, so its scores are computed only once.
    """
    query = pool.q(pool.latent).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (1, M, 1, c)
    pairs = pool.kv(dense.flatten(2).transpose(1, 2)).unflatten(-1, (2, pool.num_heads, -1))
    keys, values = pairs.permute(2, 0, 3, 1, 4)  # (B, M, h*w, c) each
    query, keys = pool.q_norm(query), pool.k_norm(keys)
    return query @ keys.mT * pool.scale, values


def _projected(pool: AttentionPoolLatent, values: Tensor) -> Tensor:
    """Join the outputs (B, M, Q, c) of the heads and project them to (B, Q, C)."""
    pooled = pool.proj(values.transpose(1, 2).flatten(2))
    return pooled if pool.mlp is None else pooled + pool.mlp(pool.norm(pooled))


def at_stride_16(pixels: Tensor, patch: int) -> Tensor:
    """Resize pixels (B, 3, H, W) so that each patch covers 16 x 16 pixels of the input."""
    if patch == STRIDE:
        return pixels
    size = (pixels.shape[-2] * patch // STRIDE, pixels.shape[-1] * patch // STRIDE)
    # In float32, since PyTorch on a CPU does not support antialiasing in half precision.
    resized = F.interpolate(
        pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(pixels.dtype)


def accept_any_size(vit: Any) -> None:
    """Let a timm ViT accept images of any size, as if made with `dynamic_img_size=True`."""
    embed = vit.patch_embed
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC
    vit.dynamic_img_size = True
    if getattr(vit, "rope", None) is not None:  # it was built for one size, and has no weights
        name = vit.pretrained_cfg["architecture"]
        vit.rope = timm.create_model(name, dynamic_img_size=True, depth=1).rope


def clip_vit_tokens(vit: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return patch tokens (B, h*w, C) of open_clip's ViT after its last norm, and (h, w).

    pixels: normalised (B, 3, H, W), with H and W multiples of the patch size.
    """
    patches = vit.conv1(pixels)  # (B, C, h, w)
    grid = (patches.shape[-2], patches.shape[-1])
    patches = patches.flatten(2).transpose(1, 2)  # (B, h*w, C)
    first = vit.class_embedding.expand(len(patches), 1, -1)
    tokens = torch.cat((first, patches), dim=1)
    tokens = tokens + interpolate_positions(vit.positional_embedding, grid)
    tokens = vit.transformer(vit.ln_pre(tokens))[:, 1:]
    return vit.ln_post(tokens), grid


def interpolate_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a ViT's positional embeddings (1 + n*n, C) to a grid (h, w); returns (1 + h*w, C).

    The first embedding is that of the class token. Resizing is bicubic, as in open_clip and timm.
    """
    side = round((len(table) - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(
        square.float(), size=grid, mode="bicubic", align_corners=False, antialias=True
    )
    return torch.cat((table[:1], resized[0].flatten(1).T.to(table.dtype)))
