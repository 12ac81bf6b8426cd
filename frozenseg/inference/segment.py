"""Runs resized images through a model and its post-processing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frozenseg.encoders.pooling import resample_to_padded_grid
from frozenseg.inference.join_proposals import ClassifiedProposals
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_sources import ProposalSource
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.base import RegionClassifier, SegmentationModel
from frozenseg.runtime.precision import Precision
from frozenseg.structures import ImageBatch, MaskPredictions, Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


@dataclass
class Pipeline:
    """A model and all that stands between its resized input and the results.

    model: in evaluation mode while it is called.
    post_processor: what is made of the model's masks; it computes in float32.
    precision: of the model.
    proposals: where SAM's proposals come from, if they shall join; the model must then be a
        `RegionClassifier`.
    """

    model: SegmentationModel
    post_processor: PostProcessor
    precision: Precision
    proposals: ProposalSource | None = None

    def __call__(
        self,
        image: Tensor,
        output_size: tuple[int, int],
        text: TextEmbeddings,
        vocabulary: Vocabulary,
        image_id: int | str | None = None,
    ) -> Prediction:
        """Segment one image.

        image: (3, h, w) RGB 0-255, as the network shall see it. output_size: (height, width) of the
        results. text: the vectors of `vocabulary`. image_id: by which proposals are found on disk.
        """
        if self.proposals is None:
            return self.batch([image], [output_size], text, vocabulary)[0]
        return self._with_proposals(self.proposals, image, output_size, text, vocabulary, image_id)

    @torch.inference_mode()
    def batch(
        self,
        images: list[Tensor],
        output_sizes: list[tuple[int, int]],
        text: TextEmbeddings,
        vocabulary: Vocabulary,
    ) -> list[Prediction]:
        """Segment images of one size in one pass of the model, without proposals."""
        batch = ImageBatch.collate(images, self.model.size_divisor).to(self.model.device)
        with self.precision.autocast():
            predictions = self.model.predict(batch, text)
        return [
            self.post_processor(
                predictions.class_logits[index],
                predictions.mask_logits[index],
                self._resizer(batch, predictions, index, output_size),
                vocabulary,
            )
            for index, output_size in enumerate(output_sizes)
        ]

    @torch.inference_mode()
    def _with_proposals(
        self,
        source: ProposalSource,
        image: Tensor,
        output_size: tuple[int, int],
        text: TextEmbeddings,
        vocabulary: Vocabulary,
        image_id: int | str | None,
    ) -> Prediction:
        assert isinstance(self.model, RegionClassifier), "as the constructor says"
        device = self.model.device
        images = ImageBatch.collate([image], self.model.size_divisor).to(device)
        with self.precision.autocast():
            proposals, embedding = source(images, image_id)
            regions = proposals.logits(device)
            predictions = self.model.predict(
                images, text, regions=regions[None], image_embedding=embedding
            )
        assert predictions.region_logits is not None, "regions were given"
        resizer = self._resizer(images, predictions, 0, output_size)
        evidence = ClassifiedProposals(
            class_logits=predictions.region_logits[0].float(),
            mask_logits=resample_to_padded_grid(
                regions, images.sizes[0], resizer.padded_size, _grid(predictions)
            ),
            predicted_iou=proposals.predicted_iou.to(device),
            seen=text.seen,
        )
        return self.post_processor(
            predictions.class_logits[0], predictions.mask_logits[0], resizer, vocabulary, evidence
        )

    def _resizer(
        self,
        images: ImageBatch,
        predictions: MaskPredictions,
        index: int,
        output_size: tuple[int, int],
    ) -> MaskResizer:
        return MaskResizer(
            mask_size=_grid(predictions),
            padded_size=(images.pixels.shape[-2], images.pixels.shape[-1]),
            image_size=images.sizes[index],
            output_size=output_size,
            cells_inside=self.post_processor.cells_inside,
        )


def _grid(predictions: MaskPredictions) -> tuple[int, int]:
    return predictions.mask_logits.shape[-2], predictions.mask_logits.shape[-1]
