"""What a training step changes, and how it comes into and out of a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

import torch

from frozenseg.engine.checkpoint import TrainingCheckpoint, random_state, restore_random_state
from frozenseg.engine.distributed import all_gather_json, rank
from frozenseg.engine.optim import MovingAverage
from frozenseg.engine.weights import load_state, trained_state
from frozenseg.errors import UserError
from frozenseg.models.base import Segmenter
from frozenseg.precision import Precision


@dataclass
class TrainingState:
    """All that a step changes. step: steps done; images: drawn by all processes together.

    scaler: of the loss, so that gradients do not vanish in float16; does nothing otherwise.
    """

    model: Segmenter
    optimizer: torch.optim.Optimizer
    precision: Precision
    seed: int
    average: MovingAverage | None = None
    step: int = 0
    images: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        scaled = self.precision.dtype == torch.float16
        self.scaler = torch.amp.GradScaler("cuda", enabled=scaled)

    def checkpoint(self) -> TrainingCheckpoint:
        """To be called by all processes: each has random states of its own."""
        return TrainingCheckpoint(
            step=self.step,
            images=self.images,
            seed=self.seed,
            weights=trained_state(self.model),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            average=self.average.average if self.average is not None else {},
            random_states=all_gather_json(random_state()),
            best=self.best,
        )

    def restore(self, checkpoint: TrainingCheckpoint, origin: str) -> None:
        """Go on where the checkpoint was taken."""
        load_state(self.model, checkpoint.weights, origin)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except ValueError as error:
            raise UserError(
                f"{origin}: its optimiser is not that of this model ({error})"
            ) from None
        if checkpoint.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            # Switched on for the rest of a run, the average starts from the weights of now.
            self.average.load(checkpoint.average or dict(self.model.trained_parameters()))
        restore_random_state(checkpoint.random_states, rank())
        self.step, self.images = checkpoint.step, checkpoint.images
        self.best = dict(checkpoint.best)
