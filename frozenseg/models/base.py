"""What both model families have in common: all that training, testing and the predictor use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frozenseg.encoders.bert import BertText
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.frozen import FROZEN_PARTS
from frozenseg.encoders.sam import FrozenSam
from frozenseg.structures import Features, ImageBatch, MaskPredictions, TextEmbeddings


@dataclass(frozen=True)
class Stage:
    """A method of a part of a model that does a share of `SegmentationModel.predict`.

    No two of them overlap.

    owner, method: where it is found, so that it can be timed or compiled in its place. fixed_size:
    whether its input has the same size whatever the image. frozen: whether it is an encoder that
    never trains, and runs without gradients.
    """

    name: str
    owner: nn.Module
    method: str = "forward"
    fixed_size: bool = False
    frozen: bool = False


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; behind it every part is as it was before."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SegmentationModel(nn.Module):
    """An open-vocabulary model: frozen encoders, and parts between them that train.

    size_divisor: images are padded to a multiple of it, in pixels. features: what `encode` returns.
    """

    size_divisor: int
    features: type[Features]

    @property
    def text_encoder(self) -> ClipText | BertText:
        """The frozen encoder whose vectors of names `predict` expects."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.trainable_parameters())[1].device

    def stages(self) -> list[Stage]:
        """What `predict` does, in order; what is between them takes little time."""
        raise NotImplementedError

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of everything that is not frozen."""
        return (
            (name, parameter)
            for name, parameter in self.named_parameters()
            if name.split(".")[0] not in FROZEN_PARTS
        )

    def encode(self, images: ImageBatch) -> Features:
        """What the frozen encoders make of images; `forward` takes it in place of doing so."""
        raise NotImplementedError

    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        """Masks and the log-probabilities of their classes, void last."""
        raise NotImplementedError


class RegionClassifier(SegmentationModel):
    """A model that also classifies regions which others propose, such as SAM's masks.

    sam: the frozen SAM that is part of the model, or None.
    """

    sam: FrozenSam | None

    def predict(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Tensor | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """As `SegmentationModel.predict`; `MaskPredictions.region_logits` are those of the regions.

        regions: mask logits (B, P, h, w) that span each image without its padding. image_embedding:
        SAM's embedding of these images, `FrozenSam.image_embedding`, if it is known already.
        """
        raise NotImplementedError
