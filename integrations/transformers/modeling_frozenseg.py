"""FrozenSeg as a model of Transformers: a thin cover of the package frozenseg.

    from transformers import pipeline

    folder = "integrations/transformers"
    segment = pipeline("image-segmentation", model=folder, trust_remote_code=True)
    segment("street.jpg", threshold=0.25)

The threshold of the pipeline is 0.9 unless one is given. The classes are `id2label` of config.json.
`model.vocabulary = frozenseg.Vocabulary.parse(...)` replaces them for later calls.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

import frozenseg

from .configuration_frozenseg import FrozenSegConfig


class FrozenSegForImageSegmentation(PreTrainedModel):
    """Segments images with the classes of the configuration."""

    config_class = FrozenSegConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FrozenSegConfig) -> None:
        super().__init__(config)
        # Tells the device to which Transformers moves the model.
        self.place = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
        self.segmenter: frozenseg.Predictor | None = None
        names = [config.id2label[number] for number in sorted(config.id2label)]
        self._vocabulary = frozenseg.Vocabulary.parse(names, config.things)

    @property
    def vocabulary(self) -> frozenseg.Vocabulary:
        """The classes of the next calls."""
        return self._vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: frozenseg.Vocabulary) -> None:
        self._vocabulary = vocabulary
        labels = [", ".join(names) for names in vocabulary.names]
        self.config.id2label = dict(enumerate(labels))  # the pipeline reads the labels there
        self.config.label2id = {label: number for number, label in enumerate(labels)}
        pairs = zip(labels, vocabulary.is_thing, strict=True)
        self.config.things = [label for label, is_thing in pairs if is_thing]

    @classmethod
    def from_pretrained(cls, path: Any, *_: Any, config: Any = None, **kwargs: Any) -> Any:
        """Make the model of a configuration; frozenseg loads the weights at the first call."""
        return cls(config or FrozenSegConfig.from_pretrained(path))

    @torch.no_grad()
    def forward(self, pixel_values: Any, **_: Any) -> ModelOutput:
        """Segment images (3, H, W) uint8; "results" has a `SegmentationResult` for each."""
        if self.segmenter is None:
            self.segmenter = frozenseg.load(
                self.config.model, weights=self.config.weights, device=self.place.device
            )
        results = [self.segmenter(image, self.vocabulary, threshold=0) for image in pixel_values]
        return ModelOutput(results=results)
