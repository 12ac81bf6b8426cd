"""The training loop of the small encoders: made-up data without end, resumable to the bit."""

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from frozenseg.engine.weights import write_state
from frozenseg.errors import UserError
from frozenseg.files import atomic_path

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.safetensors", "metrics.jsonl", "weights.safetensors"
CLIP_NORM = 1.0
Batch = list[Tensor]


@dataclass(frozen=True)
class Settings:
    """What decides the result. steps: of the whole run; batch: images a step; warmup: steps in
    which the learning rate rises; it falls to 0 as a cosine afterwards; precision: of the forward
    pass, "float32" or "bfloat16" (mixed)."""

    steps: int
    batch: int
    seed: int
    learning_rate: float
    weight_decay: float
    warmup: int
    precision: str = "float32"

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
    """Train to the end; returns the last evaluation. Writes weights, checkpoint and metrics."""
    task.model.to(run.device).train()
    optimizer = torch.optim.AdamW(
        _groups(task.model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98)
    )
    done = _restore(task.model, optimizer, settings, run) if resume else _begin(run)
    scores: dict[str, float] = {}
    started = time.perf_counter()
    with tqdm(total=settings.steps, initial=done, unit="step") as bar:
        for step, batch in enumerate(_batches(task, settings, run, start=done), done + 1):
            losses = _step(task, optimizer, settings, run.device, batch, step)
            bar.update()
            if step % run.log_period == 0 or step in (1, settings.steps):
                numbers = {name: round(value.item(), 5) for name, value in losses.items()}
                speed = (time.perf_counter() - started) / (step - done)
                _log(run, {"step": step, **numbers, "seconds_per_step": round(speed, 4)})
                bar.set_postfix(numbers)
            if step % run.save_period == 0 or step == settings.steps:
                scores = _evaluate(task)
                _log(run, {"step": step, **scores})
                _save(task.model, optimizer, settings, run, step)
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
    mixed = settings.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        losses = task.losses([part.to(device, non_blocking=True) for part in batch], generator)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(task.model.parameters(), CLIP_NORM)
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
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in wanted if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
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
    return iter(loader)


def _quiet_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's affair
    cv2.setNumThreads(1)


@torch.no_grad()
def _evaluate(task: Task) -> dict[str, float]:
    task.model.eval()
    scores = {name: round(value, 2) for name, value in task.evaluate().items()}
    task.model.train()
    return scores


def _begin(run: Run) -> int:
    if (run.folder / CHECKPOINT).exists():
        raise UserError(f"{run.folder}: holds a run; go on with --resume, or give another --output")
    (run.folder / METRICS).unlink(missing_ok=True)
    return 0


def _save(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, run: Run, step: int
) -> None:
    """Safetensors: weights as `model.NAME`, the optimiser's as `optimizer.PLACE.NAME`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for place, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in entries.items()}
    about = {"settings": json.dumps(asdict(settings)), "step": str(step)}
    with atomic_path(run.folder / CHECKPOINT) as temporary:
        save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata=about)


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, run: Run
) -> int:
    """Go on after the last checkpoint; returns the steps it has done."""
    path = run.folder / CHECKPOINT
    if not path.is_file():
        raise UserError(f"{path}: no such file; leave out --resume to begin a run")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); remove the folder and begin anew") from None
    if json.loads(about.get("settings", "{}")) != asdict(settings):
        raise UserError(
            f"{path}: is of a run with {about.get('settings')}, asked for "
            f"{json.dumps(asdict(settings))}; resume with the same, or give another --output"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, entry = name.split(".")
            state.setdefault(int(place), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    weights = {name: t for name, t in tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): t for name, t in weights.items()})
    _trim_metrics(run.folder / METRICS, step := int(about["step"]))
    return step


def _trim_metrics(path: Path, step: int) -> None:
    """Drop what a killed run wrote after its checkpoint: it will be written again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _log(run: Run, row: dict[str, float]) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
