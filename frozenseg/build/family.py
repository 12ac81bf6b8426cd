"""`Family`: the fields by which a family of models is built, loaded and trained.

`frozenseg.build.families` lists all families.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fvcore.common.config import CfgNode
from torch import nn

from frozenseg.checkpoints.frozen_weights import FrozenPart
from frozenseg.engine.training_loss import InputPreparation, TrainingLoss
from frozenseg.models.base import SegmentationModel
from frozenseg.structures import TextEmbeddings

Model = TypeVar("Model", bound=SegmentationModel)
Identity = dict[str, tuple[list[Any], nn.Module]]


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Model]):
    """A family of models: a row of `frozenseg.build.families.MODELS`.

    build: builds the model of a configuration, with all weights newly initialised.
    frozen_parts: returns the frozen encoders and where their weights are.
    loss: builds the training loss from the text vectors of the training vocabulary, which are on
        the model's device.
    encoders: returns the names of the frozen encoders, by their role in the model.
    identity: returns, by name, everything besides the image that determines the output of
        `SegmentationModel.encode`: the settings, and the encoder whose weights count.
    queries_classes: whether the model is queried with classes and makes one independent mask for
        each; it can then be trained on pairs of an image and a class, and scored mask by mask.
    shared: returns the keys that a configuration needs if the weights of the encoders are stored
        with those of the model rather than in their own files.
    remedies: what to do about a `WeightsMismatch`, by its field `difference`.
    """

    build: Callable[[CfgNode], Model]
    frozen_parts: Callable[[CfgNode, Model], list[FrozenPart]]
    loss: Callable[[CfgNode, Model, TextEmbeddings, InputPreparation], TrainingLoss[Any, Any]]
    identity: Callable[[CfgNode, Model], Identity]
    encoders: Callable[[CfgNode], dict[str, str]]
    queries_classes: bool = False
    shared: Callable[[CfgNode, Model], Mapping[str, Any]] = lambda cfg, model: {}
    remedies: Mapping[str, str] = field(default_factory=dict)
