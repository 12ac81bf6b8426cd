"""Tables of the model families, each with a module in this folder, and of the users' losses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build import frozenseg, fusioner
from frozenseg.build.family import Family
from frozenseg.engine.training_loss import InputPreparation, TrainingLoss
from frozenseg.errors import UserError, nearest
from frozenseg.structures import TextEmbeddings

FROZENSEG = Family(
    build=frozenseg.build_frozenseg,
    frozen_parts=frozenseg.frozenseg_parts,
    loss=frozenseg.frozenseg_loss,
    identity=frozenseg.frozenseg_identity,
    encoders=frozenseg.frozenseg_encoders,
    shared=frozenseg.frozenseg_shared,
    remedies=frozenseg.REMEDIES,
)

MODELS: dict[str, Family[Any]] = {
    "FrozenSeg": FROZENSEG,
    "FCCLIP": replace(
        FROZENSEG, build=frozenseg.build_fc_clip, encoders=frozenseg.fc_clip_encoders
    ),
    "Fusioner": Family(
        build=fusioner.build_fusioner,
        frozen_parts=fusioner.fusioner_parts,
        loss=fusioner.fusioner_loss,
        identity=fusioner.fusioner_identity,
        encoders=fusioner.fusioner_encoders,
        shared=fusioner.fusioner_shared,
        queries_classes=True,
    ),
}
"""MODEL.META_ARCHITECTURE -> the family."""


Loss = Callable[[CfgNode, Any, TextEmbeddings, InputPreparation], TrainingLoss[Any, Any]]
LOSSES: dict[str, Loss] = {}
"""MODEL.LOSS -> a loss other than those of the families; takes the arguments of `Family.loss`."""


def find_loss(cfg: CfgNode) -> Loss:
    """Return the loss of MODEL.LOSS, or the loss of the family if the key is empty."""
    name = cfg.MODEL.LOSS
    if name and name not in LOSSES:
        known = nearest(name, list(LOSSES)) if LOSSES else "the table LOSSES has none"
        raise UserError(f"MODEL.LOSS {name}: unknown; {known}")
    return LOSSES[name] if name else find_family(cfg).loss


def find_family(cfg: CfgNode) -> Family[Any]:
    """Return the row of MODEL.META_ARCHITECTURE."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in MODELS:
        raise UserError(f"MODEL.META_ARCHITECTURE {name}: unknown; {nearest(name, list(MODELS))}")
    return MODELS[name]
