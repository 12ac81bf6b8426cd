"""From frozen features to mask features and decoder levels (Mask2Former's pixel decoder), and the
second, smaller branch that prepares SAM's features for the Feature Injector.

Legend: B images, C channels, levels from coarse to fine (strides 32, 16, 8).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frozenseg.models.layers import resize, sine_positions
from frozenseg.models.ms_deform_attn import DeformableEncoderLayer, reference_points

ENCODER_HIDDEN_DIM = 1024  # feed-forward width of the deformable encoder, fixed in Mask2Former


class DeformableEncoder(nn.Module):
    """Layers of deformable self-attention over the cells of all levels together.

    recompute: in training, keep only what goes into each layer and run it again in the backward
    pass; at 1024 x 1024 that is 0.02 GB of 0.3 GB a layer.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        recompute: bool = False,
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
            )
            for _ in range(num_layers)
        )
        self.level_embedding = nn.Parameter(torch.randn(num_levels, dim))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """levels: (B, C, h, w) each; returns the same shapes."""
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
        references = reference_points(shapes, tokens.device)
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(
                    *(layer, tokens, positions, references, shapes),
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing in a layer is random
                )
            else:
                tokens = layer(tokens, positions, references, shapes)
        parts = tokens.split([height * width for height, width in shapes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(parts, shapes, strict=True)
        ]


def conv(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolution that keeps the size (at stride 1), initialised uniformly by its fan-in."""
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
    """Convolution and GroupNorm over 32 groups."""
    layer = conv(in_channels, out_channels, kernel_size=kernel_size, stride=stride, bias=bias)
    return nn.Sequential(layer, nn.GroupNorm(32, out_channels))


class PixelDecoder(nn.Module):
    """CLIP levels in, three refined levels and stride-4 mask features out."""

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
        recompute: bool = False,
    ) -> None:
        """in_channels: of "res2" to "res5". dim: of the levels; mask_dim: of the mask features.
        published_init: the input projections start uniform by fan-in and fan-out (Xavier), as in
        Mask2Former, in place of by fan-in alone. recompute: as of `DeformableEncoder`."""
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
        """Returns mask features (B, mask_dim, h, w) at stride 4 and levels (B, dim, ., .) at
        strides 32, 16, 8. Always in float32: sampling positions do not bear half precision."""
        with torch.autocast(features["res2"].device.type, enabled=False):
            levels = self.encoder(
                [
                    projection(features[name].float())
                    for name, projection in zip(
                        ("res5", "res4", "res3"), self.input_projections, strict=True
                    )
                ]
            )
            finest = self.lateral(features["res2"].float())
            # Enlarging what lies as tokens do, channels together, takes a CPU three times as long.
            finer = resize(levels[-1].contiguous(), (finest.shape[-2], finest.shape[-1]))
            finest += finer
            return self.mask_features(F.relu(self.output(finest), inplace=True)), levels


class SAMPixelDecoder(nn.Module):
    """SAM's embedding, halved in size and refined by a deformable encoder of its own: G_sam.

    num_levels: levels the encoder's attention is built for. There is one level to attend to, so 1
    is right; 3 is how the published model was built, and its weights need it
    (`remap_to_single_level`).
    published_init: the convolution starts as PyTorch draws it, in place of as `conv` does.
    recompute: as of `DeformableEncoder`.
    """

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
        recompute: bool = False,
    ) -> None:
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
        """(B, C, h, w) -> (B, dim, ceil(h / 2), ceil(w / 2)), in float32."""
        with torch.autocast(embedding.device.type, enabled=False):
            return self.encoder([F.relu(self.downsample(embedding.float()), inplace=True)])[0]
