"""The network as a function of tensors only, so that it can be traced.

A graph has one input size, the window. The image lies in its upper left corner, and its height and
width are given as a tensor, so that one graph takes images of any size up to the window.

Legend: H x W pixels of the window, Q queries, K classes, S names, D dimension of the joint space.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.encoders.pooling import resample_to_padded_grid
from frozenseg.encoders.sam import FrozenSam
from frozenseg.errors import UserError
from frozenseg.models.base import SegmentationModel
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.models.fusioner import Fusioner
from frozenseg.structures import FrozenFeatures, ImageBatch, TextEmbeddings


class Window(ImageBatch):
    """A batch of one image whose size within the padded pixels is a tensor.

    size: (2,) int64, (height, width).
    """

    def __init__(self, pixels: Tensor, size: Tensor, padding: float = 0.0) -> None:
        super().__init__(pixels, [(pixels.shape[-2], pixels.shape[-1])], padding)
        self.size = size

    def normalized(self, mean: Tensor, std: Tensor) -> Tensor:
        """Normalise the pixels, as `ImageBatch.normalized` does."""
        normalized = (self.pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        return torch.where(self.inside(), normalized, self.padding)

    def inside(self) -> Tensor:
        """Return (H, W) bool: which pixels belong to the image."""
        height, width = self.pixels.shape[-2:]
        return (torch.arange(height) < self.size[0])[:, None] & (torch.arange(width) < self.size[1])


class Network(nn.Module):
    """A FrozenSeg, an FC-CLIP or a Fusioner as a function of tensors."""

    def __init__(self, model: SegmentationModel) -> None:
        """model: on the CPU, with weights that are not prepacked."""
        super().__init__()
        if not isinstance(model, FrozenSeg | Fusioner):
            raise UserError(f"{type(model).__name__}: only FrozenSeg and Fusioner can be exported")
        if isinstance(model, Fusioner) and model.window:
            raise UserError("a Fusioner that slides windows over an image cannot be exported")
        self.model = model

    @property
    def free_classes(self) -> bool:
        """Whether one graph takes any number of classes.

        This is not so for a Fusioner that queries the classes in groups, because the number of
        classes decides how often it runs.
        """
        model = self.model
        return not (
            isinstance(model, Fusioner) and model.fusion.classes_interact and model.classes_at_once
        )

    def forward(
        self,
        pixels: Tensor,
        size: Tensor,
        vectors: Tensor,
        class_index: Tensor,
        seen: Tensor,
        embedding: Tensor | None = None,
        regions: Tensor | None = None,
    ) -> list[Tensor]:
        """Return class logits (1, Q, K + 1), with void last, and mask logits (1, Q, h, w).

        If regions are given, their class logits (1, P, K + 1) follow.

        pixels: (1, 3, H, W) RGB, 0-255; pixels outside the image may have any value.
        size: (2,) int64, height and width of the image in pixels.
        vectors, class_index, seen: see `TextEmbeddings`.
        embedding: `FrozenSam.embed` of the image, or None if the graph should compute it.
        regions: mask logits (P, h, w) over the image, of further regions that only CLIP's own
            classifier classifies.
        """
        window, text = Window(pixels, size), TextEmbeddings(vectors, class_index, seen)
        if isinstance(self.model, Fusioner):
            found = self.model.predict(window, text)
            return [found.class_logits, found.mask_logits]
        model = self.model
        clip = model.clip(window.normalized(model.clip.mean, model.clip.std))
        sam = None if model.sam is None else sam_features(model.sam, window, embedding)
        found = model.decode(FrozenFeatures(clip, sam), text, auxiliary=False)
        logits = [model.ensemble_logits(clip, found, text), found.mask_logits]
        if regions is None:
            return logits
        masks = resample_to_padded_grid(
            regions,
            cast(tuple[int, int], (size[0], size[1])),  # in fact tensors, from the graph's input
            (pixels.shape[-2], pixels.shape[-1]),
            model.region_grid(clip.dense),
        )
        return [*logits, model.region_logits(clip, masks[None], text)]


def sam_features(sam: FrozenSam, window: Window, embedding: Tensor | None) -> Tensor:
    """Return SAM's features (1, C, h, w) over the window, as `FrozenSam.forward` does."""
    if sam.view == "stretch":
        return sam(window) if embedding is None else embedding
    if embedding is None:
        embedding = sam.encode(square(sam, window))
    height, width = window.pixels.shape[-2:]
    cells, longest = embedding.shape[-1], max(height, width)
    shares = torch.tensor([height, width]) / window.size.max()
    axes = []
    for length, share in zip((height, width), shares, strict=True):
        count = max(1, round(cells * length / longest))
        centres = (torch.arange(count, dtype=torch.float32) * 2 + 1) / count - 1
        axes.append(centres * share + (share - 1))
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((x, y), -1)[None]
    return F.grid_sample(
        embedding, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def square(sam: FrozenSam, window: Window) -> Tensor:
    """Return SAM's input (1, 3, side, side), preprocessed as `FrozenSam.keep_aspect` does it.

    Each axis is resized by a product with a matrix, which depends on the size of the image.
    """
    scale = sam.side / window.size.max()
    resized = torch.floor(window.size * scale + 0.5).clamp(min=1)
    rows, columns = (
        shrinking(length, sam.side, window.size[axis], resized[axis])
        for axis, length in enumerate(window.pixels.shape[-2:])
    )
    mean, std = sam.model.pixel_mean, sam.model.pixel_std
    normalized = (rows @ (window.pixels @ columns.T) - mean) / std
    places = torch.arange(sam.side)
    inside = (places < resized[0])[:, None] & (places < resized[1])
    return torch.where(inside, normalized, 0.0)


def shrinking(source: int, target: int, used: Tensor, size: Tensor) -> Tensor:
    """Return the matrix (target, source) of a bilinear resize with antialiasing along one axis.

    It maps the first `used` entries to the first `size` ones, as PyTorch's resize does; the rows
    after them have no meaning.
    """
    scale = used / size
    support = scale.clamp(min=1)
    centres = (torch.arange(target, dtype=torch.float32) + 0.5) * scale
    places = torch.arange(source, dtype=torch.float32) + 0.5
    weights = (1 - ((places - centres[:, None]) / support).abs()).clamp(min=0)
    weights = torch.where(torch.arange(source) < used, weights, 0.0)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
