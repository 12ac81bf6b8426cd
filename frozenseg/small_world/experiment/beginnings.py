"""The initial weights of runs: parts that two arms share begin with the same tensors in both."""

from collections.abc import Mapping
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import read_state, trainable_state, write_state


def write_beginnings(configs: Mapping[str, CfgNode], folder: Path) -> dict[str, Path]:
    """Write the initial weights of every arm; returns the file of each.

    configs: the configurations of the arms by name, each with its SEED. Arms share their trainable
    tensors of equal name and shape: each comes from the first arm that has it, which initialises it
    at random. Existing files stay as they are, and their tensors come before those of other arms.
    """
    paths = {name: folder / f"{name}_seed_{cfg.SEED}.safetensors" for name, cfg in configs.items()}
    missing = [name for name, path in paths.items() if not path.is_file()]
    shared: dict[tuple[str, torch.Size], Tensor] = {}
    if missing:
        for name in configs:  # in this order, because the first of two matching tensors is shared
            if name not in missing:
                _share(read_state(paths[name]), shared)
    for name in missing:
        write_state(paths[name], _share(trainable_state(build_model(configs[name])), shared))
    return paths


def _share(
    state: Mapping[str, Tensor], shared: dict[tuple[str, torch.Size], Tensor]
) -> dict[str, Tensor]:
    """Return a state with the shared tensors; add those of its tensors that are not yet shared."""
    return {key: shared.setdefault((key, tensor.shape), tensor) for key, tensor in state.items()}
