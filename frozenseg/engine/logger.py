"""Log the metrics of a training run: on the console, in metrics.jsonl, TensorBoard and W&B."""

import json
import logging
import resource
import secrets
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frozenseg.errors import UserError, import_extra
from frozenseg.files import atomic_path, json_text, writing

logger = logging.getLogger(__name__)

METRICS_FILE, WANDB_FILE = "metrics.jsonl", "wandb_id"
WINDOW = 20  # the console shows medians of the losses over this many steps, as detectron2 does


class TrainingLog:
    """Writes the metrics of a training run; only its first process writes.

    Every `period` steps, the console gets a line whose losses are medians over the last `WINDOW`
    steps of this process. At the same time, metrics.jsonl gets a line with the losses of that step
    only, so that a resumed run writes the same numbers. It also gets a line for each evaluation.
    Each line has the time in UTC. A value that is not finite, such as the score of a class that
    occurs in no image, is null there.

    total_steps: the number of steps of the entire run.
    batch_size: the number of images of a step, over all processes.
    period: in steps.
    start_step: the number of steps that are already done.
    active: whether this is the first process.
    wandb_project: the name of the W&B project; "": W&B is not used.
    settings: the configuration of the run, nested by its sections, for TensorBoard and W&B.
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
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / METRICS_FILE
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.period = max(period, 1)
        self.active = active
        self._since, self._last_step = time.perf_counter(), start_step
        self._step_end, self._data_seconds = time.perf_counter(), 0.0
        self._window: deque[dict[str, float]] = deque(maxlen=WINDOW)
        settings, self._board, self._wandb = settings or {}, None, None
        if active and tensorboard:
            self._board = _tensorboard(folder, start_step)
            with self._board_may_fail():
                self._board.add_text("configuration", _as_code(settings), start_step)
        if active and wandb_project:
            self._wandb = _wandb(folder, wandb_project, settings, resumed=start_step > 0)
        if active:
            trim_metrics(self.path, start_step, total_steps)

    def data_ready(self) -> None:
        """Record that the next batch has arrived: the time since the last step counts as waiting
        for data."""
        self._data_seconds += time.perf_counter() - self._step_end

    def step(self, step: int, losses: dict[str, float], more: dict[str, float]) -> None:
        """Log a finished step. more: further numbers, with "lr", which the console shows."""
        now = time.perf_counter()
        self._step_end = now
        self._window.append(losses)
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
        medians = {
            name: statistics.median(row[name] for row in self._window)
            for name in ("total_loss", *_main(losses))
        }
        parts = " ".join(
            f"{name.removeprefix('loss_')} {medians[name]:.3f}" for name in _main(losses)
        )
        logger.info(
            f"step {step}/{self.total_steps}  loss {medians['total_loss']:.3f} ({parts})  "
            f"lr {more['lr']:.2e}  {speed['images_per_second']:.2f} images/s  "
            f"data {speed['data_seconds']:.3f} s  memory {speed['memory_mib']:.0f} MiB  left {left}"
        )
        self._write({"step": step, **losses, **more, **speed})
        self._send(step, {**losses, **more, **speed})
        self._since, self._last_step, self._data_seconds = time.perf_counter(), step, 0.0

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Log scores by data set and metric.

        The time of the evaluation does not count in the speed of the training.
        """
        if self.active:
            self._write({"step": step, "evaluation": results})
            flat = {
                f"{name}/{metric}": v for name, row in results.items() for metric, v in row.items()
            }
            self._send(step, flat)
        self._since = self._step_end = time.perf_counter()
        self._last_step, self._data_seconds = step, 0.0

    def lacks_evaluation(self, step: int) -> bool:
        """Tell whether metrics.jsonl lacks the evaluation after `step` steps, which means that the
        run was killed before or during that evaluation if one was due."""
        rows = read_metrics(self.path)
        return not any("evaluation" in row and row["step"] == step for row in rows)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Show an image (H, W, 3) uint8 in TensorBoard and W&B."""
        with self._board_may_fail():
            if self._board is not None:
                self._board.add_image(name, image, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Close TensorBoard's files and finish the W&B run."""
        with self._board_may_fail():
            if self._board is not None:
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, row: dict[str, Any]) -> None:
        append_metrics(self.path, {**row, "time": utc_time()})

    def _send(self, step: int, values: dict[str, float]) -> None:
        with self._board_may_fail():
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    @contextmanager
    def _board_may_fail(self) -> Iterator[None]:
        """After an error in the `with` block, such as a full disk, stop writing to TensorBoard
        instead of ending the run. Its files hold nothing that metrics.jsonl lacks."""
        try:
            yield
        except OSError as error:
            self._board = None
            logger.warning("TensorBoard's file cannot be written (%s): it ends here", error)


def utc_time() -> str:
    """Return the current time in UTC, in ISO 8601 format with a resolution of one second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a metrics file."""
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(json_text(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file.

    Each row has an integer "step". The rows of evaluations have "evaluation": scores by data set
    and metric. Other lines, such as damaged ones or one that a killed run cut off, are skipped, and
    a warning states their number.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = [row for row in map(_row, lines) if row is not None]
    if len(rows) < len(lines):
        logger.warning(
            "%s: skipping %d of %d lines that are not complete rows of a step",
            path,
            len(lines) - len(rows),
            len(lines),
        )
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or not UTF-8
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    scores = row.get("evaluation", {})
    valid = isinstance(scores, dict) and all(isinstance(entry, dict) for entry in scores.values())
    return row if valid else None


def trim_metrics(path: Path, step: int, total_steps: int) -> None:
    """Remove the rows that a run resumed after `step` writes again, and those of the evaluation
    after `total_steps`."""
    if not path.is_file():
        with writing(path):
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
    """Return the peak memory so far in MiB: that of the GPU if this process has used one, else that
    of the process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _main(losses: dict[str, float]) -> list[str]:
    """Return the names of the losses of the last output; the names of auxiliary ones end in a
    number, as in "loss_mask_0"."""
    return [name for name in losses if name.startswith("loss_") and name.count("_") == 1]


def _tensorboard(folder: Path, start_step: int) -> Any:
    import_extra("tensorboard", "train", "a log for TensorBoard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)


def _as_code(settings: Mapping[str, Any]) -> str:
    """Return the settings as an indented code block, because TensorBoard shows text as Markdown."""
    return "".join(f"    {line}\n" for line in json_text(settings, indent=1).splitlines())


def _wandb(folder: Path, project: str, settings: Mapping[str, Any], *, resumed: bool) -> Any:
    """Start a W&B run, or continue that of a resumed training, whose id is stored in `folder`."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError(
            f"the W&B project {project} needs wandb: pip install wandb, or give no project"
        ) from None
    path = folder / WANDB_FILE
    known = path.read_text(encoding="utf-8").strip() if resumed and path.is_file() else ""
    run_id = known or secrets.token_hex(8)
    wandb.init(
        project=project,
        dir=str(folder),
        id=run_id,
        resume="allow",
        config=dict(settings),
        allow_val_change=True,  # a run may be resumed with other settings
    )
    with atomic_path(path) as temporary:
        temporary.write_text(run_id + "\n", encoding="utf-8")
    return wandb
