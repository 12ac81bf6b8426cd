"""Training checkpoints: everything a run needs to resume as if it had never stopped.

The files are called `checkpoints/step_00005000.pt`. They are written atomically and read without
executing code.
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
    """The folder with the checkpoints of one run: the last `keep` ones, and the best one."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = max(keep, 1)
        self._unproven: TrainingCheckpoint | None = None
        self._damaged: set[Path] = set()

    def save(self, checkpoint: TrainingCheckpoint) -> Path:
        """Write a checkpoint; older ones stay until `prove` is called.

        Raises `UserError` if the checkpoint holds numbers that are not finite.
        """
        path = self.folder / f"step_{checkpoint.step:08d}.pt"
        try:
            check_numbers(checkpoint)
        except UserError as error:
            raise UserError(f"{path}: not written; {error}") from None
        write_torch(path, by_name(checkpoint))
        self._unproven = checkpoint
        self._damaged.discard(path)
        return path

    def prove(self) -> None:
        """Delete the checkpoints that the last one replaces, after a step from it has succeeded."""
        if self._unproven is None:
            return
        kept = {self._unproven.best.get("step"), *map(step_of, self.readable()[-self.keep :])}
        for path in self.paths():
            # A damaged file of a later step stays, because a failing disk may yet read it.
            if step_of(path) < self._unproven.step and step_of(path) not in kept:
                path.unlink()
        self._unproven = None

    def newest(self) -> tuple[TrainingCheckpoint, Path] | None:
        """Return the newest readable checkpoint and its path; None if the folder has none.

        A warning names newer ones that are damaged. Raises `UserError` if all are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_checkpoint(path), path
            except UserError as error:
                self._damaged.add(path)
                logger.warning("%s; falling back to the previous checkpoint", error)
        if paths:
            raise UserError(
                f"{self.folder}: none of the {len(paths)} checkpoints can be read; "
                "delete the folder and train without --resume"
            )
        return None

    def readable(self) -> list[Path]:
        """Return `paths` without the files that `newest` has found damaged."""
        return [path for path in self.paths() if path not in self._damaged]

    def paths(self) -> list[Path]:
        """Return the files by ascending step, without the temporary files of a killed run, whose
        names begin with a dot."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if FILE.fullmatch(path.name)]
        return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint file."""
    match = FILE.fullmatch(path.name)
    assert match is not None, "a path of `CheckpointFolder.paths`"
    return int(match[1])


def load_checkpoint(path: Path) -> TrainingCheckpoint:
    """Read a checkpoint onto the CPU.

    Raises `UserError` that names the file if it is damaged, of another program, inconsistent, or
    holds numbers that are not finite.
    """
    content = read_torch(path, "checkpoint")
    try:
        return checked(content)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
