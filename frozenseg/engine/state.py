"""What a training step changes, and how it comes into and out of a checkpoint."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from frozenseg.engine.checkpoint import TrainingCheckpoint, random_state, restore_random_state
from frozenseg.engine.distributed import all_gather_json, rank
from frozenseg.engine.optim import MovingAverage
from frozenseg.engine.weights import load_state, trained_state
from frozenseg.errors import UserError
from frozenseg.models.base import Segmenter


@dataclass
class Precision:
    """Mixed precision: bfloat16 where the GPU has it, else float16 with a loss scale; a CPU trains
    in float32."""

    device: torch.device
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler

    @classmethod
    def choose(cls, device: torch.device, *, mixed: bool) -> "Precision":
        dtype = None
        if mixed and device.type == "cuda":
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return cls(device, dtype, torch.amp.GradScaler("cuda", enabled=dtype == torch.float16))

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


@dataclass
class TrainingState:
    """All that a step changes. step: steps done; images: drawn by all processes together."""

    model: Segmenter
    optimizer: torch.optim.Optimizer
    precision: Precision
    seed: int
    average: MovingAverage | None = None
    step: int = 0
    images: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def checkpoint(self) -> TrainingCheckpoint:
        """To be called by all processes: each has random states of its own."""
        return TrainingCheckpoint(
            step=self.step,
            images=self.images,
            seed=self.seed,
            weights=trained_state(self.model),
            optimizer=self.optimizer.state_dict(),
            scaler=self.precision.scaler.state_dict(),
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
        if checkpoint.scaler and self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            # Switched on for the rest of a run, the average starts from the weights of now.
            self.average.load(checkpoint.average or dict(self.model.trained_parameters()))
        restore_random_state(checkpoint.random_states, rank())
        self.step, self.images = checkpoint.step, checkpoint.images
        self.best = dict(checkpoint.best)
