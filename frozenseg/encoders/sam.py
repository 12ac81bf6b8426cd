"""A frozen SAM (segment-anything), whose image embedding serves the injectors and the proposals.

Legend: B images, C channels of the embedding (256), side of SAM's square input in pixels (1024).
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from frozenseg.encoders.frozen import Frozen
from frozenseg.encoders.sam_attention import fuse_attention
from frozenseg.errors import UserError, nearest
from frozenseg.runtime.precision import in_float32, in_type_of
from frozenseg.structures import ImageBatch

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
VIEWS = ("stretch", "keep_aspect")


@dataclass(frozen=True)
class SamSize:
    """The sizes of a SAM.

    dim, depth, num_heads: sizes of the image encoder (a ViT).
    global_attention: indices of the blocks that attend globally; the others attend within windows.
    side: side of the square input, in pixels.
    patch_size: side of a patch, in pixels.
    window_size: side of a window, in cells.
    out_channels: C of the embedding.
    decoder_hidden_dim: width of the feed-forward layers of the mask decoder.
    """

    dim: int
    depth: int
    num_heads: int
    global_attention: tuple[int, ...]
    side: int = 1024
    patch_size: int = 16
    window_size: int = 14
    out_channels: int = 256
    decoder_hidden_dim: int = 2048


SIZES = {
    "vit_b": SamSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamSize(1280, 32, 16, (7, 15, 23, 31)),
    "small": SamSize(
        128,
        4,
        2,
        (3,),
        side=256,
        patch_size=8,
        window_size=8,
        out_channels=128,
        decoder_hidden_dim=512,
    ),
    "tiny": SamSize(
        16, 2, 2, (1,), side=64, patch_size=8, window_size=4, out_channels=32, decoder_hidden_dim=32
    ),
}


def plain_image_encoder(name: str) -> ImageEncoderViT:
    """Return segment-anything's image encoder in one of `SIZES`, without pretrained weights."""
    size = SIZES[name]
    return ImageEncoderViT(
        img_size=size.side,
        patch_size=size.patch_size,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.num_heads,
        out_chans=size.out_channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=size.window_size,
        global_attn_indexes=size.global_attention,
    )


def build_sam_model(name: str) -> Sam:
    """Return a SAM of segment-anything's classes, with fused attention, without pretrained
    weights.

    Raises `UserError` for an unknown name.
    """
    if name not in SIZES:
        raise UserError(f"{name}: unknown; {nearest(name, list(SIZES))}")
    size = SIZES[name]
    cells = size.side // size.patch_size
    return Sam(
        image_encoder=fuse_attention(plain_image_encoder(name)),
        prompt_encoder=PromptEncoder(
            embed_dim=size.out_channels,
            image_embedding_size=(cells, cells),
            input_image_size=(size.side, size.side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=size.out_channels,
                mlp_dim=size.decoder_hidden_dim,
                num_heads=8,
            ),
            transformer_dim=size.out_channels,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


class FrozenSam(Frozen):
    """SAM's image encoder for a padded batch; its features always span the entire padded image."""

    def __init__(self, *, model: Sam, view: str) -> None:
        """Freeze a SAM.

        model: from `build_sam_model`.
        view: "stretch" stretches the padded image to a square, as in the published FrozenSeg;
            "keep_aspect" scales the long side of the unpadded image to the square and pads the
            other side, as in SAM's training.
        """
        super().__init__()
        if view not in VIEWS:
            raise UserError(f"view {view}: must be one of {', '.join(VIEWS)}")
        self.model = self.freeze(model)
        self.view = view
        self.encoder_dtype = torch.float32

    @property
    def side(self) -> int:
        """The side of the square input, in pixels."""
        return self.model.image_encoder.img_size

    @property
    def channels(self) -> int:
        """C of the embedding."""
        return self.model.image_encoder.neck[-1].weight.shape[0]

    @torch.no_grad()
    def forward(self, images: ImageBatch, image_embedding: Tensor | None = None) -> Tensor:
        """Return SAM's features (B, C, h, w), float32, which span the padded image as CLIP's do.

        image_embedding: the result of `image_embedding` for these images, if it is known already;
        only the view "keep_aspect" can use it.
        """
        embedding = self.embed(images, image_embedding)
        return embedding if self.view == "stretch" else self._aligned(embedding, images)

    @torch.no_grad()
    def embed(self, images: ImageBatch, image_embedding: Tensor | None = None) -> Tensor:
        """Return SAM's embedding (B, C, h, w) of its square input in this view; image_embedding as
        in `forward`."""
        if self.view == "stretch":
            return self.encode(self._stretched(images))
        return self.image_embedding(images) if image_embedding is None else image_embedding

    @torch.no_grad()
    def image_embedding(self, images: ImageBatch) -> Tensor:
        """Return SAM's own embedding (B, C, h, w) of its square input, in the view "keep_aspect";
        h = w = side / patch size."""
        return self.encode(self.keep_aspect(images))

    def cast_encoder(self, dtype: torch.dtype) -> None:
        """Store the weights of the image encoder in `dtype`, in which it then computes."""
        self.encoder_dtype = dtype
        self.model.image_encoder.to(dtype)

    def encode(self, pixels: Tensor) -> Tensor:
        """Embed normalised pixels (B, 3, side, side), in float32."""
        pixels = pixels.to(self.encoder_dtype)
        with in_type_of(pixels):
            return self.model.image_encoder(pixels).float()

    def _stretched(self, images: ImageBatch) -> Tensor:
        pixels = images.normalized(self.model.pixel_mean, self.model.pixel_std)
        return F.interpolate(
            pixels, size=(self.side, self.side), mode="bilinear", align_corners=False
        )

    def keep_aspect(self, images: ImageBatch) -> Tensor:
        """Apply SAM's own preprocessing: (B, 3, side, side), normalised, image at the top left."""
        canvas = images.pixels.new_zeros((len(images.sizes), 3, self.side, self.side))
        for target, pixels, (height, width) in zip(
            canvas, images.pixels, images.sizes, strict=True
        ):
            scale = self.side / max(height, width)
            size = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
            resized = F.interpolate(
                pixels[None, :, :height, :width],
                size=size,
                mode="bilinear",
                align_corners=False,
                antialias=True,  # as in SAM's own transform, which resizes with Pillow
            )[0]
            mean, std = self.model.pixel_mean, self.model.pixel_std
            target[:, : size[0], : size[1]] = (resized - mean) / std
        return canvas

    def _aligned(self, embedding: Tensor, images: ImageBatch) -> Tensor:
        """Crop the embedding of SAM's square input to the padded image, at SAM's resolution."""
        padded_height, padded_width = images.pixels.shape[-2:]
        cells = embedding.shape[-1]
        longest = max(padded_height, padded_width)
        rows = max(1, round(cells * padded_height / longest))
        columns = max(1, round(cells * padded_width / longest))
        theta = embedding.new_zeros((len(images.sizes), 2, 3))
        for matrix, (height, width) in zip(theta, images.sizes, strict=True):
            # The padded image ends at this share of the square: -1..1 in the grid maps to 0..share.
            share_x = padded_width / max(height, width)
            share_y = padded_height / max(height, width)
            matrix[0, 0], matrix[0, 2] = share_x, share_x - 1
            matrix[1, 1], matrix[1, 2] = share_y, share_y - 1
        with in_float32(theta):
            grid = F.affine_grid(theta, [len(images.sizes), 1, rows, columns], align_corners=False)
        return F.grid_sample(
            embedding, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
