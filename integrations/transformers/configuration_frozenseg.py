"""The configuration of FrozenSeg for Transformers."""

from typing import Any

from transformers import PretrainedConfig


class FrozenSegConfig(PretrainedConfig):
    """Which model, and which classes.

    model: as `frozenseg.load` takes it. weights: a checkpoint in place of its own. id2label: the
    classes, each with its synonyms between commas. things: the countable ones; None: as COCO has
    it.
    """

    model_type = "frozenseg"

    def __init__(
        self,
        model: str = "small",
        weights: str | None = None,
        things: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.model, self.weights, self.things = model, weights, things
        super().__init__(**kwargs)
