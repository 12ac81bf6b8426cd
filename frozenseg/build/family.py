"""`Family`: the fields by which a family of models is built, loaded and trained.

`frozenseg.build.families` lists the families there are.
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

    build: makes the model of a configuration, with new weights everywhere.
    frozen_parts: says where the weights of the frozen encoders are.
    loss: makes the training loss. It gets the text vectors of the training vocabulary, which are
        on the model's device.
    encoders: gives the names of the frozen encoders, by what they are for.
    identity: gives, by name, all that decides `SegmentationModel.encode` besides the image: the
        settings, and the encoder whose weights count.
    queries_classes: whether the model is queried with classes and makes one mask for each, apart
        from the others; it can then train on pairs of an image and a class, and be scored mask by
        mask.
    shared: gives the keys that a configuration needs where the weights of the encoders come with
        those of the model, and not from their own files.
    remedies: what to do about a `WeightsMismatch`, by its difference.
    """

    build: Callable[[CfgNode], Model]
    frozen_parts: Callable[[CfgNode, Model], list[FrozenPart]]
    loss: Callable[[CfgNode, Model, TextEmbeddings, InputPreparation], TrainingLoss[Any, Any]]
    identity: Callable[[CfgNode, Model], Identity]
    encoders: Callable[[CfgNode], dict[str, str]]
    queries_classes: bool = False
    shared: Callable[[CfgNode, Model], Mapping[str, Any]] = lambda cfg, model: {}
    remedies: Mapping[str, str] = field(default_factory=dict)
