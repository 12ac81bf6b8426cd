"""The dataclasses that modules exchange.

Legend of shapes, used throughout the package:
    B images, H x W pixels, h x w cells of a feature map, Q queries, K classes (void not counted),
    S names (synonyms of all classes), D dimension of the joint CLIP space, C channels, N objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class ImageBatch:
    """Images padded at the bottom and right to one size.

    pixels: (B, 3, H, W) float, RGB, 0-255; values outside an image's own size are arbitrary.
    sizes: (height, width) of each image inside `pixels`.
    padding: the value, after normalisation, that encoders see outside the images.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    padding: float = 0.0

    @classmethod
    def collate(
        cls,
        images: list[Tensor],
        divisor: int,
        sizes: list[tuple[int, int]] | None = None,
        device: torch.device | None = None,
    ) -> "ImageBatch":
        """Pad images (3, H, W) to the largest height and width, rounded up to `divisor`.

        images: uint8 or float.
        sizes: (height, width) of each image without the padding that it already has.
        device: the device of the batch; None: the device of the images. uint8 images are converted
            to float there, because the copy of a byte takes a quarter of the time of a float's.
        """
        height = -(-max(image.shape[-2] for image in images) // divisor) * divisor
        width = -(-max(image.shape[-1] for image in images) // divisor) * divisor
        sizes = sizes or [(image.shape[-2], image.shape[-1]) for image in images]
        device = device or images[0].device
        shape, dtype = (len(images), 3, height, width), torch.float32
        if device.type != "cpu" and all(image.dtype == torch.uint8 for image in images):
            # This buffer has the channels last in memory, as images do, so that entire rows are
            # copied; the device then makes it contiguous with the channels first.
            pixels = images[0].new_zeros((shape[0], *shape[2:], 3)).permute(0, 3, 1, 2)
        else:
            pixels = images[0].new_zeros(shape, dtype=dtype)
        for row, image in zip(pixels, images, strict=True):
            row[:, : image.shape[-2], : image.shape[-1]] = image
        return cls(_moved(pixels, device).to(dtype).contiguous(), sizes)

    def to(self, device: torch.device | str) -> "ImageBatch":
        """Return a copy on another device.

        A copy to a GPU goes through pinned memory and is not waited for.
        """
        return ImageBatch(_moved(self.pixels, torch.device(device)), self.sizes, self.padding)

    def normalized(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return (pixels - mean) / std, with `padding` outside the images."""
        normalized = (self.pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        for image, (height, width) in zip(normalized, self.sizes, strict=True):
            image[:, height:] = self.padding
            image[:, :, width:] = self.padding
        return normalized


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    to_gpu = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if to_gpu else tensor).to(device, non_blocking=to_gpu)


@dataclass
class ClipFeatures:
    """Features of CLIP's image tower.

    levels: "res2" to "res5", each (B, C, h, w), at strides 4, 8, 16, 32; only "res4" for a ViT.
    dense: (B, C, h, w) at the coarsest of these strides, from which regions are embedded.
    """

    levels: dict[str, Tensor]
    dense: Tensor


@dataclass
class FrozenFeatures:
    """Features of FrozenSeg.

    clip: the features of CLIP's image tower.
    sam: the features of SAM, (B, C, h, w), over the padded images; None without SAM.
    """

    clip: ClipFeatures
    sam: Tensor | None


@dataclass
class PatchTokens:
    """Patch tokens of a frozen visual encoder: the features of Fusioner.

    tokens: (B, h*w, C) unit vectors, in row-major order.
    grid: (h, w), the size of the grid of patches, which covers the padded images.
    """

    tokens: Tensor
    grid: tuple[int, int]


Features = FrozenFeatures | PatchTokens
"""The output of a model's frozen encoders for a batch: the only input of its trained parts."""


@dataclass
class TextEmbeddings:
    """Text embeddings of all names of a vocabulary.

    weight: (S, D) unit vectors.
    class_index: (S,) the class of each name, in ascending order.
    seen: (K,) bool, whether a class shares a name with the training vocabulary.
    """

    weight: Tensor
    class_index: Tensor
    seen: Tensor

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.seen.shape[0]  # a shape, so that K stays dynamic when the model is exported

    def select(self, class_ids: Sequence[int]) -> "TextEmbeddings":
        """Return only the embeddings of the given classes, in the given order."""
        rows = [(self.class_index == class_id).nonzero()[:, 0] for class_id in class_ids]
        sizes = torch.tensor([len(part) for part in rows], device=self.class_index.device)
        index = torch.arange(len(rows), device=sizes.device).repeat_interleave(sizes)
        return TextEmbeddings(self.weight[torch.cat(rows)], index, self.seen[list(class_ids)])

    def class_vectors(self) -> Tensor:
        """Return one unit vector per class (K, D): the normalised mean over the class's names."""
        sums = self.weight.new_zeros(self.num_classes, self.weight.shape[1])
        return F.normalize(sums.index_add_(0, self.class_index, self.weight), dim=-1)

    def to(self, device: torch.device | str) -> "TextEmbeddings":
        """Return a copy on another device."""
        return TextEmbeddings(
            self.weight.to(device), self.class_index.to(device), self.seen.to(device)
        )


@dataclass
class MaskPredictions:
    """The output of a model for a batch.

    In the training of FrozenSeg `mask_logits` is empty, (B, Q, 0, 0), because the mask logits of
    all decoder layers would take gigabytes. Mask logits are the product of `mask_embed` and
    `mask_features`; the losses compute this product only at points, and for matched queries.

    class_logits: (B, Q, K + 1), with void as the last class.
    mask_logits: (B, Q, h, w) at stride 4 of the padded input.
    auxiliary: predictions of the earlier decoder layers, in order; empty unless requested.
    region_logits: (B, P, K + 1), CLIP's own classification of given regions, or None; P is the
        largest number of regions in an image of the batch.
    mask_embed: (B, Q, C) in training, otherwise None.
    mask_features: (B, C, h, w) in training, otherwise None.
    clip_dense: `ClipFeatures.dense` in training with a mask adapter, otherwise None.
    """

    class_logits: Tensor
    mask_logits: Tensor
    auxiliary: list["MaskPredictions"] = field(default_factory=list)
    region_logits: Tensor | None = None
    mask_embed: Tensor | None = None
    mask_features: Tensor | None = None
    clip_dense: Tensor | None = None


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic result.

    id: the value of the region in `PanopticResult.ids`, from 1.
    class_id: index into the vocabulary.
    name: the first name of the class.
    is_thing: whether the region is a single object (thing) or all pixels of a class (stuff).
    score: 0-1; NaN in drawings of semantic maps.
    area: in pixels.
    box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    track_id: the id of the object in all frames of a video, from 1; None in a single image.
    """

    id: int
    class_id: int
    name: str
    is_thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]
    track_id: int | None = None


@dataclass(eq=False)
class PanopticResult:
    """A panoptic result.

    ids: (H, W) int32, the id of the segment at each pixel; 0 where there is no segment.
    segments: one for each id.
    """

    ids: np.ndarray
    segments: list[Segment]

    def class_map(self) -> np.ndarray:
        """Return the class id of each pixel (H, W), -1 where there is no segment."""
        last = max((segment.id for segment in self.segments), default=0)
        classes = np.full(last + 1, -1)
        for segment in self.segments:
            classes[segment.id] = segment.class_id
        return classes[self.ids]


@dataclass(eq=False)
class InstanceResult:
    """N objects, in descending order of score.

    boxes: (N, 4) float32, as `Segment.box`.
    masks: (N, H, W) bool.
    scores: (N,) float32, 0-1.
    class_ids: (N,) int64.
    names: the first name of the class of each object.
    """

    boxes: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(eq=False)
class Prediction:
    """The results of one image; results that were not requested are None.

    size: (height, width) of the results.
    panoptic: the panoptic result.
    semantic: (H, W) int32 class ids, -1 where no class reaches the required score.
    instances: the instances.
    semantic_scores: (K, H, W) float32.
    proposals: (P, H, W) bool, class-agnostic masks, whose recall is measured.
    present_masks: (P, H, W) bool, one mask for each of the P classes in the image, in ascending
        order of class; each class is queried on its own ("oracle presence").
    present_best: (H, W), the id of the best of the classes in the image at each pixel, or -1.
    """

    size: tuple[int, int]
    panoptic: PanopticResult | None = None
    semantic: np.ndarray | None = None
    instances: InstanceResult | None = None
    semantic_scores: np.ndarray | None = None
    proposals: np.ndarray | None = None
    present_masks: np.ndarray | None = None
    present_best: np.ndarray | None = None


UNNAMED = -1
"""The class id of a region whose mask is known, but not its class."""


def named_masks(class_ids: Tensor, masks: Tensor) -> Tensor:
    """Return masks (N, H, W), where the masks of unknown classes (N,) are empty."""
    # The rows are emptied rather than removed: their number would be known only after waiting for
    # the GPU.
    return masks & (class_ids != UNNAMED)[:, None, None]


@dataclass
class Targets:
    """The N annotated regions of one training image; N may be 0.

    class_ids: (N,) int64; `UNNAMED` for a region that was proposed rather than annotated.
    masks: (N, H, W) bool.
    labelled: (H, W) bool, true where the annotation names a class or says "none of the classes";
        all other pixels are unlabelled (void, crowd, padding). None: only the pixels in the masks
        of named regions are labelled.
    """

    class_ids: Tensor
    masks: Tensor
    labelled: Tensor | None = None

    @property
    def labelled_pixels(self) -> Tensor:
        """(H, W) bool, true at labelled pixels."""
        if self.labelled is not None:
            return self.labelled
        return named_masks(self.class_ids, self.masks).any(0)

    @property
    def is_named(self) -> Tensor:
        """(N,) bool, whether the class of each region is known."""
        return self.class_ids != UNNAMED

    def named(self) -> "Targets":
        """Return only the regions whose class is known."""
        return Targets(self.class_ids[self.is_named], self.masks[self.is_named], self.labelled)

    def with_unnamed(self, masks: Tensor) -> "Targets":
        """Return the regions together with further ones: masks (N, H, W) without a class."""
        class_ids = self.class_ids.new_full((len(masks),), UNNAMED)
        return Targets(
            torch.cat((self.class_ids, class_ids)), torch.cat((self.masks, masks)), self.labelled
        )

    def to(self, device: torch.device | str) -> "Targets":
        """Return a copy on another device; a copy from pinned memory to a GPU is not waited for."""
        # A copy to the CPU does wait, because the caller may read the result at once.
        to_gpu = torch.device(device).type == "cuda"

        def moved(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=to_gpu)

        labelled = None if self.labelled is None else moved(self.labelled)
        return Targets(moved(self.class_ids), moved(self.masks), labelled)

    def pin_memory(self) -> "Targets":
        """Return a copy in pinned memory."""
        labelled = None if self.labelled is None else self.labelled.pin_memory()
        return Targets(self.class_ids.pin_memory(), self.masks.pin_memory(), labelled)
