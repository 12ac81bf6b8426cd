"""The content of a training checkpoint, and the checks of its names, types, shapes and values.

Everything that is read from a file is checked here before native code uses it: a fused optimiser
would read and write outside its buffers if a moment were smaller than its weight.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from frozenseg.checkpoints.random_states import check_random_state
from frozenseg.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's; each has the shape of its weight
LARGEST = 2**63 - 1  # the largest valid value of step, images and seed


@dataclass
class TrainingCheckpoint:
    """The state of a training run between two steps.

    step: the number of finished steps.
    images: the number of images that all processes together have drawn, i.e. the position in the
        data.
    seed: the seed of the initial weights, the data order and the random points.
    weights: the weights of the trained parts, by name.
    optimizer: the state dict of the optimiser; its groups name their parameters ("param_names").
    scaler: the state dict of the loss scaler; empty without fp16.
    average: the moving average of the weights, by name; empty if none is kept.
    random_states: the states of the random generators of each process, by rank.
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
    """Return the fields by name, without copying the tensors as `dataclasses.asdict` would."""
    return {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}


def checked(content: Any) -> TrainingCheckpoint:
    """Check the content of a file and return it as a checkpoint.

    Raises `UserError` that names the invalid part.
    """
    expected = {field.name for field in fields(TrainingCheckpoint)}
    if not isinstance(content, dict) or set(content) != expected:
        raise UserError("not a training checkpoint of this program")
    for name in ("step", "images", "seed"):
        _whole(content[name], name)
    _tensors(content["weights"], "weights")
    if not content["weights"]:
        raise UserError("weights: the checkpoint has none")
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
    """Refuse weights, averages and moments that are not finite: no training can continue with them.

    Raises `UserError`.
    """
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
    """Return AdamW's entries by the name of their parameter.

    Older checkpoints have no names; their parameters are named by their indices, as text.
    """
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
            raise UserError(f"{part}: {name!r:.80} is not a plain tensor of numbers")


def _is_plain(tensor: Any) -> bool:
    """Tell whether this is a dense, real CPU tensor whose memory is large enough for its shape."""
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
            raise UserError(f"average: {name!r:.80} matches no weight in name, shape and type")


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype


def _scaler(value: Any) -> None:
    """Check the state of the loss scaler: empty, or with all keys that a GradScaler requires."""
    known = torch.amp.GradScaler("cpu", enabled=True).state_dict()
    if not isinstance(value, dict) or value and value.keys() != known.keys():
        raise UserError("scaler: the numbers of a GradScaler were expected")
    if not all(_is_number(entry) and entry >= 0 for entry in value.values()):
        raise UserError("scaler: finite numbers of at least 0 were expected")
    if value and not value["scale"] > 0:
        raise UserError("scaler: its scale is 0, which would set all gradients to 0")


def _best(value: Any) -> None:
    if value == {} and isinstance(value, dict):
        return
    if not isinstance(value, dict) or value.keys() != {"score", "step", "metric"}:
        raise UserError("best: score, step and metric were expected")
    _whole(value["step"], "step of the best evaluation")
    if not _is_number(value["score"]) or not isinstance(value["metric"], str):
        raise UserError("best: its score is not a finite number, or its metric is not a name")


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
            raise UserError(f"optimiser, entry {index}: its step is not a count")


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
    """Check that after the first step every trained weight has moments of its shape and type.

    With a loss scaler, all steps so far may have been skipped, and then there are no moments. In
    older files without parameter names, only the model can tell which weight a moment belongs to,
    so shapes are not checked here.
    """
    moments = named_moments(checkpoint.optimizer)
    groups = checkpoint.optimizer["param_groups"]
    expected = {name for group in groups for _, name in _named_indices(group)}
    may_be_empty = checkpoint.step == 0 or (bool(checkpoint.scaler) and not moments)
    if not may_be_empty and moments.keys() != expected:
        raise UserError(
            f"optimiser: moments of {len(moments)} of {len(expected)} parameters after "
            f"{checkpoint.step} steps; a resumed run would differ"
        )
    if not any("param_names" in group for group in groups):
        return
    for name, entries in moments.items():
        weight = checkpoint.weights.get(name)
        if weight is None:
            raise UserError(f"optimiser: {name!r:.80} is not among the weights")
        check_moments(name, entries, weight)


def check_moments(name: str, entries: Mapping[str, Tensor], weight: Tensor) -> None:
    """Refuse moments of AdamW that do not fit their weight or that training cannot produce.

    Raises `UserError`.
    """
    for key in MOMENTS:
        if not _alike(entries[key], weight):
            raise UserError(
                f"optimiser: {key} of {name} is {entries[key].dtype} {tuple(entries[key].shape)}, "
                f"but the weight is {weight.dtype} {tuple(weight.shape)}"
            )
    if bool((entries["exp_avg_sq"] < 0).any()):
        raise UserError(f"optimiser: exp_avg_sq of {name} is negative, but it averages squares")
