"""Groups, schedule, clipping and moving average against tables and formulas written out here."""

import math

import pytest
import torch
from torch import nn

from frozenseg.build import optimization
from frozenseg.build.models import build_model
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.engine import optim
from frozenseg.engine.optim import (
    CosineSchedule,
    MovingAverage,
    Schedule,
    adamw,
    gradient_norm,
    parameter_groups,
    set_learning_rate,
    set_weight_decay,
)
from frozenseg.errors import UserError
from frozenseg.models.layers import WithEmbeddings
from tests.engine.test_fusioner import FUSIONER
from tests.engine.test_trainer import assert_close_losses
from tests.engine.tiny import TinyRun


@pytest.mark.parametrize(("rule", "of_levels"), [("modules", 0.05), ("tables", 0.02)])
def test_groups_of_the_model(run: TinyRun, rule: str, of_levels: float) -> None:
    """The deformable encoders' level embeddings are plain parameters in the published code, the
    decoder's are an `nn.Embedding`: the first decay there, the second do not."""
    model = build_model(load_config(run.config))
    groups = parameter_groups(
        model, weight_decay=0.05, norm_decay=0.01, embedding_decay=0.02, rule=rule
    )
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    moved = {name for g in groups if g["fixed_decay"] or g["fixed_rate"] for name in g["names"]}
    assert moved == {name for name, value in decay.items() if value != 0.05}
    assert not any(group["fixed_rate"] for group in groups)
    assert set(decay) == {name for name, _ in model.trainable_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(decay)
    table = {
        "mask_decoder.norm.weight": 0.01,
        "mask_decoder.layers.0.self_attention.norm.bias": 0.01,
        "pixel_decoder.input_projections.0.1.weight": 0.01,  # GroupNorm
        "mask_decoder.pooling_projection.0.weight": 0.01,
        "mask_decoder.pooling_projection.1.weight": 0.05,
        "mask_decoder.query_features": 0.02,
        "mask_decoder.query_positions": 0.02,
        "mask_decoder.level_embedding": 0.02,
        "pixel_decoder.encoder.level_embedding": of_levels,
        "sam_branch.encoder.level_embedding": of_levels,
        "void_embedding": 0.02,
        "mask_decoder.logit_scale": 0.05,
        "mask_decoder.layers.0.feed_forward.linear1.bias": 0.05,
    }
    assert {name: decay[name] for name in table} == table


def test_every_table_is_among_the_embeddings_of_its_module(run: TinyRun) -> None:
    """So that a new one is not decayed unseen, and none of the names is stale."""
    for options in ((), ("MODEL.META_ARCHITECTURE", "Fusioner", *FUSIONER[2:])):
        model = build_model(load_config(run.config, options))
        for module in model.modules():
            names = module.embeddings if isinstance(module, WithEmbeddings) else frozenset()
            own = dict(module.named_parameters(recurse=False))
            assert names <= own.keys()
            tables = {n for n, p in own.items() if p.ndim > 0 and not n.startswith("in_proj")}
            if names:
                assert tables == names


class Foreign(nn.Module):
    """A module of someone else's, whose attribute `embeddings` is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(3, 2)
        self.weight = nn.Parameter(torch.ones(2))


def test_a_table_is_told_by_type_and_not_by_the_name_of_an_attribute() -> None:
    groups = parameter_groups(Foreign(), weight_decay=0.05, norm_decay=0.01, embedding_decay=0.02)
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decay == {"weight": 0.05, "embeddings.weight": 0.02}


def test_groups_of_the_published_fusioner(run: TinyRun) -> None:
    """What has one axis does not decay, the embedding of words does; the decoder stands apart."""
    model = build_model(load_config(run.config, FUSIONER))
    groups = parameter_groups(
        model,
        weight_decay=0.01,
        norm_decay=0.5,
        embedding_decay=0.5,
        rule="matrices",
        constant_decoder=True,
    )
    weights, vectors, decoder = groups
    shapes = {name: parameter.ndim for name, parameter in model.trainable_parameters()}
    assert set(shapes) == {name for group in groups for name in group["names"]}
    assert {name for name in shapes if name.startswith("decoder.")} == set(decoder["names"])
    assert "fusion.text_embedding" in weights["names"]
    assert all(shapes[n] > 1 for n in weights["names"] if n != "fusion.text_embedding")
    assert vectors["names"] and all(shapes[name] == 1 for name in vectors["names"])
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.0]
    optimizer = adamw(groups, 0.1)
    set_learning_rate(optimizer, 0.5)
    set_weight_decay(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0, 0.0]
    again = adamw(groups, 0.1)
    state = optimizer.state_dict()
    for group in state["param_groups"]:  # of a run before there were such groups
        del group["fixed_rate"], group["fixed_decay"]
    again.load_state_dict(state)
    set_learning_rate(again, 0.75)
    assert [group["lr"] for group in again.param_groups] == [0.75, 0.75, 0.1]


def test_another_number_of_groups_is_not_the_same_optimiser(run: TinyRun) -> None:
    model = build_model(load_config(run.config))
    decays = {"weight_decay": 0.05, "norm_decay": 0.0, "embedding_decay": 0.0}
    some = adamw(parameter_groups(model, **decays, rule="matrices"), 0.1)
    others = adamw(parameter_groups(model, **decays, rule="tables"), 0.1)
    with pytest.raises(ValueError, match="parameter groups"):
        others.load_state_dict(some.state_dict())
    levels = adamw(parameter_groups(model, **decays, rule="modules"), 0.1)
    with pytest.raises(ValueError, match="size of optimizer's group"):
        others.load_state_dict(levels.state_dict())


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    model[0].requires_grad_(False)
    (group,) = parameter_groups(model, weight_decay=1.0, norm_decay=0.0, embedding_decay=0.0)
    assert group["names"] == ["1.weight", "1.bias"] and group["weight_decay"] == 0.0


def trained(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int) -> None:
    """Gradients that depend on the parameters, so that a wrong step shows later."""
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.sin(3 * parameter.detach()) + 0.1
        optimizer.step()


def weights() -> tuple[list[nn.Parameter], list[dict]]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(n, generator=generator)) for n in (5, 33, 2)]
    decays = {"weight_decay": 0.05}, {"weight_decay": 0.0}
    parts = parameters[:2], parameters[2:]
    names = ["a", "b"], ["c"]
    return parameters, [
        {"params": part, "names": name, **decay}
        for part, name, decay in zip(parts, names, decays, strict=True)
    ]


@pytest.mark.parametrize("then_fused", [True, False])
@pytest.mark.parametrize("first_fused", [True, False])
def test_state_of_either_form_goes_on_in_the_other(
    monkeypatch: pytest.MonkeyPatch, first_fused: bool, then_fused: bool
) -> None:
    def build(groups: list[dict], fused: bool) -> torch.optim.AdamW:
        monkeypatch.setattr(optim, "FUSED_DEVICES", {"cpu"} if fused else set())
        return adamw(groups, 0.1)

    expected, groups = weights()
    trained(torch.optim.AdamW(groups, lr=0.1, foreach=False), expected, 7)
    start, groups = weights()
    first = build(groups, first_fused)
    trained(first, start, 3)
    found, groups = weights()
    for parameter, value in zip(found, start, strict=True):
        parameter.data.copy_(value.detach())
    then = build(groups, then_fused)
    then.load_state_dict(first.state_dict())
    assert [group["fused"] for group in then.param_groups] == [then_fused] * 2
    assert [group["weight_decay"] for group in then.param_groups] == [0.05, 0.0]
    trained(then, found, 4)
    assert {float(state["step"]) for state in then.state.values()} == {7.0}
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("base", -1.0),
        ("base", 1e30),
        ("base", float("nan")),
        ("gamma", float("nan")),
        ("gamma", -0.1),
        ("warmup_factor", float("inf")),
    ],
)
def test_rates_that_are_none_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=setting.replace("base", "learning rate").replace("_", " ")):
        Schedule(**{"base": 0.1, "steps": (3,), setting: value})


@pytest.mark.parametrize("decay", [float("nan"), -0.1, 1e30])
def test_decays_that_are_none_are_refused(decay: float) -> None:
    with pytest.raises(UserError, match="weight decay of norms"):
        parameter_groups(nn.Linear(1, 1), weight_decay=0, norm_decay=decay, embedding_decay=0)


def test_fused_where_torch_has_it() -> None:
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    assert set(_get_fused_kernels_supported_devices()) >= optim.FUSED_DEVICES
    for device, fused in (("cpu", True), ("meta", False)):
        parameter = nn.Parameter(torch.zeros(1, device=device))
        groups = [{"params": [parameter], "names": ["a"], "weight_decay": 0.0}]
        assert adamw(groups, 0.1).param_groups[0]["fused"] is fused


def test_clipping_in_a_step_ignores_the_scale_of_mixed_precision() -> None:
    """Of a loop that does not unscale the gradients itself, such as detectron2's."""

    def weight_after(scale: float) -> torch.Tensor:
        parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
        groups = [{"params": [parameter], "names": ["a"], "weight_decay": 0.0}]
        optimizer = adamw(groups, 0.1, max_norm=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(parameter.pow(2).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert float(parameter.grad.norm()) == pytest.approx(0.01, rel=1e-3)
        return parameter.detach()

    # At such a scale, clipped gradients that are divided by it fall to the size of AdamW's epsilon.
    torch.testing.assert_close(weight_after(2.0**16), weight_after(1.0))


def test_checkpoints_from_before_go_on(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run whose optimiser was not fused and named no parameters, as all were once; and its
    losses are those of now."""
    assert main(run.arguments("fused", "DATASETS.TEST", "()")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(optim, "FUSED_DEVICES", set())
        steps = ("SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
        assert main(run.arguments("plain", *steps)) == 0
    path = run.root / "plain" / "checkpoints" / "step_00000002.pt"
    saved = torch.load(path, weights_only=True)
    assert not saved["optimizer"]["param_groups"][0]["fused"]
    for group in saved["optimizer"]["param_groups"]:
        assert group.pop("param_names")
    torch.save(saved, path)
    assert main(run.arguments("plain", "DATASETS.TEST", "()", flags=("--resume",))) == 0
    saved = torch.load(run.root / "plain" / "checkpoints" / "step_00000004.pt", weights_only=True)
    assert saved["optimizer"]["param_groups"][0]["fused"]
    assert_close_losses(run, "plain", "fused")


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (1, 0.325), (3, 0.775), (4, 1.0), (9, 1.0), (10, 0.1), (19, 0.1), (20, 0.01)],
)
def test_schedule_by_hand(step: int, rate: float) -> None:
    schedule = Schedule(base=1.0, steps=(10, 20), gamma=0.1, warmup_factor=0.1, warmup_iters=4)
    assert schedule(step) == pytest.approx(rate, rel=1e-12)


def test_schedule_is_torch_s_multi_step() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5], gamma=0.5)
    ours = Schedule(base=0.3, steps=(3, 5), gamma=0.5)
    for step in range(8):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_cosine_by_hand() -> None:
    """The last step of the warm-up has the whole rate, and so has the first one behind it."""
    schedule = CosineSchedule(base=1.0, end=0.2, total=12, warmup_iters=3)
    expected = [0.0, 0.5, 1.0] + [0.2 + 0.4 * (1 + math.cos(math.pi * i / 9)) for i in range(9)]
    assert [schedule(step) for step in range(12)] == pytest.approx(expected, rel=1e-12)
    assert schedule(3) == 1.0 and schedule(12) == schedule(99) == pytest.approx(0.2)
    rising = CosineSchedule(base=0.01, end=0.4, total=4)
    assert [rising(step) for step in range(3)] == pytest.approx([0.01, 0.06711, 0.205], rel=1e-3)
    assert CosineSchedule(base=1.0, end=0.0, total=2, warmup_iters=5)(1) == 0.25
    assert CosineSchedule(base=1.0, end=0.0, total=2, warmup_iters=1)(0) == 0.0
    for values in ({"base": 0.1, "end": 2.0}, {"base": float("nan"), "end": 0.0}):
        with pytest.raises(UserError, match="both must be between 0 and 1"):
            CosineSchedule(**values, total=2)


def test_clipping_is_over_all_gradients_together() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert float(gradient_norm([first, second])) == 5.0
    assert first.grad.tolist() == [3.0, 0.0]
    gradient_norm([first, second], 0.5)
    torch.testing.assert_close(first.grad, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(second.grad, torch.tensor([0.4]))


def test_moving_average_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"weight": parameter}, decay=0.9)
    expected = 1.0
    for value in (2.0, 5.0):
        parameter.data.fill_(value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    with average.applied():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 5.0
    assert float(average.average["weight"]) == pytest.approx(expected)


def test_gpus_of_several_kinds_train_in_one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which each process would choose its own; one with bfloat16 learns of the others."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    device = torch.device("cuda", 0)
    for others, dtype in ((["bf16"], torch.bfloat16), (["fp16", "bf16"], torch.float16)):
        monkeypatch.setattr(optimization, "all_gather_json", lambda own, o=others: [own, *o])
        assert optimization._precision_of_all(device, mixed=True).dtype == dtype
    monkeypatch.setattr(optimization, "all_gather_json", lambda own: [own, own])
    assert optimization._precision_of_all(device, mixed=False).dtype is None
