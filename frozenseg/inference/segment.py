"""Runs resized images through a model and its post-processing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from frozenseg.encoders.pooling import resample_to_padded_grid
from frozenseg.errors import UserError
from frozenseg.inference.join_proposals import ClassifiedProposals
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_sources import ProposalSource
from frozenseg.inference.proposals import Proposals
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.base import RegionClassifier, SegmentationModel
from frozenseg.runtime.isolation import on_device
from frozenseg.runtime.memory import out_of_memory_named
from frozenseg.runtime.precision import Precision
from frozenseg.structures import ImageBatch, MaskPredictions, Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Request:
    """One image to segment.

    image: (3, h, w), RGB 0-255, as the network's input, without padding. output_size: (height,
    width) of the results. image_id: the id by which stored proposals are found.
    """

    image: Tensor
    output_size: tuple[int, int]
    image_id: int | str | None = None


@dataclass(frozen=True)
class ModelOutput:
    """The output of a model for a batch, on its device; it may still be being computed.

    proposals: the proposals of each image; None if proposals are not used.
    regions: the same proposals as mask logits (P, h, w) on the device.
    """

    requests: Sequence[Request]
    images: ImageBatch
    predictions: MaskPredictions
    seen: Tensor
    proposals: list[Proposals] | None = None
    regions: list[Tensor] | None = None


@dataclass
class Pipeline:
    """A model and everything between its resized input and the results.

    model: must be in evaluation mode while it is called.
    post_processor: computes the results from the model's masks, in float32.
    precision: precision of the model; in half precision, post-processing may use TF32.
    proposals: the source of SAM's proposals, if they are used; the model must then be a
        `RegionClassifier`.
    """

    model: SegmentationModel
    post_processor: PostProcessor
    precision: Precision
    proposals: ProposalSource | None = None

    def __call__(
        self, request: Request, text: TextEmbeddings, vocabulary: Vocabulary
    ) -> Prediction:
        """Segment one image. text: the embeddings of `vocabulary`. Raises `UserError` if memory is
        too small."""
        (found,) = self.finish(self.predict([request], text), vocabulary)
        if isinstance(found, UserError):
            raise found
        return found

    def padded_size(self, image: Tensor) -> tuple[int, int]:
        """Return the (height, width) of an image (3, h, w) after padding, which batches share."""
        divisor = self.model.size_divisor
        return -(-image.shape[-2] // divisor) * divisor, -(-image.shape[-1] // divisor) * divisor

    @torch.inference_mode()
    def predict(self, requests: Sequence[Request], text: TextEmbeddings) -> ModelOutput:
        """Start the model on images of one padded size; up to rounding, each gets the same result
        as on its own.

        Without proposals, this does not wait for the device. Raises `UserError` if the memory is
        too small for these images together.
        """
        height, width = self.padded_size(requests[0].image)
        named = out_of_memory_named(f"the features of {height} x {width} pixels")
        with on_device(self.model.device), named:
            return self._predict(requests, text)

    def _predict(self, requests: Sequence[Request], text: TextEmbeddings) -> ModelOutput:
        pixels = [request.image for request in requests]
        model = self.model
        images = ImageBatch.collate(pixels, model.size_divisor, device=model.device)
        with self.precision.autocast():
            if self.proposals is None:
                predictions = self.model.predict(images, text)
                return ModelOutput(requests, images, predictions, text.seen)
            assert isinstance(self.model, RegionClassifier), "proposals need a RegionClassifier"
            ids = [request.image_id for request in requests]
            proposals, embedding = self.proposals(images, ids)
            regions = [found.logits(self.model.device) for found in proposals]
            predictions = self.model.predict(
                images, text, regions=regions, image_embedding=embedding
            )
        return ModelOutput(requests, images, predictions, text.seen, proposals, regions)

    @torch.inference_mode()
    def finish(self, output: ModelOutput, vocabulary: Vocabulary) -> list[Prediction | UserError]:
        """Compute the results of each image on the host; this waits for the device.

        The device works on an image while the host completes the previous one. If the memory is too
        small for the results of an image, its `UserError` is returned instead of them.
        """
        with on_device(self.model.device):
            return self._finish(output, vocabulary)

    def _finish(self, output: ModelOutput, vocabulary: Vocabulary) -> list[Prediction | UserError]:
        work = [self._in_steps(output, index, vocabulary) for index in range(len(output.requests))]
        found: list[Prediction | UserError | None] = [
            self._caught(output, index, partial(next, steps)) for index, steps in enumerate(work)
        ]
        for index in range(len(work) + 1):
            for number in (index, index - 1):  # start this image, and complete the previous one
                if number in range(len(work)) and not isinstance(found[number], UserError):
                    found[number] = self._caught(output, number, partial(next, work[number]))
        return cast(list[Prediction | UserError], found)

    def _in_steps(
        self, output: ModelOutput, index: int, vocabulary: Vocabulary
    ) -> Iterator[Prediction | None]:
        """Run `PostProcessor.in_steps` for one image."""
        found, resizer = output.predictions, self._resizer(output, index)
        yield from self.post_processor.in_steps(
            found.class_logits[index],
            found.mask_logits[index],
            resizer,
            vocabulary,
            _classified_proposals(output, index, resizer),
        )

    def _caught(self, output: ModelOutput, index: int, step: Callable[[], Any]) -> Any:
        """Return the result of one step of the work on an image, or its `UserError`."""
        height, width = output.requests[index].output_size
        named = out_of_memory_named(f"the masks of {height} x {width} pixels")
        try:
            with named, self.precision.float32_products():
                return step()
        except UserError as error:
            return error.with_traceback(None)

    def _resizer(self, output: ModelOutput, index: int) -> MaskResizer:
        pixels = output.images.pixels
        return MaskResizer(
            mask_size=_grid(output.predictions),
            padded_size=(pixels.shape[-2], pixels.shape[-1]),
            image_size=output.images.sizes[index],
            output_size=output.requests[index].output_size,
            cells_inside=self.post_processor.cells_inside,
        )


def _classified_proposals(
    output: ModelOutput, index: int, resizer: MaskResizer
) -> ClassifiedProposals | None:
    """Return the classified proposals of one image, on the grid of the queries' masks."""
    logits = output.predictions.region_logits
    if output.proposals is None or output.regions is None:
        return None
    assert logits is not None, "the model returned no region_logits"
    proposals, regions = output.proposals[index], output.regions[index]
    return ClassifiedProposals(
        class_logits=logits[index, : len(proposals)].float(),
        mask_logits=resample_to_padded_grid(
            regions, resizer.image_size, resizer.padded_size, _grid(output.predictions)
        ),
        predicted_iou=proposals.predicted_iou.to(regions.device),
        seen=output.seen,
    )


def _grid(predictions: MaskPredictions) -> tuple[int, int]:
    return predictions.mask_logits.shape[-2], predictions.mask_logits.shape[-1]
