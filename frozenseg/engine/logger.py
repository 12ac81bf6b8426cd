"""What a run says of itself: a console line, metrics.jsonl, TensorBoard, W&B."""

import json
import logging
import resource
import secrets
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frozenseg.errors import UserError
from frozenseg.files import atomic_path

logger = logging.getLogger(__name__)

METRICS_FILE, WANDB_FILE = "metrics.jsonl", "wandb_id"


class TrainingLog:
    """The log of one process; only that of the first writes anything.

    metrics.jsonl has a line every `period` steps, with the losses of that step (not a mean: a
    resumed run writes the same), and a line for each evaluation.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        batch_size: int,
        period: int,
        start_step: int = 0,
        active: bool = True,
        tensorboard: bool = False,
        wandb_project: str = "",
    ) -> None:
        self.path = folder / METRICS_FILE
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.period = max(period, 1)
        self.active = active
        self._since, self._last_step = time.perf_counter(), start_step
        self._step_end, self._data_seconds = time.perf_counter(), 0.0
        self._board = _tensorboard(folder, start_step) if active and tensorboard else None
        with_wandb = active and bool(wandb_project)
        self._wandb = _wandb(folder, wandb_project, resumed=start_step > 0) if with_wandb else None
        if active:
            trim_metrics(self.path, start_step, total_steps)

    def data_ready(self) -> None:
        """The batch of the next step is there: the time until now was spent waiting for it."""
        self._data_seconds += time.perf_counter() - self._step_end

    def step(self, step: int, losses: dict[str, float], more: dict[str, float]) -> None:
        """A step is done. more: learning rate and the like."""
        now = time.perf_counter()
        self._step_end = now
        if not self.active or (step % self.period and step != self.total_steps):
            return
        steps = max(step - self._last_step, 1)
        seconds = (now - self._since) / steps
        speed = {
            "images_per_second": self.batch_size / max(seconds, 1e-9),
            "data_seconds": self._data_seconds / steps,
            "memory_mib": memory_mib(),
        }
        left = timedelta(seconds=round(seconds * (self.total_steps - step)))
        parts = " ".join(
            f"{name.removeprefix('loss_')} {losses[name]:.3f}" for name in _main(losses)
        )
        logger.info(
            f"step {step}/{self.total_steps}  loss {losses['total_loss']:.3f} ({parts})  "
            f"lr {more['lr']:.2e}  {speed['images_per_second']:.2f} images/s  "
            f"data {speed['data_seconds']:.3f} s  memory {speed['memory_mib']:.0f} MiB  left {left}"
        )
        self._write({"step": step, **losses, **more, **speed})
        self._send(step, {**losses, **more, **speed})
        self._since, self._last_step, self._data_seconds = time.perf_counter(), step, 0.0

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Scores by data set and metric. The time they took does not count as training."""
        if self.active:
            self._write({"step": step, "evaluation": results})
            flat = {
                f"{name}/{metric}": v for name, row in results.items() for metric, v in row.items()
            }
            self._send(step, flat)
        self._since = self._step_end = time.perf_counter()
        self._last_step, self._data_seconds = step, 0.0

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """(H, W, 3) uint8."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _send(self, step: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that a killed run left unfinished is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: passing over a line that is not whole", path)
    return rows


def trim_metrics(path: Path, step: int, total_steps: int) -> None:
    """Drop what a run resumed after `step` writes again: later rows, and the last evaluation."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    kept = [
        row
        for row in read_metrics(path)
        if row["step"] <= step and not ("evaluation" in row and row["step"] == total_steps)
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def memory_mib() -> float:
    """Most memory held so far: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _main(losses: dict[str, float]) -> list[str]:
    """The losses of the last output, which stand for all."""
    return [name for name in losses if name.startswith("loss_") and name.count("_") == 1]


def _tensorboard(folder: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise UserError(
            "LOG.TENSORBOARD needs it: pip install tensorboard, or set it to False"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)


def _wandb(folder: Path, project: str, *, resumed: bool) -> Any:
    """A W&B run whose id lies beside the metrics, so that a resumed training goes on in it."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError(f"LOG.WANDB {project}: pip install wandb, or leave it empty") from None
    path = folder / WANDB_FILE
    known = path.read_text(encoding="utf-8").strip() if resumed and path.is_file() else ""
    run_id = known or secrets.token_hex(8)
    wandb.init(project=project, dir=str(folder), id=run_id, resume="allow")
    with atomic_path(path) as temporary:
        temporary.write_text(run_id + "\n", encoding="utf-8")
    return wandb
