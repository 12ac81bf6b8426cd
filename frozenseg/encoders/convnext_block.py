"""timm's ConvNeXt block for frozen trunks, with fewer operations, which are fused on a CPU.

Legend: B images, C channels, h x w cells.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import GELU, GELUTanh, LayerNorm, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from frozenseg.runtime.channels_last import depthwise_layer_norm, is_depthwise, runs_kernels
from frozenseg.runtime.linear import (
    Activation,
    PrepackedLinear,
    apply_linear,
    linear,
    prepack,
    runs_fused,
    to_int8,
)
from frozenseg.runtime.precision import compute_dtype

# Floats of a block's hidden layer that are computed at once. ConvNeXt-L's first stage has 47
# million at 800 x 1216. That is more memory than the heap retains (`frozenseg.runtime.allocator`),
# and getting new memory from the system costs 0.1 s in each block.
HIDDEN_ELEMENTS = 1 << 24

ACTIVATIONS: dict[type, Activation] = {GELU: "gelu", GELUTanh: "gelu_tanh"}  # timm's classes


class FusedConvNeXtBlock(ConvNeXtBlock):
    """timm's block for a frozen trunk, with the same parameters and outputs.

    If linear layers run fused (`frozenseg.runtime.linear`), if the weights are in half precision,
    or if CUDA computes in half precision without gradients, features stay channels-last from block
    to block, and the layer scale (a factor for each channel) is multiplied into the weights of the
    linear layer before it. Otherwise the block runs as in timm.
    """

    scale_folded = False  # whether the last layer includes the layer scale
    mlp: Any  # an `Mlp` of linear layers, see `_is_plain`
    _taps: Tensor | None = None  # the weights of the convolution as (7, 7, C)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, h, w) to the same shape."""
        weight = self.mlp.fc1.weight
        on_cuda = x.device.type == "cuda" and not torch.is_grad_enabled()
        dtype = compute_dtype(weight) if on_cuda else weight.dtype
        if dtype == torch.float32 and not runs_fused(x, *self.mlp.parameters()):
            return super().forward(x)
        # This copies nothing after another block of this class.
        cells = x.to(dtype).permute(0, 2, 3, 1).contiguous()
        mixed, normed = self._mixed(cells)
        scaled = None
        if self.gamma is not None and not self.scale_folded:
            scaled = self._scaled(self.gamma)
        tokens, residual = mixed.flatten(0, 2), cells.flatten(0, 2)  # (B * h * w, C)
        rows = max(1, HIDDEN_ELEMENTS // self.mlp.fc1.out_features)
        if len(tokens) <= rows or x.device.type != "cpu":
            out = self._mlp_fused(tokens if normed else self.norm(tokens), residual, scaled)
        else:
            out = torch.empty_like(residual)
            parts = (tensor.split(rows) for tensor in (tokens, residual, out))
            for some_tokens, some_residual, some_out in zip(*parts, strict=True):
                some_out.copy_(self._mlp_fused(self.norm(some_tokens), some_residual, scaled))
        return out.view_as(cells).permute(0, 3, 1, 2)

    def _mlp_fused(
        self, tokens: Tensor, residual: Tensor, scaled: tuple[Tensor, Tensor | None] | None
    ) -> Tensor:
        """Apply the MLP of the block to n cells (n, C) after the norm, and add `residual`.

        scaled: the result of `_scaled`, or None to use the last layer as it is.
        """
        activation = ACTIVATIONS[type(self.mlp.act)]
        hidden = apply_linear(self.mlp.fc1, tokens, activation=activation)
        if scaled is None:
            return apply_linear(self.mlp.fc2, hidden, residual=residual)
        return linear(hidden, *scaled, residual=residual)

    def _mixed(self, cells: Tensor) -> tuple[Tensor, bool]:
        """Return the depthwise convolution of cells (B, h, w, C), and whether the result already
        includes the norm after it."""
        maps, conv, norm = cells.permute(0, 3, 1, 2), self.conv_dw, self.norm
        if not runs_kernels(maps):
            return conv(maps).permute(0, 2, 3, 1), False
        if self._taps is None:
            self._taps = conv.weight.detach()[:, 0].permute(1, 2, 0).contiguous()
        weights = (self._taps, conv.bias, norm.weight, norm.bias)
        given = (weight.to(cells.dtype) for weight in weights)
        return depthwise_layer_norm(cells, *given, norm.eps), True

    def _scaled(self, gamma: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the last layer, multiplied by the layer scale."""
        out = self.mlp.fc2
        return out.weight * gamma[:, None], None if out.bias is None else out.bias * gamma

    def fold_scale(self) -> None:
        """Multiply the layer scale into the last layer permanently, in a trunk that only predicts.

        The scale is 1 afterwards: the state dict changes, but not the output of the block.
        """
        if self.gamma is None or self.scale_folded:
            return
        weight, bias = self._scaled(self.gamma)
        self.mlp.fc2.weight.data = weight
        if bias is not None:
            self.mlp.fc2.bias.data = bias
        self.gamma.data.fill_(1)
        self.scale_folded = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._taps = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.scale_folded, self._taps = False, None
        super()._load_from_state_dict(*arguments)

    def prepack(self, *, int8: bool = False) -> None:
        """Prepack the weights of a trunk that only predicts, or quantise them to 8 bits."""
        if isinstance(self.mlp.fc2, PrepackedLinear) or not runs_fused(*self.mlp.parameters()):
            return
        self.fold_scale()
        pack = to_int8 if int8 else prepack
        for layer in (self.mlp.fc1, self.mlp.fc2):
            pack(layer)


def fuse_blocks(trunk: nn.Module) -> None:
    """Turn the plain blocks of timm's trunk into `FusedConvNeXtBlock`s, in place.

    The modules and the names of parameters stay the same.
    """
    for block in trunk.modules():
        if type(block) is ConvNeXtBlock and _is_plain(block):
            block.__class__ = FusedConvNeXtBlock


def _is_plain(block: ConvNeXtBlock) -> bool:
    mlp = block.mlp
    return (
        not block.use_conv_mlp
        and is_depthwise(block.conv_dw)
        and isinstance(block.norm, LayerNorm)
        and type(mlp) is Mlp
        and isinstance(mlp.fc1, nn.Linear)
        and type(mlp.act) in ACTIVATIONS
        and isinstance(mlp.norm, nn.Identity)
        and isinstance(block.shortcut, nn.Identity)
    )
