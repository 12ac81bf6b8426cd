"""Training checkpoints: everything a run needs to go on as if it had never stopped.

Files are `checkpoints/step_00005000.pt`, written whole or not at all, read without executing them.
"""

import logging
import re
from pathlib import Path

from frozenseg.checkpoints.schema import (
    TrainingCheckpoint,
    by_name,
    check_numbers,
    checked,
)
from frozenseg.checkpoints.tensor_files import read_torch
from frozenseg.errors import UserError
from frozenseg.files import write_torch

logger = logging.getLogger(__name__)

FILE = re.compile(r"step_(\d{8,})\.pt")


class CheckpointFolder:
    """The checkpoints of one run, the last `keep` of them and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = max(keep, 1)
        self._unproven: TrainingCheckpoint | None = None

    def save(self, checkpoint: TrainingCheckpoint) -> Path:
        """Write a checkpoint of finite numbers; older ones stay until `prove` is called."""
        path = self.folder / f"step_{checkpoint.step:08d}.pt"
        try:
            check_numbers(checkpoint)
        except UserError as error:
            raise UserError(f"{path}: not written, {error}") from None
        write_torch(path, by_name(checkpoint))
        self._unproven = checkpoint
        return path

    def prove(self) -> None:
        """Delete the checkpoints that the last one replaces, once a step has been taken from it."""
        if self._unproven is None:
            return
        best_step = self._unproven.best.get("step")
        for path in self.paths()[: -self.keep]:
            if step_of(path) != best_step:
                path.unlink()
        self._unproven = None

    def newest(self) -> tuple[TrainingCheckpoint, Path] | None:
        """Return the newest checkpoint that can be read, and its path; None without one. A warning
        names those that are damaged."""
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

    def paths(self) -> list[Path]:
        """Whole files by ascending step; temporary ones of a killed run begin with a dot."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if FILE.fullmatch(path.name)]
        return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's file."""
    match = FILE.fullmatch(path.name)
    assert match is not None, "a path of `CheckpointFolder.paths`"
    return int(match[1])


def load_checkpoint(path: Path) -> TrainingCheckpoint:
    """Read a checkpoint on the CPU; one that is damaged, foreign, inconsistent or holds a number
    that is not finite is a `UserError` that names it."""
    content = read_torch(path, "checkpoint")
    try:
        return checked(content)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
