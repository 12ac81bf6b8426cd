"""Training checkpoints: everything a run needs to go on as if it had never stopped.

Files are `checkpoints/step_00005000.pt`, written whole or not at all, read without executing them.
"""

import logging
import random
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.files import write_torch

logger = logging.getLogger(__name__)

FILE = re.compile(r"step_(\d{8,})\.pt")


@dataclass
class TrainingCheckpoint:
    """The state between two steps.

    step: steps done. images: drawn so far by all processes, i.e. the place in the data. seed: of
    weights, data and points. weights: the trained parts. optimizer, scaler: their state dicts, the
    second empty without fp16. average: the weights' moving average, empty without one.
    random_states: one per process. best: {"score", "step", "metric"} of the best evaluation so far,
    or empty.
    """

    step: int
    images: int
    seed: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Tensor]
    random_states: list[dict[str, Any]]
    best: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run, the last `keep` of them and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = max(keep, 1)

    def save(self, checkpoint: TrainingCheckpoint) -> Path:
        """Write a checkpoint; older ones go afterwards, so that a full disk costs none."""
        path = self.folder / f"step_{checkpoint.step:08d}.pt"
        write_torch(path, by_name(checkpoint))
        self._prune(checkpoint.best.get("step"))
        return path

    def newest(self) -> tuple[TrainingCheckpoint, Path] | None:
        """The last checkpoint that can be read; damaged ones are named in a warning."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_checkpoint(path), path
            except UserError as error:
                logger.warning("%s; falling back to the checkpoint before", error)
        if paths:
            raise UserError(
                f"{self.folder}: none of the {len(paths)} checkpoints can be read; "
                "delete the folder and train without --resume"
            )
        return None

    def newest_path(self) -> Path | None:
        return max(self.paths(), default=None)

    def paths(self) -> list[Path]:
        """Whole files by ascending step; temporary ones of a killed run begin with a dot."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if FILE.fullmatch(path.name)]
        return sorted(found, key=step_of)

    def _prune(self, best_step: int | None) -> None:
        for path in self.paths()[: -self.keep]:
            if step_of(path) != best_step:
                path.unlink()
        for path in self.folder.glob(".step_*.pt"):  # left by a run that was killed while writing
            path.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    match = FILE.fullmatch(path.name)
    assert match is not None, "a path of `CheckpointFolder.paths`"
    return int(match[1])


def by_name(checkpoint: TrainingCheckpoint) -> dict[str, Any]:
    """The fields by name; `dataclasses.asdict` would copy every tensor."""
    return {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}


def load_checkpoint(path: Path) -> TrainingCheckpoint:
    """Read a checkpoint on the CPU; a damaged or foreign file is a `UserError` that names it."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself reads past a flipped bit
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path}: damaged (entry {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise UserError(f"checkpoint {path}: damaged ({error})") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"checkpoint {path}: cannot be read ({first_line})") from None
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # raised for what weights_only refuses
            raise
        raise UserError(f"checkpoint {path}: damaged, or holds more than tensors") from None
    wanted = {field.name for field in fields(TrainingCheckpoint)}
    if not isinstance(content, dict) or set(content) != wanted:
        raise UserError(f"checkpoint {path}: not one of this program's training checkpoints")
    return TrainingCheckpoint(**content)


def random_state() -> dict[str, Any]:
    """The states of all generators of this process, in a form that JSON carries too."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in cuda],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Set the generators as the process of this rank left them; more ranks than then keep
    theirs."""
    if rank >= len(states):
        return
    state = states[rank]
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(
            [torch.tensor(row, dtype=torch.uint8) for row in state["cuda"]]
        )
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
