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

    build: the model of a configuration, with new weights everywhere.
    frozen_parts: where the weights of its frozen encoders are.
    loss: its training loss. The text vectors are those of the training vocabulary, on the model's
        device.
    encoders: the names of its frozen encoders, by what they are for.
    identity: by name, all that decides `SegmentationModel.encode` besides the image: settings, and
        the encoder whose weights count.
    queries_classes: the model is asked for classes and makes one mask for each, which stands by
        itself; so it can train on pairs of an image and a class, and be scored mask by mask.
    remedies: what to do about a `WeightsMismatch`, by its difference.
    """

    build: Callable[[CfgNode], Model]
    frozen_parts: Callable[[CfgNode, Model], list[FrozenPart]]
    loss: Callable[[CfgNode, Model, TextEmbeddings, InputPreparation], TrainingLoss[Any, Any]]
    identity: Callable[[CfgNode, Model], Identity]
    encoders: Callable[[CfgNode], dict[str, str]]
    queries_classes: bool = False
    remedies: Mapping[str, str] = field(default_factory=dict)
