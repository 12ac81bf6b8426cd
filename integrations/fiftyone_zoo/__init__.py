"""A source of models for FiftyOne's zoo.

    import fiftyone.zoo as foz

    foz.register_zoo_model_source("integrations/fiftyone_zoo")
    model = foz.load_zoo_model("frozenseg-small-torch", vocabulary="car, truck; road; sky")
    dataset.apply_model(model, label_field="frozenseg")

`load_zoo_model` passes on what `load_model` takes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fiftyone.core.labels as fol
import fiftyone.core.models as fom
import numpy as np

import frozenseg


class FrozenSegModel(fom.Model):
    """Gives the segments of an image, things and stuff, as `fiftyone.Detections` with masks."""

    def __init__(
        self, segmenter: frozenseg.Predictor, vocabulary: frozenseg.Vocabulary, threshold: float
    ) -> None:
        self.segmenter, self.vocabulary, self.threshold = segmenter, vocabulary, threshold

    @property
    def media_type(self) -> str:
        """What FiftyOne gives to `predict`."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Images of a batch may have several sizes."""
        return True

    @property
    def transforms(self) -> None:
        """Images are read by FiftyOne and resized by the predictor."""
        return None

    @property
    def preprocess(self) -> bool:
        """Whether FiftyOne calls `transforms`."""
        return False

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        """FiftyOne asks for this; there is nothing to switch."""

    def predict(self, arg: np.ndarray) -> fol.Detections:
        """Segment an image (H, W, 3) uint8 RGB."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[np.ndarray]) -> list[fol.Detections]:
        """Segment several images."""
        results = self.segmenter.batch(list(args), self.vocabulary, threshold=self.threshold)
        return [_detections(result) for result in results]


def _detections(result: frozenseg.SegmentationResult) -> fol.Detections:
    objects = result.objects()
    rows = zip(objects.masks, objects.names, objects.scores.tolist(), strict=True)
    return fol.Detections(
        detections=[
            fol.Detection.from_mask(mask, label=name, confidence=None if np.isnan(score) else score)
            for mask, name, score in rows
        ]
    )


def download_model(model_name: str, model_path: str) -> None:
    """Say where the weights are: the small model ships with the package frozenseg."""
    Path(model_path).write_text("the weights are in the package frozenseg\n", encoding="utf-8")


def load_model(
    model_name: str | None = None,
    model_path: str | None = None,
    vocabulary: Any = None,
    things: Any = None,
    model: str = "small",
    weights: str | None = None,
    device: str | None = None,
    threshold: float = 0.25,
    **_: Any,
) -> FrozenSegModel:
    """Load a model as `frozenseg.load` does, with its vocabulary."""
    if vocabulary is None:
        raise frozenseg.UserError('name the classes: vocabulary="car, truck; road; sky"')
    words = frozenseg.Vocabulary.parse(vocabulary, things)
    segmenter = frozenseg.load(model, weights=weights, device=device)
    return FrozenSegModel(segmenter, words, threshold)
