"""Convert a checkpoint between the published format and ours.

A published `.pth` file holds all weights; our `.safetensors` file holds the trained parts.
"""

import argparse
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.models import build_model
from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import (
    load_state,
    model_state,
    read_state,
    trainable_state,
    write_state,
)
from frozenseg.commands.output_argument import output_file, refuse_input
from frozenseg.config import load_config
from frozenseg.encoders.frozen import frozen_parts
from frozenseg.errors import UserError
from frozenseg.files import user_path, write_torch

PUBLISHED = {
    "MODEL.META_ARCHITECTURE": ("FrozenSeg", "FCCLIP"),
    "MODEL.FROZEN_SEG.POOLING": ("mask",),
    "MODEL.FROZEN_SEG.CLIP_PYRAMID": ("own",),
}
"""The settings of the models for which published names exist."""


def main(argv: list[str]) -> None:
    """Read a checkpoint, check it against the model, and write it in the other format."""
    parser = argparse.ArgumentParser(prog="frozenseg convert_checkpoint", description=__doc__)
    parser.add_argument("source", type=user_path, help="a published .pth or our .safetensors")
    parser.add_argument(
        "target",
        type=output_file,
        help="file to write: .safetensors for our format, .pth for published names",
    )
    parser.add_argument(
        "--config-file", help="the model's YAML file (default: the published ConvNeXt-L model)"
    )
    parser.add_argument("--keep-frozen", action="store_true", help="write the frozen encoders too")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="KEY VALUE",
        help="settings that override those of the YAML file",
    )
    arguments = parser.parse_intermixed_args(argv)  # KEY VALUE pairs may follow --config-file FILE
    if arguments.target.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{arguments.target}: the target must end in .safetensors or .pth")
    refuse_input(arguments.target, [arguments.source])
    cfg = load_config(arguments.config_file, arguments.options)
    if arguments.target.suffix == ".pth":
        _check_published(arguments.target, cfg)
    state = read_state(arguments.source)
    model = build_model(cfg)
    parts = load_state(model, state, str(arguments.source))
    converted = trainable_state(model)
    if arguments.keep_frozen:
        if missing := frozen_parts(model) - parts:
            raise UserError(f"{arguments.source}: holds no weights of {', '.join(sorted(missing))}")
        converted = model_state(model)
    _write(arguments.target, converted)
    count = sum(tensor.numel() for tensor in converted.values())
    print(f"{arguments.target}: {len(converted)} entries, {count:,} values")


def _check_published(target: Path, cfg: CfgNode) -> None:
    """Raise `UserError` for a model if some of its parts have no published names."""
    given = {
        "MODEL.META_ARCHITECTURE": cfg.MODEL.META_ARCHITECTURE,
        "MODEL.FROZEN_SEG.POOLING": cfg.MODEL.FROZEN_SEG.POOLING,
        "MODEL.FROZEN_SEG.CLIP_PYRAMID": cfg.MODEL.FROZEN_SEG.CLIP_PYRAMID,
    }
    for key, value in given.items():
        if value not in PUBLISHED[key]:
            raise UserError(
                f"{target}: a model with {key} {value} has no published names, which a .pth file "
                "needs; they exist only for FrozenSeg and FC-CLIP without mask adapter and simple "
                f"pyramid: write {target.with_suffix('.safetensors')}"
            )


def _write(target: Path, state: dict[str, Tensor]) -> None:
    if target.suffix == ".safetensors":
        write_state(target, state)
    else:
        write_torch(target, {"model": to_published(state)})
