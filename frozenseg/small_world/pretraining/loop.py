"""The training loop of the small encoders: made-up data without end, resumable to the bit."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from frozenseg.checkpoints.schema import TrainingCheckpoint
from frozenseg.checkpoints.state_dict import write_state
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.data.loader import start_workers
from frozenseg.engine.lock import only_writer
from frozenseg.engine.logger import append_metrics, trim_metrics
from frozenseg.engine.state import load_moments
from frozenseg.errors import UserError
from frozenseg.files import check_writable, read_json, write_json
from frozenseg.models.base import evaluation_mode

METRICS, SETTINGS, WEIGHTS = "metrics.jsonl", "settings.json", "weights.safetensors"
CLIP_NORM = 1.0
Batch = list[Tensor]


@dataclass(frozen=True)
class Settings:
    """What decides the result. steps: of the whole run; batch: images a step; warmup: steps in
    which the learning rate rises; it falls to 0 as a cosine afterwards; precision: of the forward
    pass, "fp32" or "bf16" (mixed)."""

    steps: int
    batch: int
    seed: int
    learning_rate: float
    weight_decay: float
    warmup: int
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise UserError(f"--steps {self.steps} --batch {self.batch}: must be at least 1")
        if self.learning_rate <= 0:
            raise UserError(f"--learning-rate {self.learning_rate}: must be above 0")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must not be negative")


class Task(Protocol):
    """A model with its data, its losses and its test."""

    model: nn.Module

    def samples(self) -> Dataset[tuple[Tensor, ...]]:
        """Sample i is always the same; worker processes make them."""

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars to log; the entry "loss" is minimised. generator: all chance of the step."""

    def evaluate(self) -> dict[str, float]:
        """Scores in per cent, on images that no sample shows."""


@dataclass(frozen=True)
class Run:
    """Where and how a training runs; nothing here changes the result.

    log_period, save_period: steps between lines of the metrics, and between checkpoints (with an
    evaluation).
    """

    folder: Path
    device: torch.device
    workers: int
    log_period: int = 20
    save_period: int = 1000


def train(task: Task, settings: Settings, run: Run, *, resume: bool) -> dict[str, float]:
    """Train to the end; returns the last evaluation. Writes weights, checkpoints and metrics."""
    if not resume:
        check_writable(run.folder / WEIGHTS)
    elif not has_checkpoint(run.folder):
        raise UserError(f"{run.folder}: no checkpoint there; leave out --resume to begin a run")
    with only_writer(run.folder):
        return _train(task, settings, run, resume=resume)


def has_checkpoint(folder: Path) -> bool:
    return bool(_checkpoints(folder).paths())


def _train(task: Task, settings: Settings, run: Run, *, resume: bool) -> dict[str, float]:
    task.model.to(run.device).train()
    optimizer = torch.optim.AdamW(
        _groups(task.model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98)
    )
    checkpoints = _checkpoints(run.folder)
    if resume:
        done = _restore(task.model, optimizer, settings, run, checkpoints)
    else:
        done = _begin(settings, run)
    scores: dict[str, float] = {}
    started = time.perf_counter()
    with tqdm(total=settings.steps, initial=done, unit="step") as bar:
        for step, batch in enumerate(_batches(task, settings, run, start=done), done + 1):
            losses = _step(task, optimizer, settings, run.device, batch, step)
            checkpoints.prove()
            bar.update()
            if step % run.log_period == 0 or step in (1, settings.steps):
                numbers = {name: round(value.item(), 5) for name, value in losses.items()}
                speed = (time.perf_counter() - started) / (step - done)
                row = {"step": step, **numbers, "seconds_per_step": round(speed, 4)}
                append_metrics(run.folder / METRICS, row)
                bar.set_postfix(numbers)
            if step % run.save_period == 0 or step == settings.steps:
                scores = _evaluate(task)
                append_metrics(run.folder / METRICS, {"step": step, **scores})
                checkpoints.save(_checkpoint(task.model, optimizer, settings, step))
    write_state(run.folder / WEIGHTS, task.model.state_dict())
    return scores


def _step(
    task: Task,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    device: torch.device,
    batch: Batch,
    step: int,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, step)
    generator = torch.Generator(device).manual_seed(settings.seed * 1_000_003 + step)
    mixed = settings.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        losses = task.losses([part.to(device, non_blocking=True) for part in batch], generator)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(task.model.parameters(), CLIP_NORM)
    if not math.isfinite(losses["loss"].item() + norm.item()):
        raise UserError(
            f"step {step}: loss or gradient not finite, the step is not taken; try a lower "
            "--learning-rate"
        )
    optimizer.step()
    return losses


def learning_rate(settings: Settings, step: int) -> float:
    """Of a step, counted from 1."""
    if step <= settings.warmup:
        return settings.learning_rate * step / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices are decayed; gains, biases and the logit scale are not."""
    wanted = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [row for row in wanted if row[1].ndim > 1], "weight_decay": weight_decay},
        {"params": [row for row in wanted if row[1].ndim <= 1], "weight_decay": 0.0},
    ]


def _batches(task: Task, settings: Settings, run: Run, *, start: int) -> Iterator[Batch]:
    """The batches of the steps after `start`: sample i belongs to step i // batch + 1."""
    loader = DataLoader(
        task.samples(),
        batch_size=settings.batch,
        sampler=range(start * settings.batch, settings.steps * settings.batch),
        num_workers=run.workers,
        worker_init_fn=_quiet_worker,
        pin_memory=run.device.type == "cuda",
    )
    return start_workers(loader)


def _quiet_worker(number: int) -> None:
    cv2.setNumThreads(1)


@torch.no_grad()
def _evaluate(task: Task) -> dict[str, float]:
    with evaluation_mode(task.model):
        return {name: round(value, 2) for name, value in task.evaluate().items()}


def _checkpoints(folder: Path) -> CheckpointFolder:
    return CheckpointFolder(folder / "checkpoints", keep=1)


def _begin(settings: Settings, run: Run) -> int:
    if has_checkpoint(run.folder) or (run.folder / WEIGHTS).exists():
        raise UserError(f"{run.folder}: holds a run; go on with --resume, or give another --output")
    (run.folder / METRICS).unlink(missing_ok=True)
    write_json(run.folder / SETTINGS, asdict(settings))
    return 0


def _checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, step: int
) -> TrainingCheckpoint:
    """No random states: all chance of a step is made from the seed and its number."""
    return TrainingCheckpoint(
        step=step,
        images=step * settings.batch,
        seed=settings.seed,
        weights=model.state_dict(),
        optimizer=optimizer.state_dict(),
        scaler={},
        average={},
        random_states=[],
        best={},
    )


def _restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    run: Run,
    checkpoints: CheckpointFolder,
) -> int:
    """Go on after the last checkpoint; returns the steps it has done."""
    found = checkpoints.newest()
    if found is None:
        raise UserError(
            f"{checkpoints.folder}: no checkpoint can be read there; begin a run in another folder"
        )
    checkpoint, path = found
    begun_with = read_json(run.folder / SETTINGS)
    if begun_with != asdict(settings):
        raise UserError(
            f"{run.folder}: is of a run with {json.dumps(begun_with)}, asked for "
            f"{json.dumps(asdict(settings))}; resume with the same, or give another --output"
        )
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{path}: not of this model ({first_line})") from None
    load_moments(optimizer, checkpoint, str(path))
    trim_metrics(run.folder / METRICS, checkpoint.step, total_steps=settings.steps)
    return checkpoint.step
