"""AdamW and its parameter groups, schedules, gradient clipping and the moving average."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frozenseg.errors import UserError
from frozenseg.models.fusioner import UpsamplingDecoder
from frozenseg.models.layers import WithEmbeddings
from frozenseg.models.pixel_decoder import DeformableEncoder

RULES = ("modules", "tables", "matrices")
"""The rules for which parameters decay; see `parameter_groups`."""
FUSED_DEVICES = {"cpu", "cuda"}  # PyTorch supports more; only these have been tested
# Up to these bounds, a step of AdamW keeps weights finite if the weights, the moments and the norm
# of the gradient are finite: AdamW divides a moment by the root of another one that grows with it,
# so a weight moves by at most about ten times the rate, and shrinks by rate times decay.
LARGEST_RATE, LARGEST_DECAY = 1.0, 1.0
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    norm_decay: float,
    embedding_decay: float,
    rule: str = "modules",
    constant_decoder: bool = False,
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups that share a weight decay and a schedule.

    A group has the keys "params", "names", "weight_decay", "fixed_rate" (whether the schedule of
    the learning rate does not apply to it) and "fixed_decay" (whether the schedule of the weight
    decay does not apply to it).

    weight_decay, norm_decay, embedding_decay: the weight decay of weights, of the parameters of
        normalisation layers, and of embeddings, 0-1.
    rule: which parameters count as weights, norms or embeddings.
        "modules": the type of the module decides; biases, the logit scale and the level embeddings
        of the deformable encoders count as weights, as in the published recipe of FrozenSeg
        (detectron2's solver).
        "tables": as "modules", but these level embeddings count as embeddings.
        "matrices": embeddings, and all parameters with more than one axis, decay as weights; the
        others do not decay, as in the published recipe of Fusioner.
    constant_decoder: whether Fusioner's decoder gets a group of its own, without weight decay and
        with a constant learning rate.

    Raises `ValueError` for an unknown rule, and `UserError` for a decay outside 0-1.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} of weight decay: must be one of {', '.join(RULES)}")
    decays = {
        "weights": weight_decay,
        "norms": norm_decay,
        "embeddings": embedding_decay,
        "vectors": 0.0,
        "decoder": 0.0,
    }
    for kind, decay in decays.items():
        if not 0 <= decay <= LARGEST_DECAY:
            raise UserError(
                f"weight decay of {kind} {decay}: must be between 0 and {LARGEST_DECAY:g}"
            )
    groups: dict[str, dict[str, Any]] = {
        kind: {
            "params": [],
            "names": [],
            "weight_decay": decay,
            "fixed_rate": kind == "decoder",
            "fixed_decay": kind != "weights",
        }
        for kind, decay in decays.items()
    }
    apart = _decoder_modules(model) if constant_decoder else set()
    seen: set[int] = set()  # the parameters of a shared module must be listed only once
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                leaf = name.removeprefix(f"{prefix}.")
                kind = "decoder" if module in apart else _kind(leaf, parameter, module, rule)
                groups[kind]["params"].append(parameter)
                groups[kind]["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def _kind(leaf: str, parameter: nn.Parameter, module: nn.Module, rule: str) -> str:
    """Return the key in `decays` of a parameter by its rule.

    leaf: the name of the parameter in its module; `WithEmbeddings` modules name their embeddings.
    """
    is_table = isinstance(module, nn.Embedding) or _is_learned_table(leaf, module)
    if rule == "matrices":
        return "weights" if is_table or parameter.ndim > 1 else "vectors"
    if isinstance(module, NORMS):
        return "norms"
    is_table |= rule == "tables" and isinstance(module, DeformableEncoder)
    return "embeddings" if is_table else "weights"


def _is_learned_table(leaf: str, module: nn.Module) -> bool:
    return isinstance(module, WithEmbeddings) and leaf in module.embeddings


def _decoder_modules(model: nn.Module) -> set[nn.Module]:
    heads = [module for module in model.modules() if isinstance(module, UpsamplingDecoder)]
    return {module for head in heads for module in head.modules()}


def adamw(
    groups: list[dict[str, Any]], learning_rate: float, *, max_norm: float | None = None
) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`, in its fused form if the device has a kernel for it.

    The optimiser loads the state dict of a fused or unfused optimiser, and keeps its own form.

    max_norm: to which norm each step first clips the gradients, for training loops that do not clip
        themselves; the optimiser is not fused then. None: it does not clip.
    """
    scheduled = {"fixed_rate": False, "fixed_decay": False}
    kept = [
        {
            **scheduled,
            **{key: value for key, value in group.items() if key != "names"},
            # The names are stored in the optimiser's state dict, so that a saved moment can be
            # found by the name of its parameter rather than by its index.
            "params": list(zip(group["names"], group["params"], strict=True)),
        }
        for group in groups
    ]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    # A fused step gets gradients that are still multiplied by the scale of `GradScaler`, which its
    # kernel divides by; before an unfused step, `GradScaler` undoes its scaling.
    fused = devices <= FUSED_DEVICES and max_norm is None

    def keep_form(own: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # Otherwise the saved groups would decide, even on a device without a fused kernel.
        saved = state["param_groups"]
        if len(saved) != len(own.param_groups):
            return state  # the optimiser itself refuses it
        kept = [
            {**group, **{key: mine[key] for key in ("fused", "fixed_rate", "fixed_decay")}}
            for group, mine in zip(saved, own.param_groups, strict=True)
        ]
        return {**state, "param_groups": kept}

    optimizer = torch.optim.AdamW(kept, lr=learning_rate, fused=fused)
    optimizer.register_load_state_dict_pre_hook(keep_form)
    if max_norm is not None:
        parameters = [parameter for group in groups for parameter in group["params"]]

        def clip(*_: Any) -> None:
            gradient_norm(parameters, max_norm)

        optimizer.register_step_pre_hook(clip)
    return optimizer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each step: linear warm-up, then a multiplication at each of `steps`.

    It depends only on the step, so a resumed run needs no saved state. Over the first
    `warmup_iters` steps, it rises linearly from `warmup_factor` times `base` to `base`; at each of
    `steps` it is multiplied by `gamma`.
    """

    base: float
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_factor: float = 1.0
    warmup_iters: int = 0

    def __post_init__(self) -> None:
        _check_factor("gamma", self.gamma)
        _check_factor("warmup factor", self.warmup_factor)
        if not 0 <= self.base <= LARGEST_RATE:
            raise UserError(
                f"learning rate {self.base}: must be between 0 and {LARGEST_RATE:g}; a step "
                "of AdamW moves each weight by about the rate, e.g. 0.0001"
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step. step: the index of the step, from 0."""
        rate = self.base * self.gamma ** sum(step >= fall for fall in self.steps)
        if step >= self.warmup_iters:
            return rate
        done = step / self.warmup_iters
        return rate * (self.warmup_factor * (1 - done) + done)


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """A value for each of `total` steps, from `base` to `end` along half a period of a cosine.

    Over the first `warmup_iters` steps, it rises linearly instead, from `warmup_factor` times
    `base` to `base`, which it reaches in the last of these steps, as in the published code of
    Fusioner.
    """

    base: float
    end: float
    total: int
    warmup_factor: float = 0.0
    warmup_iters: int = 0

    def __post_init__(self) -> None:
        for value in (self.base, self.end):
            if not 0 <= value <= min(LARGEST_RATE, LARGEST_DECAY):
                raise UserError(
                    f"cosine from {self.base} to {self.end}: both must be between 0 and 1"
                )
        _check_factor("warmup factor", self.warmup_factor)

    def __call__(self, step: int) -> float:
        """Return the value of a step. step: the index of the step, from 0."""
        if step < self.warmup_iters:
            done = step / max(self.warmup_iters - 1, 1)
            return self.base * (self.warmup_factor * (1 - done) + done)
        length = max(self.total - self.warmup_iters, 1)
        share = min(step - self.warmup_iters, length) / length
        return self.end + (self.base - self.end) * (1 + math.cos(math.pi * share)) / 2


def _check_factor(name: str, factor: float) -> None:
    if not 0 <= factor <= 1:
        raise UserError(f"{name} {factor}: must be between 0 and 1")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups except those with a fixed rate."""
    for group in optimizer.param_groups:
        if not group["fixed_rate"]:
            group["lr"] = rate


def set_weight_decay(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Set the weight decay of all groups except those with a fixed decay."""
    for group in optimizer.param_groups:
        if not group["fixed_decay"]:
            group["weight_decay"] = decay


def gradient_norm(
    parameters: Iterable[nn.Parameter], max_norm: float | None = None
) -> torch.Tensor:
    """Return the norm of all gradients together, before clipping.

    If it exceeds `max_norm`, the gradients are scaled down to this norm. None: no clipping.
    """
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
        """Update the average with the current weights; to be called after each step."""
        for name, average in self.average.items():
            average.lerp_(self.parameters[name], 1 - self.decay)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Set the average, e.g. from a checkpoint."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the `with` block, the model has the averaged weights."""
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
