"""Runs resized images through a model and its post-processing."""

import torch
from torch import Tensor

from frozenseg.encoders.pooling import resample_to_padded_grid
from frozenseg.inference.openseg_ensemble import ClassifiedProposals
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_sources import ProposalSource
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.precision import Precision
from frozenseg.structures import ImageBatch, MaskPredictions, Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


@torch.inference_mode()
def segment_image(
    model: SegmentationModel,
    image: Tensor,
    output_size: tuple[int, int],
    *,
    text: TextEmbeddings,
    vocabulary: Vocabulary,
    post_processor: PostProcessor,
    precision: Precision,
    sam_masks: ProposalSource | None = None,
    image_id: int | str | None = None,
) -> Prediction:
    """Segment one image.

    image: (3, h, w) RGB 0-255, at the size that the network shall see.
    output_size: (height, width) of the results.
    text: embeddings of the classes.
    vocabulary: names and thing flags of the same classes.
    post_processor: which results to make; it computes in float32.
    precision: of the model.
    sam_masks: where SAM's proposals come from; None: they do not join the queries.
    image_id: the name of stored proposals.
    """
    if sam_masks is None:
        (result,) = segment_batch(
            model,
            [image],
            [output_size],
            text=text,
            vocabulary=vocabulary,
            post_processor=post_processor,
            precision=precision,
        )
        return result
    images = ImageBatch.collate([image], model.size_divisor).to(model.device)
    with precision.autocast():
        proposals, embedding = sam_masks(images, image_id)
        regions = proposals.logits(model.device)
        predictions = model.predict(images, text, regions=regions[None], image_embedding=embedding)
    assert predictions.region_logits is not None, "regions were given"
    resizer = _resizer(images, predictions, 0, output_size, post_processor)
    classified = ClassifiedProposals(
        class_logits=predictions.region_logits[0].float(),
        mask_logits=resample_to_padded_grid(
            regions, images.sizes[0], resizer.padded_size, _grid(predictions)
        ),
        predicted_iou=proposals.predicted_iou.to(model.device),
        seen=text.seen,
    )
    return post_processor(
        predictions.class_logits[0], predictions.mask_logits[0], resizer, vocabulary, classified
    )


@torch.inference_mode()
def segment_batch(
    model: SegmentationModel,
    images: list[Tensor],
    output_sizes: list[tuple[int, int]],
    *,
    text: TextEmbeddings,
    vocabulary: Vocabulary,
    post_processor: PostProcessor,
    precision: Precision,
) -> list[Prediction]:
    """As `segment_image`, for several images of one size in one pass of the model."""
    batch = ImageBatch.collate(images, model.size_divisor).to(model.device)
    with precision.autocast():
        predictions = model.predict(batch, text)
    return [
        post_processor(
            predictions.class_logits[index],
            predictions.mask_logits[index],
            _resizer(batch, predictions, index, output_size, post_processor),
            vocabulary,
        )
        for index, output_size in enumerate(output_sizes)
    ]


def _grid(predictions: MaskPredictions) -> tuple[int, int]:
    return predictions.mask_logits.shape[-2], predictions.mask_logits.shape[-1]


def _resizer(
    images: ImageBatch,
    predictions: MaskPredictions,
    index: int,
    output_size: tuple[int, int],
    post_processor: PostProcessor,
) -> MaskResizer:
    return MaskResizer(
        mask_size=_grid(predictions),
        padded_size=(images.pixels.shape[-2], images.pixels.shape[-1]),
        image_size=images.sizes[index],
        output_size=output_size,
        cells_inside=post_processor.cells_inside,
    )
