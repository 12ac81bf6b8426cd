"""Fusioner (arXiv 2210.15138): any frozen visual and any frozen text encoder, joined by a small
transformer, with the sizes and the order of layers of the published model.

Legend: B images, K classes asked at once, N = h*w cells of the visual encoder, C width of fusion.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.encoders.bert import BertText
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.patches import PatchEncoder
from frozenseg.models.base import SegmentationModel, Stage
from frozenseg.models.layers import Attention, resize
from frozenseg.models.windows import windows
from frozenseg.structures import ImageBatch, MaskPredictions, PatchTokens, TextEmbeddings


class TransformerBlock(nn.Module):
    """Self-attention and two linear layers with exact GELU, each behind a norm and with a
    residual."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, C) -> the same shape."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed)
        return tokens + self.linear2(F.gelu(self.linear1(self.feed_forward_norm(tokens))))


class Fusion(nn.Module):
    """What both fusions share: tokens of both encoders to one width, and projections at the end.

    classes_interact: whether what else is asked for has an influence on the mask of a class.
    """

    classes_interact: bool
    embeddings = frozenset({"text_embedding"})
    """Parameters that are learned tables."""

    def __init__(self, *, visual_channels: int, text_channels: int, dim: int) -> None:
        super().__init__()
        self.visual_input = nn.Sequential(
            nn.LayerNorm(visual_channels), nn.Linear(visual_channels, dim), nn.LayerNorm(dim)
        )
        self.text_input = nn.Sequential(nn.LayerNorm(text_channels), nn.Linear(text_channels, dim))
        self.text_embedding = nn.Parameter(0.02 * torch.randn(dim))  # tells words from patches
        self.visual_projection = nn.Linear(dim, dim, bias=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)

    @torch.no_grad()
    def start_as_published(self) -> None:
        """Draw the weights as the published code does: the embedding of words from N(0, 1), the
        two projections with a variance of 1 / dim, attention as any linear layer of PyTorch."""
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
        """tokens (B, N, visual_channels), vectors (B, K, text_channels) -> (B, N, C), (B, K, C).

        No table of positions is added: the visual encoder has put its own into the tokens.
        """
        patches, words = self.mix(
            self.visual_input(tokens), self.text_input(vectors) + self.text_embedding
        )
        return self.visual_projection(patches), self.text_projection(words)

    def mix(self, patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """patches (B, N, C), words (B, K, C) -> the same shapes, normalised."""
        raise NotImplementedError


class EarlyFusion(Fusion):
    """Patches and words in one transformer: every token sees every other.

    Words see each other too, so what is asked together has an influence on the masks.
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
        mixed = self.norm(self.blocks(torch.cat((patches, words), dim=1)))
        return mixed[:, : patches.shape[1]], mixed[:, patches.shape[1] :]


class LateFusion(Fusion):
    """Patches and words in a transformer each; they meet at the similarity only.

    Our reading: the exact form was not published. Each stack has half of `num_layers`, so
    that late fusion trains as many weights as early fusion. Each word stands alone in its stack,
    as in the published training, which asks for one class at a time: what is asked together has no
    influence at all, and one pass for K classes equals K passes.
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
        """num_layers: even, of both stacks together."""
        super().__init__(visual_channels=visual_channels, text_channels=text_channels, dim=dim)
        assert num_layers % 2 == 0, "the two stacks share the layers"
        self.visual_blocks = _stack(num_layers // 2, dim, num_heads, hidden_dim)
        self.visual_norm = nn.LayerNorm(dim)
        self.text_blocks = _stack(num_layers // 2, dim, num_heads, hidden_dim)
        self.text_norm = nn.LayerNorm(dim)

    def mix(self, patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        alone = words.flatten(0, 1)[:, None]  # (B*K, 1, C): sequences of one word
        alone = self.text_norm(self.text_blocks(alone))
        return self.visual_norm(self.visual_blocks(patches)), alone.view_as(words)


class UpsamplingDecoder(nn.Module):
    """Cells to finer pixel features: four convolutions, a doubling between each two.

    After each, an instance norm without weights, then ReLU; a 1 x 1 convolution ends it. The
    published code resizes the features once more, to the input; here the logits are resized
    instead, K maps in place of 512.
    """

    def __init__(self, *, dim: int = 512, doublings: int = 3) -> None:
        """doublings: at most 3, as published; less saves time where the cells are fine already."""
        super().__init__()
        self.doublings = doublings
        self.scale = 2**doublings  # pixels of the result along a side of a cell
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(4))
        self.output = nn.Conv2d(dim, dim, 1)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h*w, C) on a grid (h, w) -> (B, C, scale * h, scale * w)."""
        features = tokens.transpose(1, 2).unflatten(2, grid)  # (B, C, h, w)
        for number, convolution in enumerate(self.convolutions):
            if 0 < number <= self.doublings:
                features = resize(features, (2 * features.shape[-2], 2 * features.shape[-1]))
            features = convolution(features)
            # An instance norm: the layer norm over the two axes of a map, which, unlike
            # `F.instance_norm`, also takes a map of a single cell.
            features = F.relu(F.layer_norm(features, features.shape[-2:]))
        return self.output(features)


class Fusioner(SegmentationModel):
    """One mask for each class that is asked for; encoders frozen, fusion and decoder trained."""

    features = PatchTokens

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
        """temperature: divides the cosine, 0.07 as published. classes_at_once: how many classes
        `predict` asks for in one pass; 0: all. size_divisor: a multiple of `visual.stride`. window:
        side of the windows that `predict` slides over images, a multiple of it too; 0: none.
        window_stride: pixels from one to the next. window_padding: what they show beyond an image,
        after normalisation."""
        super().__init__()
        for length in (size_divisor, window):
            assert length % visual.stride == 0, "images and windows are whole cells"
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
        return self.text

    def stages(self) -> list[Stage]:
        return [
            Stage("visual encoder", self.visual, frozen=True),
            Stage("fusion", self.fusion),
            Stage("pixel head", self.decoder),
        ]

    def forward(
        self, images: ImageBatch, vectors: Tensor, features: PatchTokens | None = None
    ) -> Tensor:
        """Mask logits (B, K, s*h, s*w) over the padded images, s: `decoder.scale`; vectors:
        (B, K, D), of unit length, the classes that each image is asked for. features: `encode` of
        these images, if it is known already."""
        return self.ask(features or self.encode(images), vectors)

    @torch.no_grad()
    def encode(self, images: ImageBatch) -> PatchTokens:
        return self.visual(images)

    def ask(self, patches: PatchTokens, vectors: Tensor) -> Tensor:
        """As `forward`, of images that are encoded already."""
        tokens, words = self.fusion(patches.tokens, vectors)
        pixels = F.normalize(self.decoder(tokens, patches.grid), dim=1)
        cosine = torch.einsum("bkc,bchw->bkhw", F.normalize(words, dim=-1), pixels)
        return cosine / self.temperature

    @torch.no_grad()
    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        """Query k is class k, with certainty; whether it is there, its mask alone says.

        A class with several names is asked for by the mean of their vectors.
        """
        vectors = text.class_vectors()
        masks = (
            self._windowed(images, vectors) if self.window else self._all_classes(images, vectors)
        )
        certain = torch.eye(len(vectors), len(vectors) + 1, device=vectors.device).log()
        return MaskPredictions(certain.expand(len(masks), -1, -1), masks)

    def _all_classes(self, images: ImageBatch, vectors: Tensor) -> Tensor:
        """Mask logits (B, K, s*h, s*w) of classes (K, D), as many at once as the model takes."""
        # Where words do not interact, one pass gives the same as many.
        at_once = self.classes_at_once if self.fusion.classes_interact else 0
        patches, batch = self.encode(images), len(images.sizes)
        parts = vectors.split(at_once or len(vectors))
        return torch.cat([self.ask(patches, part.expand(batch, -1, -1)) for part in parts], dim=1)

    def _windowed(self, images: ImageBatch, vectors: Tensor) -> Tensor:
        """Mask logits (B, K, H, W) of every pixel, the mean over the windows that show it; zeros
        where none does, which is padding."""
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
