"""What a training checkpoint holds, and the check of it: by name, type, shape and value.

All that is read from a file is checked here before anything native gets it: a fused optimiser reads
and writes outside its buffers if a moment is smaller than its weight.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from frozenseg.checkpoints.random_states import check_random_state
from frozenseg.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of the shape of their weight
LARGEST = 2**63 - 1  # of whole numbers


@dataclass
class TrainingCheckpoint:
    """The state between two steps.

    step: how many steps are done.
    images: how many images all processes have drawn, i.e. the position in the data.
    seed: of weights, data and points.
    weights: the trained parts.
    optimizer: its state dict; the groups name their parameters ("param_names").
    scaler: the state dict of the loss scaler; empty without fp16.
    average: the moving average of the weights; empty without one.
    random_states: those of each process, by rank.
    best: {"score", "step", "metric"} of the best evaluation so far, or empty.
    """

    step: int
    images: int
    seed: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Tensor]
    random_states: list[dict[str, Any]]
    best: dict[str, Any]


def by_name(checkpoint: TrainingCheckpoint) -> dict[str, Any]:
    """Return the fields by name; `dataclasses.asdict` would copy every tensor."""
    return {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}


def checked(content: Any) -> TrainingCheckpoint:
    """`content` of a file as a checkpoint; a `UserError` says in which part it is none."""
    expected = {field.name for field in fields(TrainingCheckpoint)}
    if not isinstance(content, dict) or set(content) != expected:
        raise UserError("not one of this program's training checkpoints")
    for name in ("step", "images", "seed"):
        _whole(content[name], name)
    _tensors(content["weights"], "weights")
    if not content["weights"]:
        raise UserError("weights: there are none")
    _tensors(content["average"], "average")
    _average_fits(content["average"], content["weights"])
    if not isinstance(content["random_states"], list):
        raise UserError("random states: a list was expected")
    for state in content["random_states"]:
        check_random_state(state)
    _scaler(content["scaler"])
    _best(content["best"])
    _optimizer(content["optimizer"])
    checkpoint = TrainingCheckpoint(**content)
    _moments_fit(checkpoint)
    check_numbers(checkpoint)
    return checkpoint


def check_numbers(checkpoint: TrainingCheckpoint) -> None:
    """Refuse weights, averages and moments that are not finite: no step can go on from them."""
    for part, tensors in _parts(checkpoint):
        wrong = [
            name
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and not bool(tensor.isfinite().all())
        ]
        if wrong:
            raise UserError(
                f"{part}: {len(wrong)} of {len(tensors)} entries are not finite, e.g. {wrong[0]}"
            )


def named_moments(optimizer: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """AdamW's entries by the name of their parameter; a checkpoint from before there were names has
    their indices, as text."""
    return {
        name: optimizer["state"][index]
        for group in optimizer["param_groups"]
        for index, name in _named_indices(group)
        if index in optimizer["state"]
    }


def _named_indices(group: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    names = group.get("param_names") or [str(index) for index in group["params"]]
    return zip(group["params"], names, strict=True)


def _parts(checkpoint: TrainingCheckpoint) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    yield "weights", checkpoint.weights
    yield "average", checkpoint.average
    for key in ("step", *MOMENTS):
        moments = named_moments(checkpoint.optimizer)
        yield f"optimiser ({key})", {name: entries[key] for name, entries in moments.items()}


def _whole(value: Any, name: str) -> None:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise UserError(f"{name}: a count was expected, found {type(value).__name__}")


def _tensors(value: Any, part: str) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{part}: tensors by name were expected")
    for name, tensor in value.items():
        if not _is_plain(tensor):
            raise UserError(f"{part}: {name!r:.80} is no plain tensor of numbers")


def _is_plain(tensor: Any) -> bool:
    """Whether it is a dense real tensor on the CPU whose memory is as large as its shape says."""
    return (
        type(tensor) is Tensor
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
        and tensor.untyped_storage().nbytes() >= tensor.nbytes
    )


def _average_fits(average: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, tensor in average.items():
        if name not in weights or not _alike(tensor, weights[name]):
            raise UserError(f"average: {name!r:.80} has not the name, shape and type of a weight")


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype


def _scaler(value: Any) -> None:
    """Empty, or what a new scaler has to say, which takes nothing less."""
    known = torch.amp.GradScaler("cpu", enabled=True).state_dict()
    if not isinstance(value, dict) or value and value.keys() != known.keys():
        raise UserError("scaler: the numbers of a GradScaler were expected")
    if not all(_is_number(entry) and entry >= 0 for entry in value.values()):
        raise UserError("scaler: a number that is none, or below 0")
    if value and not value["scale"] > 0:
        raise UserError("scaler: its scale is 0, and no gradient would be left")


def _best(value: Any) -> None:
    if value == {} and isinstance(value, dict):
        return
    if not isinstance(value, dict) or value.keys() != {"score", "step", "metric"}:
        raise UserError("best: score, step and metric were expected")
    _whole(value["step"], "step of the best evaluation")
    if not _is_number(value["score"]) or not isinstance(value["metric"], str):
        raise UserError("best: its score is no number, or its metric no name")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _optimizer(value: Any) -> None:
    """Check the shape of AdamW's state dict: groups of indices, entries by index."""
    if not isinstance(value, dict) or value.keys() != {"state", "param_groups"}:
        raise UserError("optimiser: state and groups were expected")
    groups, state = value["param_groups"], value["state"]
    if not isinstance(groups, list) or not all(map(_is_group, groups)):
        raise UserError("optimiser: groups of parameters were expected")
    indices = [index for group in groups for index in group["params"]]
    if len(set(indices)) != len(indices):
        raise UserError("optimiser: a parameter is in two groups")
    if not isinstance(state, dict) or not set(state) <= set(indices):
        raise UserError("optimiser: its entries are not those of its groups")
    for index, entries in state.items():
        if not isinstance(entries, dict) or entries.keys() != {"step", *MOMENTS}:
            raise UserError(f"optimiser: entry {index} is not AdamW's")
        _tensors(entries, f"optimiser, entry {index}")
        if entries["step"].shape != () or not entries["step"].is_floating_point():
            raise UserError(f"optimiser, entry {index}: no count of steps")


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict) or not isinstance(group.get("params"), list):
        return False
    names = group.get("param_names", [str(index) for index in group["params"]])
    return (
        all(type(index) is int for index in group["params"])
        and isinstance(names, list)
        and len(names) == len(group["params"])
        and all(isinstance(name, str) for name in names)
    )


def _moments_fit(checkpoint: TrainingCheckpoint) -> None:
    """Every trained weight has moments of its shape and type, once a step was taken.

    With a scaler the first steps may all have been left out. Without names (older files) only the
    model can tell which weight is meant.
    """
    moments = named_moments(checkpoint.optimizer)
    groups = checkpoint.optimizer["param_groups"]
    expected = {name for group in groups for _, name in _named_indices(group)}
    may_be_empty = checkpoint.step == 0 or (bool(checkpoint.scaler) and not moments)
    if not may_be_empty and moments.keys() != expected:
        raise UserError(
            f"optimiser: moments of {len(moments)} of {len(expected)} parameters after "
            f"{checkpoint.step} steps; it would not be the same run"
        )
    if not any("param_names" in group for group in groups):
        return
    for name, entries in moments.items():
        weight = checkpoint.weights.get(name)
        if weight is None:
            raise UserError(f"optimiser: {name!r:.80} is not among the weights")
        check_moments(name, entries, weight)


def check_moments(name: str, entries: Mapping[str, Tensor], weight: Tensor) -> None:
    """Refuse moments of AdamW that do not fit their weight, or that no training can have made."""
    for key in MOMENTS:
        if not _alike(entries[key], weight):
            raise UserError(
                f"optimiser: {key} of {name} is {entries[key].dtype} {tuple(entries[key].shape)}, "
                f"the weight {weight.dtype} {tuple(weight.shape)}"
            )
    if bool((entries["exp_avg_sq"] < 0).any()):
        raise UserError(f"optimiser: exp_avg_sq of {name} is negative; it is a mean of squares")
