"""Fusioner (arXiv 2210.15138): a small transformer joins a frozen visual and a frozen text encoder.

The sizes and the order of the layers are those of the published model.

Legend: B images, K classes queried together, N = h*w cells of the visual encoder, C fusion width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.encoders.bert import BertText
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.patches import PatchEncoder
from frozenseg.models.base import SegmentationModel, Stage
from frozenseg.models.layers import Attention, WithEmbeddings, resize
from frozenseg.models.windows import windows
from frozenseg.structures import ImageBatch, MaskPredictions, PatchTokens, TextEmbeddings


class TransformerBlock(nn.Module):
    """A pre-norm transformer layer: self-attention, then two linear layers with exact GELU."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, tokens, C) to the same shape."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed)
        return tokens + self.linear2(F.gelu(self.linear1(self.feed_forward_norm(tokens))))


class Fusion(WithEmbeddings):
    """Base class of both fusions: maps the vectors of both encoders to one width, mixes them, and
    projects the result.

    classes_interact: whether the mask of a class depends on the other classes of the query.
    """

    classes_interact: bool
    embeddings = frozenset({"text_embedding"})

    def __init__(self, *, visual_channels: int, text_channels: int, dim: int) -> None:
        super().__init__()
        self.visual_input = nn.Sequential(
            nn.LayerNorm(visual_channels), nn.Linear(visual_channels, dim), nn.LayerNorm(dim)
        )
        self.text_input = nn.Sequential(nn.LayerNorm(text_channels), nn.Linear(text_channels, dim))
        # Added to all words, so that the transformer can distinguish them from patches.
        self.text_embedding = nn.Parameter(0.02 * torch.randn(dim))
        self.visual_projection = nn.Linear(dim, dim, bias=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)

    @torch.no_grad()
    def start_as_published(self) -> None:
        """Initialise the weights as the published code does.

        `text_embedding` is drawn from N(0, 1) and both projections from N(0, 1 / dim); the
        attention is initialised as PyTorch initialises linear layers.
        """
        self.text_embedding.normal_()
        for projection in (self.visual_projection, self.text_projection):
            projection.weight.normal_(std=projection.in_features**-0.5)
        for module in self.modules():
            if isinstance(module, Attention):
                module.out_proj.reset_parameters()
                bound = module.in_proj_weight.shape[1] ** -0.5
                module.in_proj_weight.uniform_(-bound, bound)
                module.in_proj_bias.uniform_(-bound, bound)

    def forward(self, tokens: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse tokens (B, N, visual_channels) with class vectors (B, K, text_channels).

        Returns patches (B, N, C) and words (B, K, C). No positional encoding is added, because the
        tokens already include that of the visual encoder.
        """
        patches, words = self.mix(
            self.visual_input(tokens), self.text_input(vectors) + self.text_embedding
        )
        return self.visual_projection(patches), self.text_projection(words)

    def mix(self, patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Run the transformer on patches (B, N, C) and words (B, K, C); returns the same shapes,
        after a layer norm."""
        raise NotImplementedError


class EarlyFusion(Fusion):
    """One transformer over patches and words, in which every token attends to every other.

    Words attend to each other too, so the masks depend on which classes are queried together.
    """

    classes_interact = True

    def __init__(
        self,
        *,
        visual_channels: int,
        text_channels: int,
        dim: int = 512,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        num_layers: int = 12,
    ) -> None:
        super().__init__(visual_channels=visual_channels, text_channels=text_channels, dim=dim)
        self.blocks = _stack(num_layers, dim, num_heads, hidden_dim)
        self.norm = nn.LayerNorm(dim)

    def mix(self, patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """See `Fusion.mix`."""
        mixed = self.norm(self.blocks(torch.cat((patches, words), dim=1)))
        return mixed[:, : patches.shape[1]], mixed[:, patches.shape[1] :]


class LateFusion(Fusion):
    """One transformer for patches and one for words; they meet only in the cosine similarity.

    This is our interpretation, since the exact form was not published. Each transformer has half of
    `num_layers`, so that late fusion trains as many weights as early fusion. Words do not attend to
    each other, as in the published training, which queries one class at a time. One pass for K
    classes therefore gives the same result as K passes.
    """

    classes_interact = False

    def __init__(
        self,
        *,
        visual_channels: int,
        text_channels: int,
        dim: int = 512,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        num_layers: int = 12,
    ) -> None:
        """num_layers: the number of layers of both transformers together, an even number."""
        super().__init__(visual_channels=visual_channels, text_channels=text_channels, dim=dim)
        assert num_layers % 2 == 0, "num_layers must be even: each transformer has half of them"
        self.visual_blocks = _stack(num_layers // 2, dim, num_heads, hidden_dim)
        self.visual_norm = nn.LayerNorm(dim)
        self.text_blocks = _stack(num_layers // 2, dim, num_heads, hidden_dim)
        self.text_norm = nn.LayerNorm(dim)

    def mix(self, patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """See `Fusion.mix`."""
        alone = words.flatten(0, 1)[:, None]  # (B*K, 1, C): sequences of one word
        alone = self.text_norm(self.text_blocks(alone))
        return self.visual_norm(self.visual_blocks(patches)), alone.view_as(words)


class UpsamplingDecoder(nn.Module):
    """Upsamples the fused patches by four 3 x 3 convolutions; between consecutive convolutions the
    resolution is doubled.

    Each convolution is followed by an instance norm without weights and a ReLU, and the last layer
    is a 1 x 1 convolution. The published code then resizes the features to the size of the input;
    here the logits are resized instead, which have K maps instead of C.
    """

    def __init__(self, *, dim: int = 512, doublings: int = 3) -> None:
        """doublings: 3 as published; fewer save time where the cells are already small."""
        super().__init__()
        self.doublings = doublings
        self.scale = 2**doublings  # pixels of the result along each side of a cell
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(4))
        self.output = nn.Conv2d(dim, dim, 1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map patches (B, h*w, C) on a grid (h, w) to features (B, C, scale * h, scale * w)."""
        features = tokens.transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
        for number, convolution in enumerate(self.convolutions):
            if 0 < number <= self.doublings:
                features = resize(features, (2 * features.shape[-2], 2 * features.shape[-1]))
            features = convolution(features)
            # An instance norm, written as a layer norm over the two axes of a map: unlike
            # `F.instance_norm`, it also accepts a map of a single cell.
            features = F.relu(F.layer_norm(features, features.shape[-2:]))
        return self.output(features)


class Fusioner(SegmentationModel):
    """Predicts one mask for each queried class; the encoders are frozen, the rest is trained."""

    def __init__(
        self,
        *,
        visual: PatchEncoder,
        text: ClipText | BertText,
        fusion: Fusion,
        decoder: UpsamplingDecoder,
        temperature: float,
        classes_at_once: int,
        size_divisor: int,
        window: int = 0,
        window_stride: int = 0,
        window_padding: float = 0.0,
    ) -> None:
        """Combine the parts of the model.

        visual: the frozen visual encoder.
        text: the frozen text encoder; `forward` and `predict` receive its vectors ready-made.
        fusion: early or late fusion.
        decoder: upsamples the fused patches.
        temperature: the cosines are divided by it; 0.07 as published.
        classes_at_once: how many classes `predict` queries in one pass; 0: all of them.
        size_divisor: images are padded to a multiple of it, in pixels; it must be a multiple of
            `visual.stride`.
        window: side in pixels of the windows that `predict` slides over images, a multiple of
            `visual.stride`; 0: images are not divided into windows.
        window_stride: distance in pixels from one window to the next.
        window_padding: value, after normalisation, of the pixels of a window beyond the image.
        """
        super().__init__()
        for length in (size_divisor, window):
            assert length % visual.stride == 0, (
                "size_divisor and window must be multiples of visual.stride"
            )
        self.visual = visual
        self.text = text
        self.fusion = fusion
        self.decoder = decoder
        self.temperature = temperature
        self.classes_at_once = classes_at_once
        self.size_divisor = size_divisor
        self.window = window
        self.window_stride = window_stride
        self.window_padding = window_padding

    @property
    def text_encoder(self) -> ClipText | BertText:
        """The frozen text encoder."""
        return self.text

    def stages(self) -> list[Stage]:
        """Return the visual encoder, the fusion, and the upsampling decoder."""
        return [
            Stage("visual encoder", self.visual, frozen=True),
            Stage("fusion", self.fusion),
            Stage("upsampling decoder", self.decoder),
        ]

    def forward(
        self, images: ImageBatch, vectors: Tensor, features: PatchTokens | None = None
    ) -> Tensor:
        """Return mask logits (B, K, s*h, s*w) over the padded images, where s is `decoder.scale`.

        vectors: (B, K, D) unit vectors of the classes that are queried in each image.
        features: the result of `encode` for these images, if it is known already.
        """
        return self.decode(features or self.encode(images), vectors)

    @torch.no_grad()
    def encode(self, images: ImageBatch) -> PatchTokens:
        """Return the patch tokens of the visual encoder."""
        return self.visual(images)

    def feature_channels(self) -> dict[str, int]:
        """Return the number of channels of a patch token."""
        return {"cells": self.visual.channels}

    def decode(self, patches: PatchTokens, vectors: Tensor) -> Tensor:
        """Like `forward`, for images that are already encoded."""
        tokens, words = self.fusion(patches.tokens, vectors)
        pixels = F.normalize(self.decoder(tokens, patches.grid), dim=1)
        cosine = torch.einsum("bkc,bchw->bkhw", F.normalize(words, dim=-1), pixels)
        return cosine / self.temperature

    @torch.no_grad()
    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        """Return one query per class: query k always has class k, and its mask decides whether the
        class is present.

        A class with several names is queried by the mean of their vectors.
        """
        vectors = text.class_vectors()
        masks = (
            self._windowed(images, vectors) if self.window else self._all_classes(images, vectors)
        )
        class_logits = torch.eye(len(vectors), len(vectors) + 1, device=vectors.device).log()
        return MaskPredictions(class_logits.expand(len(masks), -1, -1), masks)

    def _all_classes(self, images: ImageBatch, vectors: Tensor) -> Tensor:
        """Return mask logits (B, K, s*h, s*w) of classes (K, D), `classes_at_once` per pass."""
        # If classes do not interact, one pass gives the same masks as several passes.
        at_once = self.classes_at_once if self.fusion.classes_interact else 0
        patches, batch = self.encode(images), len(images.sizes)
        parts = vectors.split(at_once or len(vectors))
        return torch.cat(
            [self.decode(patches, part.expand(batch, -1, -1)) for part in parts], dim=1
        )

    def _windowed(self, images: ImageBatch, vectors: Tensor) -> Tensor:
        """Return mask logits (B, K, H, W): at each pixel the mean over all windows that cover it.

        Pixels that no window covers are padding and get 0. Images of different sizes are processed
        one by one, since their windows differ.
        """
        if len(set(images.sizes)) > 1:
            single = zip(images.pixels.split(1), images.sizes, strict=True)
            batches = (ImageBatch(pixels, [size], images.padding) for pixels, size in single)
            return torch.cat([self._windowed(batch, vectors) for batch in batches])
        height, width = images.pixels.shape[-2:]
        sums = images.pixels.new_zeros(len(images.sizes), len(vectors), height, width)
        counts = images.pixels.new_zeros(height, width)
        for top, left, part in windows(
            images, side=self.window, stride=self.window_stride, padding=self.window_padding
        ):
            masks = resize(self._all_classes(part, vectors), (self.window, self.window))
            rows = slice(top, min(top + self.window, height))
            columns = slice(left, min(left + self.window, width))
            sums[..., rows, columns] += masks[..., : height - top, : width - left]
            counts[rows, columns] += 1
        return sums / counts.clamp(min=1)


def _stack(num_layers: int, dim: int, num_heads: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            TransformerBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim)
            for _ in range(num_layers)
        )
    )
