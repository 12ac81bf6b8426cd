"""The weights that runs begin with: parts that two arms share are the same tensors in both."""

from collections.abc import Mapping
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import trainable_state, write_state


def write_beginnings(configs: Mapping[str, CfgNode], folder: Path) -> dict[str, Path]:
    """Write the first weights of every arm; returns the file of each.

    configs: of the arms, by name, each with its SEED. A trained tensor of an arm is that of the
    first arm which has one of the same name and shape, and random where there is none. Files that
    are there stay as they are.
    """
    paths = {name: folder / f"{name}_seed_{cfg.SEED}.safetensors" for name, cfg in configs.items()}
    if all(path.is_file() for path in paths.values()):
        return paths
    shared: dict[str, Tensor] = {}
    for name, cfg in configs.items():
        state = trainable_state(build_model(cfg))
        for key, tensor in state.items():
            first = shared.setdefault(key, tensor)
            if first.shape == tensor.shape:
                state[key] = first
        write_state(paths[name], state)
    return paths
