"""The state of a training between two steps, to and from a checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from frozenseg.checkpoints.random_states import random_state, restore_random_state
from frozenseg.checkpoints.schema import (
    MOMENTS,
    TrainingCheckpoint,
    check_moments,
    named_moments,
)
from frozenseg.checkpoints.state_dict import load_state, trainable_state
from frozenseg.engine.distributed import all_gather_json, rank
from frozenseg.engine.optim import MovingAverage
from frozenseg.errors import UserError
from frozenseg.runtime.precision import Precision


@dataclass
class TrainingState:
    """All that a step changes.

    model: with its frozen parts; the trained ones are in the optimiser.
    optimizer: AdamW, its groups with the names of their parameters.
    precision: of the forward pass.
    seed: of the run.
    average: the moving average of the trained weights, or None.
    decay: the weight decay of each step where it changes, a function of the step alone.
    step: how many steps are done.
    images: how many images all processes together have drawn.
    best: the best evaluation so far, as in `TrainingCheckpoint`.
    scaler: scales the loss so that gradients do not vanish in float16; does nothing otherwise.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    seed: int
    average: MovingAverage | None = None
    decay: Callable[[int], float] | None = None
    step: int = 0
    images: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        scaled = self.precision.dtype == torch.float16
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def checkpoint(self) -> TrainingCheckpoint:
        """Return the state as a checkpoint. All processes must call it: each adds its random
        states."""
        return TrainingCheckpoint(
            step=self.step,
            images=self.images,
            seed=self.seed,
            weights=trainable_state(self.model),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            average=self.average.average if self.average is not None else {},
            random_states=all_gather_json(random_state()),
            best=self.best,
        )

    def restore(self, checkpoint: TrainingCheckpoint, origin: str) -> None:
        """Take over the state of a checkpoint. origin: its name in messages."""
        load_state(self.model, checkpoint.weights, origin)
        load_moments(self.optimizer, checkpoint, origin)
        if checkpoint.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            # Switched on for the rest of a run, the average starts from the weights of now.
            average = checkpoint.average or self.average.parameters
            if average.keys() != self.average.average.keys():
                raise UserError(f"{origin}: its average is of other parameters than the model's")
            self.average.load(average)
        restore_random_state(checkpoint.random_states, rank())
        self.step, self.images = checkpoint.step, checkpoint.images
        self.best = dict(checkpoint.best)


def load_moments(
    optimizer: torch.optim.Optimizer, checkpoint: TrainingCheckpoint, origin: str
) -> None:
    """Give AdamW the moments of a checkpoint, found by the names of their parameters, checked, and
    laid out in memory as its kernels expect it. Its groups stay as they are."""
    saved = named_moments(checkpoint.optimizer)
    has_names = any("param_names" in group for group in checkpoint.optimizer["param_groups"])
    own = {
        name if has_names else str(index): (index, parameter)
        for index, (name, parameter) in enumerate(_parameters(optimizer))
    }
    if saved and saved.keys() != own.keys():
        raise UserError(f"{origin}: its optimiser has other parameters than that of this model")
    state = {}
    for name, entries in saved.items():
        index, parameter = own[name]
        try:
            check_moments(name, entries, parameter)
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
        laid_out = {key: torch.empty_like(parameter).copy_(entries[key]) for key in MOMENTS}
        state[index] = {"step": entries["step"], **laid_out}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters in the order in which a state dict of the optimiser counts them."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
