"""Train the small encoders on an endless stream of generated samples, with bit-exact resuming.

Checkpoints, the lock of the folder, metrics and the reaction to Ctrl-C are those of
`frozenseg.engine`. Its training loop is not used, because it compares masks with annotated images,
while here each encoder has its own loss and the number of a step decides all its random choices.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from frozenseg.checkpoints.state_dict import write_state
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.data.loader import start_workers
from frozenseg.engine.interrupt import GracefulShutdown
from frozenseg.engine.lock import only_writer
from frozenseg.engine.logger import TrainingLog
from frozenseg.engine.optim import gradient_norm
from frozenseg.engine.state import TrainingState
from frozenseg.engine.trainer import saying_how_to_go_on
from frozenseg.errors import UserError
from frozenseg.files import check_writable, read_json, write_json
from frozenseg.models.base import evaluation_mode
from frozenseg.runtime.precision import Precision

CONFIG, WEIGHTS = "settings.json", "weights.safetensors"
TEST_SET = "small_world"  # the name of the scores among the metrics
CLIP_NORM = 1.0
Batch = list[Tensor]


@dataclass(frozen=True)
class PretrainingConfig:
    """The settings that decide the result of a training.

    steps: of the whole run.
    batch: the number of images, or sentences, in a step.
    seed: of the samples and of all other random choices.
    learning_rate: the highest; it falls to 0 along a cosine.
    weight_decay: of weights with more than one axis.
    warmup: the number of steps in which the learning rate rises.
    precision: of the forward pass, "fp32" or "bf16".
    task: the settings that only one kind of training has and that decide its result, by option.
    """

    steps: int
    batch: int
    seed: int
    learning_rate: float
    weight_decay: float
    warmup: int
    precision: str = "fp32"
    task: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise UserError(f"--steps {self.steps} --batch {self.batch}: must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate {self.learning_rate}: must be above 0, and finite")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be between 0 and {2**32 - 1}")


class Task(Protocol):
    """A model with its data, its losses and its test."""

    @property
    def model(self) -> nn.Module:
        """The entire model, as a checkpoint holds it."""

    def samples(self) -> Dataset[tuple[Tensor, ...]]:
        """Return a dataset whose sample i is always the same; worker processes generate it."""

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars to log, of which "total_loss" is minimised.

        All random choices of the step are drawn from `generator`.
        """

    def evaluate(self) -> dict[str, float]:
        """Return scores in per cent on data that no sample shows."""

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to write at the end of training: those that are used later."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how a training runs; nothing here changes the result.

    folder: of weights, checkpoints and metrics.
    device: of the model.
    workers: processes that generate samples.
    log_period: steps from one line of the log to the next.
    save_period: steps from one checkpoint, with an evaluation, to the next.
    """

    folder: Path
    device: torch.device
    workers: int
    log_period: int = 20
    save_period: int = 1000


def train(
    task: Task, config: PretrainingConfig, run: RunOptions, *, resume: bool
) -> dict[str, float]:
    """Train to the end, write weights, checkpoints and metrics, and return the last evaluation.

    On Ctrl-C or SIGTERM the current step is finished and a checkpoint is written; then
    KeyboardInterrupt is raised.
    """
    if not resume:
        check_writable(run.folder / WEIGHTS)
    elif not has_checkpoint(run.folder):
        raise UserError(f"{run.folder}: has no checkpoint; leave out --resume to begin a run")
    checkpoints = _checkpoints(run.folder)
    with only_writer(run.folder), GracefulShutdown().listening() as stop:
        state = _initial_state(task.model, config, run)
        if resume:
            check_config(run.folder, config)
            _restore(state, checkpoints)
        else:
            check_unused(run.folder)
            write_json(run.folder / CONFIG, asdict(config))
        log = TrainingLog(
            run.folder,
            total_steps=config.steps,
            batch_size=config.batch,
            period=run.log_period,
            start_step=state.step,
        )
        with saying_how_to_go_on(state, checkpoints, to_save_memory="give a smaller --batch"):
            _run_steps(task, config, run, state, checkpoints, log, stop)
            scores = _evaluate(task, state, log)
            write_state(run.folder / WEIGHTS, task.weights())
    return scores


def has_checkpoint(folder: Path) -> bool:
    """Whether a training in this folder can be resumed."""
    return bool(_checkpoints(folder).paths())


def check_unused(folder: Path) -> None:
    """Raise `UserError` if the folder holds a training, which a new one would overwrite."""
    if has_checkpoint(folder) or (folder / WEIGHTS).exists():
        raise UserError(f"{folder}: holds a run; continue with --resume, or give another --output")


def check_config(folder: Path, config: PretrainingConfig) -> None:
    """Raise `UserError` if the training in the folder was begun with another configuration."""
    begun_with, asked = read_json(folder / CONFIG), asdict(config)
    # Files of older versions have no "task".
    older = {name: value for name, value in asked.items() if name != "task"}
    if begun_with not in (asked, older):
        raise UserError(
            f"{folder}: holds a run with {json.dumps(begun_with)}, not with {json.dumps(asked)}; "
            "resume with the same settings, or give another --output"
        )


def _run_steps(
    task: Task,
    config: PretrainingConfig,
    run: RunOptions,
    state: TrainingState,
    checkpoints: CheckpointFolder,
    log: TrainingLog,
    stop: GracefulShutdown,
) -> None:
    """Take all remaining steps."""
    for batch in _batches(task, config, run, start=state.step):
        log.data_ready()
        losses, shown = _step(task, config, state, batch)
        checkpoints.prove()
        log.step(state.step, losses, shown)
        is_last, is_due = state.step == config.steps, state.step % run.save_period == 0
        if is_due and not is_last:
            _evaluate(task, state, log)
        if is_due or is_last or stop.requested:
            checkpoints.save(state.checkpoint())
        if stop.requested:
            raise KeyboardInterrupt


def _step(
    task: Task, config: PretrainingConfig, state: TrainingState, batch: Batch
) -> tuple[dict[str, float], dict[str, float]]:
    """Take a step; return its losses, and its learning rate and gradient norm."""
    step, device = state.step + 1, state.device
    rate = learning_rate(config, step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + step)
    with state.precision.autocast():
        losses = task.losses([part.to(device, non_blocking=True) for part in batch], generator)
    state.optimizer.zero_grad(set_to_none=True)
    losses["total_loss"].backward()
    norm = gradient_norm(task.model.parameters(), CLIP_NORM).item()
    shown = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()  # one copy
    values = dict(zip(losses, shown, strict=True))
    if not math.isfinite(values["total_loss"] + norm):
        raise UserError(
            f"step {step}: the loss or gradient is not finite, so the step is not taken; try a "
            "lower --learning-rate"
        )
    state.optimizer.step()
    state.step, state.images = step, step * config.batch
    return values, {"lr": rate, "grad_norm": norm}


def learning_rate(config: PretrainingConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    if step <= config.warmup:
        return config.learning_rate * step / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def _initial_state(model: nn.Module, config: PretrainingConfig, run: RunOptions) -> TrainingState:
    """Make the state before the first step. Gains, biases and logit scale have no weight decay."""
    parameters = model.to(run.device).train().named_parameters()
    trained = [row for row in parameters if row[1].requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [row for row in trained if row[1].ndim > 1]},
        {"params": [row for row in trained if row[1].ndim <= 1], "weight_decay": 0.0},
    ]
    return TrainingState(
        model=model,
        optimizer=torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        ),
        precision=Precision.choose(run.device, config.precision),
        seed=config.seed,
    )


def _batches(
    task: Task, config: PretrainingConfig, run: RunOptions, *, start: int
) -> Iterator[Batch]:
    """Load the batches of the steps after `start`: sample i belongs to step i // batch + 1."""
    loader = DataLoader(
        task.samples(),
        batch_size=config.batch,
        sampler=range(start * config.batch, config.steps * config.batch),
        num_workers=run.workers,
        worker_init_fn=_one_opencv_thread,
        pin_memory=run.device.type == "cuda",
    )
    return start_workers(loader)


def _one_opencv_thread(worker: int) -> None:
    cv2.setNumThreads(1)


@torch.no_grad()
def _evaluate(task: Task, state: TrainingState, log: TrainingLog) -> dict[str, float]:
    with evaluation_mode(task.model):
        scores = {name: round(value, 2) for name, value in task.evaluate().items()}
    log.evaluation(state.step, {TEST_SET: scores})
    return scores


def _checkpoints(folder: Path) -> CheckpointFolder:
    return CheckpointFolder(folder / "checkpoints", keep=1)


def _restore(state: TrainingState, checkpoints: CheckpointFolder) -> None:
    """Continue from the newest checkpoint."""
    newest = checkpoints.newest()
    assert newest is not None, "`has_checkpoint` was true"
    checkpoint, path = newest
    state.restore(checkpoint, f"checkpoint {path}")
