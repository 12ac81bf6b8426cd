"""The interface of both model families, which training, testing and the predictor use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from frozenseg.encoders.bert import BertText
from frozenseg.encoders.clip_text import ClipText
from frozenseg.encoders.frozen import Frozen, frozen_parts, part_of
from frozenseg.encoders.sam import FrozenSam
from frozenseg.structures import Features, ImageBatch, MaskPredictions, TextEmbeddings


@dataclass(frozen=True)
class Stage:
    """One step of `SegmentationModel.predict` that can be timed or compiled separately.

    Stages do not overlap.

    name: shown in reports of time and memory.
    owner: the module that the method belongs to.
    method: name of the method that computes this step.
    fixed_size: whether the input has the same size for images of any size.
    frozen: whether this step is a frozen encoder, which runs without gradients.
    """

    name: str
    owner: nn.Module
    method: str = "forward"
    fixed_size: bool = False
    frozen: bool = False


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and restore the mode of every module at the end."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class SegmentationModel(nn.Module):
    """An open-vocabulary segmentation model: frozen encoders and trained parts behind them.

    size_divisor: the heights and widths of batches are padded to a multiple of it, in pixels.
    alone: the only parts that are still trained while the others stay as they are (see
        `train_alone`); empty if all parts are trained.
    """

    size_divisor: int
    alone: frozenset[str] = frozenset()

    @property
    def text_encoder(self) -> ClipText | BertText:
        """The frozen text encoder; `predict` expects text embeddings made by it."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device of the trained parts."""
        # `trainable_parameters` would first visit all modules, which takes milliseconds.
        trained = (part for part in self.children() if not isinstance(part, Frozen))
        own = self.parameters(recurse=False)
        return next(chain(own, *(part.parameters() for part in trained))).device

    def stages(self) -> list[Stage]:
        """Return the steps of `predict` in order; the work between them takes little time."""
        raise NotImplementedError

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the names and values of all parameters that are trained."""
        frozen = frozen_parts(self)
        return (
            (name, parameter)
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and part_of(name, frozen) is None
        )

    def train_alone(self, part: str) -> None:
        """Train only the submodule named `part`; all other parts are finished and are frozen."""
        self.requires_grad_(False)
        self.get_submodule(part).requires_grad_(True)
        self.alone = frozenset({part})

    def cast_for_inference(self, dtype: torch.dtype) -> None:
        """Store weights in `dtype` where that saves casts.

        From then on the model can only predict; it must not be trained.
        """

    def encode(self, images: ImageBatch) -> Features:
        """Return the features of the frozen encoders.

        `forward` accepts them, so that images need to be encoded only once.
        """
        raise NotImplementedError

    def feature_channels(self) -> dict[str, int]:
        """Return the number of channels of each output of `encode`: of CLIP's levels by name and of
        SAM's embedding ("sam"), or of the patch tokens ("cells")."""
        raise NotImplementedError

    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        """Return masks and the log-probabilities of their classes, void last."""
        raise NotImplementedError


class RegionClassifier(SegmentationModel):
    """A model that can also classify regions proposed elsewhere, such as SAM's masks.

    sam: the frozen SAM that is part of the model, or None.
    """

    sam: FrozenSam | None

    def predict(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        *,
        regions: Sequence[Tensor] | None = None,
        image_embedding: Tensor | None = None,
    ) -> MaskPredictions:
        """Like `SegmentationModel.predict`, and classify the given regions as well: their class
        logits are in `MaskPredictions.region_logits`.

        regions: mask logits (P, h, w) for each image, which span the image without its padding. P
        may differ between images: the rows of `region_logits` after an image's own P have no
        meaning. image_embedding: SAM's embedding of these images, as returned by
        `FrozenSam.image_embedding`, if it is known already.
        """
        raise NotImplementedError
