"""Contents of checkpoints: what does not fit is one error, before an optimiser gets it."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from frozenseg.checkpoints.schema import TrainingCheckpoint, by_name, checked
from frozenseg.checkpoints.training import load_checkpoint
from frozenseg.engine.optim import MovingAverage, adamw, parameter_groups
from frozenseg.engine.state import TrainingState
from frozenseg.errors import UserError
from frozenseg.runtime.precision import Precision


class Model(nn.Module):
    """A weight and a bias of a layer, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.named_parameters()


def state_of(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = Model()
    groups = parameter_groups(model, weight_decay=0.1, norm_decay=0.0, embedding_decay=0.0)
    return TrainingState(
        model=model,  # type: ignore[arg-type]
        optimizer=adamw(groups, 0.1),
        precision=Precision(torch.device("cpu")),
        seed=seed,
        average=MovingAverage(dict(model.named_parameters()), decay=0.5),
    )


def step(state: TrainingState) -> None:
    for _, parameter in state.model.trainable_parameters():
        parameter.grad = torch.sin(parameter.detach()) + 0.1
    state.optimizer.step()
    assert state.average is not None
    state.average.update()
    state.step += 1
    state.images += 2


def content() -> dict[str, Any]:
    state = state_of(1)
    for _ in range(2):
        step(state)
    state.best = {"score": 1.5, "step": 2, "metric": "PQ"}
    return copy.deepcopy(by_name(state.checkpoint()))


WHOLE = content()
SCALER = torch.amp.GradScaler("cpu").state_dict()


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Of all entries, however deep; of long lists the first two."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
        for key, entry in entries:
            yield (*path, key)
            yield from places(entry, (*path, key))


VALUES: list[Any] = [
    None, True, -1, 7, 2**70, 0.5, math.nan, math.inf, "", "torch", [], {}, [None], {"a": 1},
    [0] * 5056, [2**40] * 625,
    torch.zeros(3, 3), torch.zeros(()), torch.full((4,), math.nan), torch.zeros(4, 3).half(),
    torch.zeros(4, 3).int(), torch.zeros(4, 3).cfloat(), torch.zeros(4, 3).to_sparse(),
    torch.zeros(1, 1).expand(4, 3), torch.zeros(4, 3, device="meta"), -torch.ones(4, 3),
    torch.zeros(3, 4).T, torch.zeros(0),
]  # fmt: skip


def put(whole: dict[str, Any], path: tuple, value: Any, *, drop: bool) -> dict[str, Any]:
    found = copy.deepcopy(whole)
    inner: Any = found
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return bool(first == second)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    path=st.sampled_from(list(places(WHOLE))),
    value=st.sampled_from(VALUES),
    drop=st.booleans(),
)
def test_any_change_is_taken_as_it_is_or_refused(path: tuple, value: Any, drop: bool) -> None:
    changed = put(WHOLE, path, value, drop=drop)
    before = torch.get_rng_state()
    state = state_of(2)
    try:
        checkpoint = checked(changed)
        state.restore(checkpoint, "here")
    except UserError as error:
        assert "\n" not in str(error)
        return
    finally:
        torch.set_rng_state(before)
    assert same(by_name(checkpoint), changed)
    assert (state.step, state.images, state.best) == tuple(
        changed[name] for name in ("step", "images", "best")
    )
    step(state)
    assert all(bool(p.isfinite().all()) for _, p in state.model.trainable_parameters())


def test_a_whole_one_goes_on_as_if_never_stopped() -> None:
    stopped, whole = state_of(2), state_of(1)
    stopped.restore(checked(copy.deepcopy(WHOLE)), "here")
    for _ in range(2):
        step(whole)
    for state in (stopped, whole):
        step(state)
    ours, theirs = stopped.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_moments_are_found_by_the_names_of_their_weights() -> None:
    """Though the parameters stand in other groups and another order now."""
    turned = copy.deepcopy(WHOLE)
    groups = turned["optimizer"]["param_groups"]
    assert [group["param_names"] for group in groups] == [
        ["layer.weight", "layer.bias"], ["norm.weight", "norm.bias"],
    ]  # fmt: skip
    groups.reverse()
    groups[1]["params"].reverse()
    groups[1]["param_names"].reverse()
    first, second = state_of(2), state_of(3)
    first.restore(checked(copy.deepcopy(WHOLE)), "here")
    second.restore(checked(turned), "here")
    for state in (first, second):
        step(state)
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(3, 3), "exp_avg of layer.weight is"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(4, 3).half(), "torch.float16"),
        (("optimizer", "state"), {}, "moments of 0 of 4 parameters after 2 steps"),
        (("optimizer",), {}, "optimiser: state and groups were expected"),
        (("weights", "layer.bias"), torch.full((4,), math.nan), "1 of 4 entries are not finite"),
        (("average", "layer.bias"), torch.zeros(5), "average: 'layer.bias'"),
        (("random_states", 0, "torch"), [1, 2], "random states: not states of a generator"),
        (("random_states", 0, "numpy", 2), 9999, "random states: not states of a generator"),
        (("step",), 2.0, "step: a count was expected, found float"),
        (("seed",), None, "seed: a count was expected, found NoneType"),
        (("scaler",), {"scale": 2.0}, "scaler: the numbers of a GradScaler were expected"),
        (("scaler",), SCALER | {"scale": 0.0}, "scaler: its scale is 0"),
        (("scaler",), SCALER | {"_growth_tracker": math.nan}, "scaler: finite numbers of"),
        (("best",), {"score": "high"}, "best: score, step and metric"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, path: tuple, value: Any, message: str) -> None:
    file = tmp_path / "step_00000002.pt"
    torch.save(put(WHOLE, path, value, drop=False), file)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(file)
    assert str(caught.value).startswith(f"checkpoint {file}: ")


def test_another_model_s_moments_are_refused() -> None:
    other = copy.deepcopy(WHOLE)
    for key in ("exp_avg", "exp_avg_sq"):
        other["optimizer"]["state"][0][key] = torch.zeros(5, 3)
    for part in ("weights", "average"):
        other[part]["layer.weight"] = torch.zeros(5, 3)
    checkpoint: TrainingCheckpoint = checked(other)
    state = state_of(2)
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(UserError, match="weights here do not fit the model"):
        state.restore(checkpoint, "here")
    assert same(before, state.model.state_dict())
