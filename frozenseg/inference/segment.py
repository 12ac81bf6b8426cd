"""One resized image through the model and its post-processing."""

import torch
from torch import Tensor

from frozenseg.encoders.pooling import place_on_grid
from frozenseg.inference.mask_ensemble import ProposalEvidence
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.inference.sam_masks import ProposalSource
from frozenseg.models.base import Segmenter
from frozenseg.structures import ImageBatch, SegmentationResult, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


@torch.inference_mode()
def segment_image(
    model: Segmenter,
    image: Tensor,
    output_size: tuple[int, int],
    *,
    text: TextEmbeddings,
    vocabulary: Vocabulary,
    post_processor: PostProcessor,
    sam_masks: ProposalSource | None = None,
    image_id: int | str | None = None,
) -> SegmentationResult:
    """image: (3, h, w) RGB 0-255, as the network shall see it. output_size: (height, width) of the
    results. sam_masks: where SAM's proposals come from, if they shall join; image_id: by which they
    are found on disk."""
    images = ImageBatch.collate([image], model.size_divisor).to(model.device)
    if sam_masks is None:
        regions, predictions = None, model.predict(images, text)
    else:
        proposals, square = sam_masks(images, image_id)
        regions = proposals.logits(model.device)
        predictions = model.predict(images, text, regions=regions[None], sam_square=square)
    masks = predictions.mask_logits
    resizer = MaskResizer(
        mask_size=(masks.shape[-2], masks.shape[-1]),
        padded_size=(images.pixels.shape[-2], images.pixels.shape[-1]),
        image_size=images.sizes[0],
        output_size=output_size,
    )
    evidence = None
    if regions is not None:
        assert predictions.region_logits is not None, "regions were given"
        evidence = ProposalEvidence(
            class_logits=predictions.region_logits[0].float(),
            mask_logits=place_on_grid(
                regions,
                images.sizes[0],
                resizer.padded_size,
                (masks.shape[-2], masks.shape[-1]),
            ),
            predicted_iou=proposals.predicted_iou.to(model.device),
            seen=text.seen,
        )
    return post_processor(predictions.class_logits[0], masks[0], resizer, vocabulary, evidence)
