"""One resized image through the model and its post-processing."""

import torch
from torch import Tensor

from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, SegmentationResult, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


@torch.inference_mode()
def segment_image(
    model: FrozenSeg,
    image: Tensor,
    output_size: tuple[int, int],
    *,
    text: TextEmbeddings,
    vocabulary: Vocabulary,
    post_processor: PostProcessor,
) -> SegmentationResult:
    """image: (3, h, w) RGB 0-255, as the network shall see it. output_size: (height, width) of the
    results."""
    images = ImageBatch.collate([image], model.size_divisor).to(model.device)
    predictions = model.predict(images, text)
    masks = predictions.mask_logits
    resizer = MaskResizer(
        mask_size=(masks.shape[-2], masks.shape[-1]),
        padded_size=(images.pixels.shape[-2], images.pixels.shape[-1]),
        image_size=images.sizes[0],
        output_size=output_size,
    )
    return post_processor(predictions.class_logits[0], masks[0], resizer, vocabulary)
