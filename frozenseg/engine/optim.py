"""AdamW as the recipe has it: what decays, how the learning rate runs, clipping, moving average."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frozenseg.errors import UserError

# Learned tables that are embeddings by meaning, though not `nn.Embedding` by type.
EMBEDDINGS = (
    "query_features",
    "query_positions",
    "level_embedding",
    "void_embedding",
    "text_embedding",
)
FUSED_DEVICES = {"cpu", "cuda"}  # PyTorch's list is longer; these have been tried
# Of a step: from finite weights and moments, and a gradient whose norm is finite, AdamW then makes
# finite ones. It divides a moment by the root of another that grows with it, so that a weight moves
# by about ten times the rate at most, and shrinks by rate times decay.
LARGEST_RATE, LARGEST_DECAY = 1.0, 1.0
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, norm_decay: float, embedding_decay: float
) -> list[dict[str, Any]]:
    """The trained parameters in up to three groups: weights, norms, embeddings.

    A group has "params", "names" and "weight_decay". Biases and the logit scale count as weights,
    as in the published recipe (detectron2's solver).
    """
    decays = {"weights": weight_decay, "norms": norm_decay, "embeddings": embedding_decay}
    for kind, decay in decays.items():
        if not 0 <= decay <= LARGEST_DECAY:
            raise UserError(
                f"weight decay of {kind} {decay}: must be between 0 and {LARGEST_DECAY:g}; see "
                "SOLVER.WEIGHT_DECAY, WEIGHT_DECAY_NORM and WEIGHT_DECAY_EMBED"
            )
    groups: dict[str, dict[str, Any]] = {
        kind: {"params": [], "names": [], "weight_decay": decay} for kind, decay in decays.items()
    }
    seen: set[int] = set()  # a module may be shared, its parameters are trained once
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                group = groups[_kind(name, module)]
                group["params"].append(parameter)
                group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def _kind(name: str, module: nn.Module) -> str:
    if isinstance(module, NORMS):
        return "norms"
    is_table = isinstance(module, nn.Embedding) or name.rpartition(".")[2] in EMBEDDINGS
    return "embeddings" if is_table else "weights"


def adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    """The optimiser over `parameter_groups`, fused where the device has such a kernel.

    It takes up the state of either form and stays what it is.
    """
    kept = [
        {
            # With names, which go into the optimiser's state dict: a saved moment is then found by
            # the name of its parameter, not by its place.
            "params": list(zip(group["names"], group["params"], strict=True)),
            "weight_decay": group["weight_decay"],
        }
        for group in groups
    ]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= FUSED_DEVICES

    def keep_form(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # The saved groups would decide otherwise, even for a device that has no such kernel.
        return {**state, "param_groups": [{**g, "fused": fused} for g in state["param_groups"]]}

    optimizer = torch.optim.AdamW(kept, lr=learning_rate, fused=fused)
    optimizer.register_load_state_dict_pre_hook(keep_form)
    return optimizer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each step, a function of the step alone: a resumed run needs no state.

    It rises linearly from `warmup_factor` times `base` over the first `warmup_iters` steps, and
    falls by `gamma` at each of `steps`.
    """

    base: float
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_factor: float = 1.0
    warmup_iters: int = 0

    def __post_init__(self) -> None:
        for factor, name in ((self.gamma, "GAMMA"), (self.warmup_factor, "WARMUP_FACTOR")):
            if not 0 <= factor <= 1:
                raise UserError(f"SOLVER.{name} {factor}: must be between 0 and 1")
        if not 0 <= self.base <= LARGEST_RATE:
            raise UserError(
                f"SOLVER.BASE_LR {self.base}: must be between 0 and {LARGEST_RATE:g}; a step "
                "of AdamW moves each weight by about the rate, e.g. 0.0001"
            )

    def __call__(self, step: int) -> float:
        """The rate of the step that has `step` steps before it."""
        rate = self.base * self.gamma ** sum(step >= fall for fall in self.steps)
        if step >= self.warmup_iters:
            return rate
        done = step / self.warmup_iters
        return rate * (self.warmup_factor * (1 - done) + done)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(
    parameters: Iterable[nn.Parameter], max_norm: float | None = None
) -> torch.Tensor:
    """The norm of all gradients together; where it exceeds `max_norm` they are scaled down to
    it."""
    limit = float("inf") if max_norm is None else max_norm
    return torch.nn.utils.clip_grad_norm_(list(parameters), limit)


class MovingAverage:
    """Exponential moving average of the trained weights (Polyak averaging)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, average in self.average.items():
            average.lerp_(self.parameters[name], 1 - self.decay)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.average.items():
            parameter = self.parameters[name]
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)
