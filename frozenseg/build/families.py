"""The families of models: one row here, one file beside it."""

from dataclasses import replace
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build import frozenseg, fusioner
from frozenseg.build.family import Family
from frozenseg.errors import UserError, nearest

FROZENSEG = Family(
    build=frozenseg.build_frozenseg,
    frozen_parts=frozenseg.frozenseg_parts,
    loss=frozenseg.frozenseg_loss,
    identity=frozenseg.frozenseg_identity,
    encoders=frozenseg.frozenseg_encoders,
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
        queries_classes=True,
    ),
}
"""By MODEL.META_ARCHITECTURE."""


def find_family(cfg: CfgNode) -> Family[Any]:
    """The row of MODEL.META_ARCHITECTURE."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in MODELS:
        raise UserError(f"MODEL.META_ARCHITECTURE {name}: unknown; {nearest(name, list(MODELS))}")
    return MODELS[name]
