"""The state of a training run between two steps; it is saved to and restored from checkpoints."""

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
    """Everything that a training step changes, with the fixed settings that a step needs.

    model: the model with its frozen parts; only the trained parameters are in the optimiser.
    optimizer: AdamW, whose groups have the names of their parameters.
    precision: the precision of the forward pass.
    seed: the seed of the run.
    average: the moving average of the trained weights, or None.
    decay: returns the weight decay of a step by its index; None: it is constant.
    step: the number of finished steps.
    images: the number of images that all processes together have drawn.
    best: the best evaluation so far, as in `TrainingCheckpoint`.
    scaler: scales the loss in float16, so that small gradients do not vanish; in other precisions
        it does nothing.
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
        """Return the state as a checkpoint.

        All processes must call this, because each contributes the states of its random generators.
        """
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
        """Restore the state of a checkpoint.

        origin: the name of the checkpoint in messages. Raises `UserError` if it does not fit.
        """
        load_state(self.model, checkpoint.weights, origin)
        load_moments(self.optimizer, checkpoint, origin)
        if checkpoint.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            # If averaging is switched on in the middle of a run, it starts at the current weights.
            average = checkpoint.average or self.average.parameters
            if average.keys() != self.average.average.keys():
                raise UserError(f"{origin}: its average has other parameters than this model")
            self.average.load(average)
        restore_random_state(checkpoint.random_states, rank())
        self.step, self.images = checkpoint.step, checkpoint.images
        self.best = dict(checkpoint.best)


def load_moments(
    optimizer: torch.optim.Optimizer, checkpoint: TrainingCheckpoint, origin: str
) -> None:
    """Load the moments of a checkpoint into AdamW; its groups keep their settings.

    The moments are found by the names of their parameters (in older files by their indices),
    checked, and laid out in memory like their parameters, as AdamW's kernels expect. origin: the
    name of the checkpoint in messages. Raises `UserError` for moments that do not fit.
    """
    saved = named_moments(checkpoint.optimizer)
    has_names = any("param_names" in group for group in checkpoint.optimizer["param_groups"])
    own = {
        name if has_names else str(index): (index, parameter)
        for index, (name, parameter) in enumerate(_parameters(optimizer))
    }
    if saved and saved.keys() != own.keys():
        raise UserError(f"{origin}: its optimiser has other parameters than this model's")
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
    """Yield names and parameters in the order of their indices in the optimiser's state dict."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
