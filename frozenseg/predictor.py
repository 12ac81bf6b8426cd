"""An image and a vocabulary in, masks with names out: the package's main entrance.

`frozenseg.load` gives a `Predictor`; calling it gives a `SegmentationResult`, which draws itself.
"""

import gc
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frozenseg.data.images import to_array
from frozenseg.data.transforms import resize_image, resize_shortest_edge
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError
from frozenseg.inference.regions import class_regions
from frozenseg.inference.segment import Pipeline
from frozenseg.models.base import SegmentationModel, evaluation_mode
from frozenseg.runtime.allocator import give_back_memory
from frozenseg.runtime.isolation import plain_defaults
from frozenseg.structures import (
    InstanceResult,
    PanopticResult,
    Prediction,
    TextEmbeddings,
)
from frozenseg.text.classifier import TextClassifier
from frozenseg.text.vocabulary import Source, Vocabulary

logger = logging.getLogger(__name__)

TEXTS_KEPT = 8  # vocabularies whose vectors a predictor holds


@dataclass
class SegmentationResult:
    """What was found in one image. A task that the configuration switches off is None.

    image: (H, W, 3) uint8, as read. panoptic, semantic (H, W) class ids and instances as in
    `frozenseg.structures`; class ids index `vocabulary`. note: a warning that belongs on every
    picture, e.g. that weights are random; else None.

    Example:
        >>> with frozenseg.load("small", device="cpu") as segmenter:
        ...     result = segmenter("street.png", vocabulary=["car, truck", "road"])
        >>> {segment.name for segment in result.panoptic.segments} <= {"car", "road"}
        True
        >>> result.draw().save("drawn.png")
    """

    image: np.ndarray
    vocabulary: Vocabulary
    panoptic: PanopticResult | None
    semantic: np.ndarray | None
    instances: InstanceResult | None
    note: str | None = None

    def draw(self, *, legend: bool = True, opacity: float = 0.5) -> Image.Image:
        """`regions` over the image, with a legend."""
        found = self.regions
        return draw_segments(self.image, found.ids, found.segments, legend, opacity, self.note)

    @cached_property
    def regions(self) -> PanopticResult:
        """The panoptic result; where the model makes none (Fusioner), one region for each class of
        the semantic result."""
        if self.panoptic is not None:
            return self.panoptic
        if self.semantic is None:
            raise UserError(
                "nothing to draw: panoptic and semantic results are switched off; switch one on"
            )
        return class_regions(self.semantic, self.vocabulary.labels)


class Predictor:
    """Segments images; the vocabulary may change from call to call, and calls may come from several
    threads at once. `close`, or the end of a `with` block, gives its memory back.

    Example:
        >>> segmenter = frozenseg.load("small", device="cpu")
        >>> results = segmenter.batch(["street.png", "street.png"], vocabulary="car; road; sky")
        >>> len(results)
        2
        >>> segmenter.close()
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        text_classifier: TextClassifier,
        training_vocabulary: Vocabulary,
        short_side: int,
        long_side: int,
        note: str | None = None,
    ) -> None:
        """training_vocabulary: the classes that count as seen. short_side, long_side: images are
        resized to a shorter side of short_side pixels, the longer at most long_side. note: a
        warning for every result."""
        self.pipeline = pipeline
        self.text_classifier = text_classifier
        self.training_vocabulary = training_vocabulary
        self.short_side, self.long_side = short_side, long_side
        self.note = note
        # Replaced as a whole, never changed: who reads it needs no lock. The last used is last.
        self._texts: dict[Vocabulary, TextEmbeddings] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        image: Any,
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
    ) -> SegmentationResult:
        """image: path, PIL image, (H, W, 3) RGB uint8 array, or tensor (`frozenseg.data.images`).
        vocabulary and things: as `Vocabulary.parse` takes them."""
        words = Vocabulary.parse(vocabulary, things)
        pixels = self.read(image)
        return self._result(pixels, words, self.segment(pixels, words, self.embed(words)))

    def batch(
        self,
        images: Sequence[Any],
        vocabulary: Source | Vocabulary,
        things: Source | None = None,
    ) -> list[SegmentationResult]:
        """Several images, each as a call takes it; the results are those of single calls.

        Images of one size go through the model together. Others, whose padding would change the
        result, go one by one, and so do all where SAM's proposals join, which are made image by
        image.
        """
        one = isinstance(images, str | os.PathLike | Image.Image)
        if one or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
            raise UserError("batch takes a list of images; give one image to the predictor itself")
        words = Vocabulary.parse(vocabulary, things)
        arrays = [self.read(image) for image in images]
        text = self.embed(words)
        if self._open().proposals is None and len({pixels.shape for pixels in arrays}) == 1:
            found = self._segment_together(arrays, words, text)
        else:
            found = [self.segment(pixels, words, text) for pixels in arrays]
        return [
            self._result(pixels, words, result)
            for pixels, result in zip(arrays, found, strict=True)
        ]

    def _segment_together(
        self, images: list[np.ndarray], vocabulary: Vocabulary, text: TextEmbeddings
    ) -> list[Prediction]:
        """Images of one size in one pass."""
        pipeline = self._open()
        with plain_defaults(), evaluation_mode(pipeline.model):
            return pipeline.batch(
                [self.resize(pixels) for pixels in images],
                [(pixels.shape[0], pixels.shape[1]) for pixels in images],
                text,
                vocabulary,
            )

    def _result(
        self, pixels: np.ndarray, vocabulary: Vocabulary, found: Prediction
    ) -> SegmentationResult:
        return SegmentationResult(
            pixels, vocabulary, found.panoptic, found.semantic, found.instances, self.note
        )

    def read(self, image: Any) -> np.ndarray:
        """An image in any form that a call takes as (H, W, 3) uint8 RGB."""
        return to_array(image)

    def resize(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) uint8, as the network shall see it."""
        size = resize_shortest_edge(
            pixels.shape[0], pixels.shape[1], self.short_side, self.long_side
        )
        resized = np.array(resize_image(pixels, size))  # a copy that torch may hold
        return torch.from_numpy(resized).permute(2, 0, 1)

    def segment(
        self, pixels: np.ndarray, vocabulary: Vocabulary, text: TextEmbeddings
    ) -> Prediction:
        """pixels: (H, W, 3) uint8 RGB of any size, and results at that size; text: from `embed`."""
        pipeline = self._open()
        with plain_defaults(), evaluation_mode(pipeline.model):
            size = (pixels.shape[0], pixels.shape[1])
            return pipeline(self.resize(pixels), size, text, vocabulary)

    def embed(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The vocabulary's text vectors on the model's device; those of the last `TEXTS_KEPT`
        vocabularies are kept. What is returned is of this vocabulary, whatever other threads ask
        for meanwhile."""
        texts = self._texts
        text = texts.get(vocabulary)
        if text is not None and next(reversed(texts)) == vocabulary:
            return text
        if text is None:
            device = self.model.device
            with plain_defaults():
                found = self.text_classifier.embed(vocabulary, self.training_vocabulary)
            text = found.to(device)
        with self._lock:
            others = [pair for pair in self._texts.items() if pair[0] != vocabulary]
            self._texts = dict([*others[1 - TEXTS_KEPT :], (vocabulary, text)])
        return text

    def close(self) -> None:
        """Free the model's memory and give it back to the system; no call is possible any more."""
        if "pipeline" in self.__dict__:
            del self.pipeline, self.text_classifier
        self._texts = {}
        gc.collect()
        give_back_memory()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> SegmentationModel:
        """The model inside; raises `UserError` after `close`."""
        return self._open().model

    def _open(self) -> Pipeline:
        if "pipeline" not in self.__dict__:
            raise UserError("this predictor is closed; load the model again")
        return self.pipeline
