"""Choose the weights of a configuration: those that were trained with it, if they are beside it.

A run writes the configuration it was started with, including MODEL.WEIGHTS, and its trained weights
into one folder. Weights beside a configuration therefore take precedence over its MODEL.WEIGHTS,
wherever the folder has been moved to.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.checkpoints.published_files import PUBLISHED, AbsentWeights
from frozenseg.config import load_config, option_pairs
from frozenseg.errors import UserError
from frozenseg.files import user_path
from frozenseg.recipes import CONFIG_FILES, find_config, packaged_config, published_models

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "model_final.safetensors", "model_final.pth")

Options = Sequence[str] | Mapping[str, Any]


def model_config(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    options: Options = (),
    device: str | None = None,
) -> CfgNode:
    """Load the configuration of a model, with MODEL.WEIGHTS set to the weights to load.

    model: the name of a model or recipe that ships with the package, a YAML file, or a folder with
    configuration and weights; a folder without weights is an error.
    weights: the checkpoint to load. Without it, MODEL.WEIGHTS of the options is used, else the file
    of `WEIGHT_FILES` that lies beside a file of `CONFIG_FILES`, else MODEL.WEIGHTS of the YAML
    file.
    device: replaces MODEL.DEVICE.

    Raises `AbsentWeights` if `model` is a published model whose weights are not on this machine,
    and neither `weights` nor the options name others.
    """
    if weights is not None and not os.fspath(weights):
        raise UserError("weights: the name is empty; give a checkpoint, or leave weights out")
    path = _config_file(model)
    cfg = load_config(path, options, freeze=False)
    if weights is None and not _chosen(options):
        weights = _published_weights(str(model))
    if weights is not None:
        cfg.MODEL.WEIGHTS = str(weights) if "://" in str(weights) else str(user_path(weights))
    elif not _chosen(options) and path.name in CONFIG_FILES:
        trained = weights_in(path.parent)
        if trained is not None:
            cfg.MODEL.WEIGHTS = str(trained)
        elif user_path(model).is_dir():
            raise _no_weights(path.parent)
    if device is not None:
        cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg


def evaluation_weights(weights: str, *, config: str | None, options: Options, output: str) -> str:
    """Choose the weights that an evaluation loads, by the same rules as `model_config`.

    weights: MODEL.WEIGHTS.
    config: the YAML file, which may lie in a run's folder, or that folder.
    output: OUTPUT_DIR. Its weights are chosen if its run began from `weights`, so that an
    evaluation with the arguments of a training scores the trained model.
    """
    if _chosen(options):
        return weights
    path = None if config is None else user_path(config)
    if path is not None and path.is_dir():
        path = find_config(path)
    if path is not None and path.name in CONFIG_FILES:
        beside = weights_in(path.parent)
        if beside is not None:
            return str(beside)
    folder = Path(output)
    trained = weights_in(folder)
    if trained is None:
        return weights or str((config and _published_weights(config)) or "")
    if not weights or _began_from(folder) == weights:
        return str(trained)
    logger.warning("%s belongs to another run; the evaluated weights are %s", trained, weights)
    return weights


def weights_in(folder: Path) -> Path | None:
    """Return the weights file in a folder; None if there is none."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def _config_file(model: str | Path) -> Path:
    path = packaged_config(str(model)) or user_path(model)
    if path.is_file() and path.suffix in {Path(name).suffix for name in WEIGHT_FILES}:
        raise UserError(
            f"model {model}: a file of weights; give its folder or YAML file as the model, and the "
            "file as weights"
        )
    return path if path.is_file() else find_config(model)


def _published_weights(model: str) -> Path | None:
    """Return the weights of a published model; None if `model` does not name one."""
    if model not in published_models() or user_path(model).exists():
        return None
    row = PUBLISHED[model]
    if not row.path.is_file():
        raise AbsentWeights(model, f"the weights of {row.holds} are not here")
    return row.path


def _chosen(options: Options) -> bool:
    """Tell whether the options name the weights."""
    return any(key == "MODEL.WEIGHTS" for key, _ in option_pairs(options))


def _began_from(folder: Path) -> str | None:
    """Return MODEL.WEIGHTS of the run in a folder; None if there is no readable configuration."""
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            try:
                return load_config(folder / name).MODEL.WEIGHTS
            except UserError:  # the file is damaged, or another program has written it
                return None
    return None


def _no_weights(folder: Path) -> UserError:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    checkpoints = sorted((folder / "checkpoints").glob("step_*.pt"))
    others += [f"checkpoints/{path.name}" for path in checkpoints[-1:]]
    remedy = f"it has {', '.join(others)}: give it as weights" if others else "give weights"
    return UserError(
        f"model {folder}: no weights in the folder, looked for {', '.join(WEIGHT_FILES)}; the "
        f"training may not have ended; {remedy}, or continue the training with --resume"
    )
