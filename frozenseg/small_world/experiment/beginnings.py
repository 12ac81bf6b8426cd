"""The weights that runs begin with: parts that two arms share are the same tensors in both."""

from collections.abc import Mapping
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import read_state, trainable_state, write_state


def write_beginnings(configs: Mapping[str, CfgNode], folder: Path) -> dict[str, Path]:
    """Write the first weights of every arm; returns the file of each.

    configs: of the arms, by name, each with its SEED. A trained tensor of an arm is that of the
    first arm which has one of the same name and shape, and random where there is none. Files that
    are there stay as they are.
    """
    paths = {name: folder / f"{name}_seed_{cfg.SEED}.safetensors" for name, cfg in configs.items()}
    missing = [name for name, path in paths.items() if not path.is_file()]
    shared: dict[tuple[str, torch.Size], Tensor] = {}
    if missing:
        for name in configs:  # in their order: of two tensors that fit, the first one's is shared
            if name not in missing:
                _share(read_state(paths[name]), shared)
    for name in missing:
        write_state(paths[name], _share(trainable_state(build_model(configs[name])), shared))
    return paths


def _share(
    state: Mapping[str, Tensor], shared: dict[tuple[str, torch.Size], Tensor]
) -> dict[str, Tensor]:
    """Return a state with the shared tensors, which its own join where there is none."""
    return {key: shared.setdefault((key, tensor.shape), tensor) for key, tensor in state.items()}
