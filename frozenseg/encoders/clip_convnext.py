"""The ConvNeXt image tower of an open_clip model, as a feature pyramid.

Legend: B images, Q regions, C channels of the last stage, D joint space, h x w cells.
"""

from typing import Any

import torch
from timm.layers import GELU, GELUTanh, LayerNorm, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from frozenseg.encoders.pooling import pool_masks
from frozenseg.runtime.linear import (
    Activation,
    PackedLinear,
    apply_linear,
    linear,
    pack,
    runs_fused,
)
from frozenseg.structures import ClipFeatures


class ConvNeXtTrunk:
    """Calls a tower it does not own: the parameters stay with the open_clip model."""

    def __init__(self, visual: Any) -> None:
        """visual: open_clip's tower; untyped, because its parts are reached by name. Its blocks
        are told to run as `FusedConvNeXtBlock`."""
        self.visual = visual
        fuse_blocks(visual.trunk)
        self.channels = {
            f"res{number + 2}": info["num_chs"]
            for number, info in enumerate(self.visual.trunk.feature_info)
        }

    def __call__(self, pixels: Tensor) -> ClipFeatures:
        features = self.visual.trunk.stem(pixels)
        levels = {}
        for number, stage in enumerate(self.visual.trunk.stages):
            features = levels[f"res{number + 2}"] = stage(features)
        return ClipFeatures(levels, self.visual.trunk.norm_pre(features))

    def encode_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """The mean of a region's features takes the place of the mean of the whole image."""
        pooled = pool_masks(dense, mask_logits)
        cells = pooled.flatten(0, 1)[:, :, None, None]  # one fake 1 x 1 image per region
        return self.visual.head(self.visual.trunk.head(cells)).unflatten(0, pooled.shape[:2])


HIDDEN_ELEMENTS = 1 << 24
"""Floats of a block's hidden layer that are made at once. ConvNeXt-L's first stage has 47 million
at 800 x 1216: more than the heap takes (`frozenseg.runtime.allocator`), and new memory from the
system costs 0.1 s a block."""

ACTIVATIONS: dict[type, Activation] = {GELU: "gelu", GELUTanh: "gelu_tanh"}  # timm's


class FusedConvNeXtBlock(ConvNeXtBlock):
    """timm's block, for a frozen trunk; parameters and outputs are the same.

    Where linear layers run fused (`frozenseg.runtime.linear`), the channels of a cell stay together
    from block to block, and the layer scale, a factor for each channel, goes into the weights of
    the layer before it. Elsewhere it is timm's own.
    """

    mlp: Any  # a `Mlp` of linear layers, see `_is_plain`

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if not runs_fused(x, *self.mlp.parameters()):
            return super().forward(x)
        cells = x.permute(0, 2, 3, 1).contiguous()  # no copy of what another such block made
        mixed = self.conv_dw(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        scaled = None  # a packed layer has the scale in it
        if self.gamma is not None and not isinstance(self.mlp.fc2, PackedLinear):
            scaled = self._scaled(self.gamma)
        tokens, residual = mixed.flatten(0, 2), cells.flatten(0, 2)  # (B * h * w, C)
        rows = max(1, HIDDEN_ELEMENTS // self.mlp.fc1.out_features)
        if len(tokens) <= rows:
            out = self._mlp_fused(tokens, residual, scaled)
        else:
            out = torch.empty_like(residual)
            parts = (tensor.split(rows) for tensor in (tokens, residual, out))
            for some_tokens, some_residual, done in zip(*parts, strict=True):
                done.copy_(self._mlp_fused(some_tokens, some_residual, scaled))
        return out.view_as(cells).permute(0, 3, 1, 2)

    def _mlp_fused(
        self, tokens: Tensor, residual: Tensor, scaled: tuple[Tensor, Tensor | None] | None
    ) -> Tensor:
        """What follows the mixing of cells, for some (n, C) of them. scaled: as `_scaled`, or None
        where the last layer is to be taken as it is."""
        activation = ACTIVATIONS[type(self.mlp.act)]
        hidden = apply_linear(self.mlp.fc1, self.norm(tokens), activation=activation)
        if scaled is None:
            return apply_linear(self.mlp.fc2, hidden, residual=residual)
        return linear(hidden, *scaled, residual=residual)

    def _scaled(self, gamma: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the last layer with the layer scale in them."""
        out = self.mlp.fc2
        return out.weight * gamma[:, None], None if out.bias is None else out.bias * gamma

    def pack(self) -> None:
        """For a trunk that only predicts: the weights in oneDNN's layout where it can take them.

        The layer scale goes into them for good and is 1 from then on: the state is another, and
        says the same.
        """
        if isinstance(self.mlp.fc2, PackedLinear) or not runs_fused(*self.mlp.parameters()):
            return
        if self.gamma is not None:
            weight, bias = self._scaled(self.gamma)
            self.mlp.fc2.weight.data = weight
            if bias is not None:
                self.mlp.fc2.bias.data = bias
            self.gamma.data.fill_(1)
        pack(self.mlp.fc1)
        pack(self.mlp.fc2)


def fuse_blocks(trunk: nn.Module) -> None:
    """Let the blocks of timm's trunk that are of the plain kind run as `FusedConvNeXtBlock`, in
    place; modules and names of parameters stay."""
    for block in trunk.modules():
        if type(block) is ConvNeXtBlock and _is_plain(block):
            block.__class__ = FusedConvNeXtBlock


def _is_plain(block: ConvNeXtBlock) -> bool:
    mlp = block.mlp
    return (
        not block.use_conv_mlp
        and isinstance(block.norm, LayerNorm)
        and type(mlp) is Mlp
        and isinstance(mlp.fc1, nn.Linear)
        and type(mlp.act) in ACTIVATIONS
        and isinstance(mlp.norm, nn.Identity)
        and isinstance(block.shortcut, nn.Identity)
    )
