"""Two pixel decoders: Mask2Former's for CLIP's levels, and a smaller one for SAM's embedding.

Legend: B images, C channels, levels from coarse to fine (strides 32, 16, 8).
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.models.layers import call, resize, sine_positions
from frozenseg.models.ms_deform_attn import DeformableEncoderLayer, reference_points
from frozenseg.runtime.channels_last import group_norm, groups_are_powers_of_two, runs_kernels
from frozenseg.runtime.precision import autocast_dtype, in_type_of

Recompute = Literal["layers", "parts", "nothing"]

ENCODER_HIDDEN_DIM = 1024  # feed-forward width of the deformable encoder, fixed in Mask2Former


class DeformableEncoder(nn.Module):
    """Deformable self-attention over the cells of all levels together, in several layers.

    recompute: what training recomputes in the backward pass instead of storing it (activation
        checkpointing): entire "layers", each of which then stores 0.02 GB instead of 0.18 GB at
        1024 x 1024 in bfloat16; the "parts" that `DeformableEncoderLayer` describes; or "nothing".
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(
                dim=dim,
                hidden_dim=ENCODER_HIDDEN_DIM,
                num_levels=num_levels,
                num_heads=num_heads,
                num_points=num_points,
                recompute_parts=recompute == "parts",
            )
            for _ in range(num_layers)
        )
        self.level_embedding = nn.Parameter(torch.randn(num_levels, dim))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Map levels (B, C, h, w) to refined levels of the same shapes."""
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions = torch.cat(
            [
                sine_positions(*shape, level.shape[1], device=level.device)
                .flatten(2)
                .transpose(1, 2)
                + embedding
                for level, shape, embedding in zip(
                    levels, shapes, self.level_embedding[: len(levels)], strict=True
                )
            ],
            dim=1,
        )  # (1, L, C)
        references = reference_points(tuple(shapes), tokens.device)
        for layer in self.layers:
            given = (tokens, positions, references, shapes)
            tokens = call(layer, *given, recompute=self.recompute == "layers")
        parts = tokens.split([height * width for height, width in shapes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(parts, shapes, strict=True)
        ]


def conv(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1, initialised as in Mask2Former."""
    layer = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias
    )
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv_norm(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Return a convolution followed by GroupNorm with 32 groups."""
    layer = conv(in_channels, out_channels, kernel_size=kernel_size, stride=stride, bias=bias)
    return nn.Sequential(layer, GroupNorm(32, out_channels))


class GroupNorm(nn.GroupNorm):
    """PyTorch's GroupNorm, but in half precision if its weights are: the kernels sum in float32 in
    either case, and feature maps at stride 4 are large."""

    def forward(self, input: Tensor, *, relu: bool = False) -> Tensor:
        """Normalise (B, C, h, w), and apply ReLU if requested."""
        with in_type_of(self.weight):
            if (
                input.dtype == self.weight.dtype
                and groups_are_powers_of_two(self.num_channels, self.num_groups)
                and runs_kernels(input)
            ):
                given = (self.num_groups, self.weight, self.bias, self.eps)
                return group_norm(input, *given, relu)
            normed = super().forward(input)
        return F.relu(normed, inplace=True) if relu else normed


class PixelDecoder(nn.Module):
    """Mask2Former's pixel decoder (arXiv 2112.01527): returns refined levels and mask features."""

    def __init__(
        self,
        *,
        in_channels: dict[str, int],
        dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        published_init: bool = True,
        recompute: Recompute = "nothing",
    ) -> None:
        """Make the layers.

        in_channels: numbers of channels of "res2" to "res5".
        dim: channels of the levels.
        mask_dim: channels of the mask features.
        num_layers, num_heads, num_points: sizes of the deformable encoder.
        published_init: whether the input projections are initialised by fan-in and fan-out
            (Xavier), as in Mask2Former, and not only by fan-in.
        recompute: as in `DeformableEncoder`.
        """
        super().__init__()
        projections = [
            conv_norm(in_channels[name], dim, kernel_size=1, bias=True)
            for name in ("res5", "res4", "res3")
        ]
        if published_init:
            for projection in projections:
                nn.init.xavier_uniform_(cast(Tensor, projection[0].weight))
        self.input_projections = nn.ModuleList(projections)
        self.encoder = DeformableEncoder(
            dim=dim,
            num_layers=num_layers,
            num_levels=3,
            num_heads=num_heads,
            num_points=num_points,
            recompute=recompute,
        )
        self.lateral = conv_norm(in_channels["res2"], dim, kernel_size=1)
        self.output = conv_norm(dim, dim, kernel_size=3)
        self.mask_features = conv(dim, mask_dim, kernel_size=1)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return mask features (B, mask_dim, h, w) at stride 4, and levels (B, dim, h, w) at
        strides 32, 16 and 8.

        features: "res2" to "res5", each (B, C, h, w).
        """
        dtype = autocast_dtype(features["res2"])
        levels = self.encoder(
            [
                projection(features[name].to(dtype)).float()
                for name, projection in zip(
                    ("res5", "res4", "res3"), self.input_projections, strict=True
                )
            ]
        )
        finest = self.lateral(features["res2"].to(dtype))
        finest += resize(levels[-1].to(finest.dtype), (finest.shape[-2], finest.shape[-1]))
        convolution, norm = self.output
        return self.mask_features(norm(convolution(finest), relu=True)), levels


class SAMPixelDecoder(nn.Module):
    """Halves the resolution of SAM's embedding and refines it by a deformable encoder (arXiv
    2409.03525)."""

    def __init__(
        self,
        *,
        in_channels: int,
        dim: int,
        num_layers: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        published_init: bool = True,
        recompute: Recompute = "nothing",
    ) -> None:
        """Make the layers.

        in_channels: channels of SAM's embedding.
        dim: channels of the result.
        num_levels: number of levels that the attention is built for. SAM's embedding has one level,
            so 1 is correct, but the published model was built for 3 and its weights need that
            number (see `remap_to_single_level`).
        num_layers, num_heads, num_points: sizes of the deformable encoder.
        published_init: whether the convolution is initialised as PyTorch does, not as `conv` does.
        recompute: as in `DeformableEncoder`.
        """
        super().__init__()
        self.downsample = conv_norm(in_channels, dim, kernel_size=3, stride=2, bias=True)
        if published_init:
            cast(nn.Conv2d, self.downsample[0]).reset_parameters()
        self.encoder = DeformableEncoder(
            dim=dim,
            num_layers=num_layers,
            num_levels=num_levels,
            num_heads=num_heads,
            num_points=num_points,
            recompute=recompute,
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Map SAM's embedding (B, C, h, w) to (B, dim, ceil(h / 2), ceil(w / 2)), in float32."""
        convolution, norm = self.downsample
        halved = norm(convolution(embedding.to(autocast_dtype(embedding))), relu=True)
        return self.encoder([halved.float()])[0]
