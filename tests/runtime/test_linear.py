"""Linear layers with what follows them: the same numbers fused and not, and when they are fused."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from frozenseg.runtime.linear import (
    Int8Linear,
    PrepackedLinear,
    apply_linear,
    linear,
    onednn_present,
    prepack,
    runs_fused,
    to_int8,
    whole_numbers,
)

needs_onednn = pytest.mark.skipif(
    not onednn_present(), reason="this PyTorch has no fused linear layer for this CPU"
)
X, WEIGHT, BIAS = torch.randn(2, 5, 7, 24), torch.randn(11, 24), torch.randn(11)
RESIDUAL = torch.randn(2, 11, 5, 7).permute(0, 2, 3, 1)  # not contiguous


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:TF32")  # PyTorch's own, when oneDNN is switched off
@pytest.mark.parametrize("fused", [pytest.param(True, marks=needs_onednn), False])
@pytest.mark.parametrize("bias", [BIAS, None])
def test_it_is_the_product_then_what_follows(fused: bool, bias: torch.Tensor | None) -> None:
    expected = X.double() @ WEIGHT.double().T + (0 if bias is None else bias.double())
    with torch.backends.mkldnn.flags(enabled=fused):
        assert runs_fused(X, WEIGHT) == fused
        for x in (X, X.transpose(1, 2).contiguous().transpose(1, 2)):
            for found, wanted in (
                (linear(x, WEIGHT, bias), expected),
                (linear(x, WEIGHT, bias, activation="relu"), expected.clamp_min(0)),
                (linear(x, WEIGHT, bias, activation="gelu"), F.gelu(expected)),
                (
                    linear(x, WEIGHT, bias, activation="gelu_tanh"),
                    F.gelu(expected, approximate="tanh"),
                ),
                (linear(x, WEIGHT, bias, residual=RESIDUAL), expected + RESIDUAL.double()),
            ):
                assert found.shape == (2, 5, 7, 11)
                torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_in_nothing_out() -> None:
    assert linear(X[:0], WEIGHT, BIAS, activation="relu").shape == (0, 5, 7, 11)


def test_a_layer_that_trains_gets_its_gradients() -> None:
    layer = torch.nn.Linear(24, 11)
    assert not runs_fused(X, layer.weight)
    apply_linear(layer, X, activation="relu").sum().backward()
    ours = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    F.relu(layer(X)).sum().backward()
    for found, parameter in zip(ours, layer.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


@torch.no_grad()
def test_not_in_half_precision_and_not_in_a_compiled_graph() -> None:
    assert not runs_fused(X.bfloat16(), WEIGHT.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs_fused(X, WEIGHT)
        assert linear(X, WEIGHT, BIAS).dtype == torch.bfloat16
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        return linear(x, WEIGHT, BIAS, activation="gelu")

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    found = torch.compile(function, backend=backend, fullgraph=True)(X)
    assert not any("pointwise" in target for target in seen)
    torch.testing.assert_close(found, F.gelu(F.linear(X, WEIGHT, BIAS)), atol=1e-5, rtol=1e-5)


def test_one_thing_follows() -> None:
    with pytest.raises(ValueError, match="either an activation or a residual"):
        linear(X, WEIGHT, activation="relu", residual=RESIDUAL)


def packed_layer() -> tuple[torch.nn.Linear, dict[str, torch.Tensor]]:
    """A packed layer, and its state before."""
    layer = torch.nn.Linear(24, 11).requires_grad_(False)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    prepack(layer)
    assert type(layer) is PrepackedLinear
    return layer, state


def same_state(layer: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    found = layer.state_dict()
    return found.keys() == state.keys() and all(
        torch.equal(found[name], value) for name, value in state.items()
    )


@needs_onednn
@pytest.mark.parametrize("rows", [1, 7, 300])  # no layout is only for the rows it was made with
def test_a_packed_layer_computes_the_same(rows: int) -> None:
    layer, state = packed_layer()
    x, residual = torch.randn(rows, 24), torch.randn(rows, 11)
    product = x.double() @ state["weight"].double().T + state["bias"].double()
    for found, wanted in (
        (layer(x), product),
        (apply_linear(layer, x, activation="gelu"), F.gelu(product)),
        (apply_linear(layer, x, residual=residual), product + residual),
    ):
        torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)


@needs_onednn
def test_a_packed_layer_runs_where_nothing_is_fused() -> None:
    layer, state = packed_layer()
    x = torch.randn(3, 24, requires_grad=True)
    F.relu(layer(x)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = F.linear(x, state["weight"], state["bias"])
        assert torch.equal(layer(x), wanted)


@needs_onednn
def test_a_packed_layer_shows_its_plain_weight() -> None:
    layer, state = packed_layer()
    assert torch.equal(layer.weight, state["weight"])
    assert same_state(layer, state)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]  # no second copy is held
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied) is torch.nn.Linear and same_state(copied, state)
    assert type(layer) is PrepackedLinear


@needs_onednn
def test_a_packed_layer_is_plain_again_once_it_is_loaded_moved_or_cast() -> None:
    layer, state = packed_layer()
    other = {name: value + 1 for name, value in state.items()}
    model = torch.nn.Sequential(layer)
    model.load_state_dict({f"0.{name}": value for name, value in other.items()})
    assert type(layer) is torch.nn.Linear and same_state(layer, other)
    assert not layer.weight.requires_grad
    layer, state = packed_layer()
    torch.nn.Sequential(layer).double()
    assert type(layer) is torch.nn.Linear and layer.weight.dtype == torch.float64
    assert torch.equal(layer.weight, state["weight"].double())


def test_what_trains_or_cannot_be_packed_stays() -> None:
    trained = torch.nn.Linear(24, 11)
    half = torch.nn.Linear(24, 11).requires_grad_(False).bfloat16()
    other = torch.nn.modules.linear.NonDynamicallyQuantizableLinear(24, 11).requires_grad_(False)
    for layer in (trained, half, other):
        before = type(layer)
        prepack(layer)
        assert type(layer) is before


@needs_onednn
@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])  # inputs of one sign too
def test_a_layer_in_int8_is_the_product_of_rounded_numbers(shift: float) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 11).requires_grad_(False)
    x, residual = torch.randn(300, 24) + shift, torch.randn(300, 11)
    exact = {name: value.double() for name, value in layer.state_dict().items()}
    to_int8(layer)
    assert type(layer) is Int8Linear
    numbers, scale, zero = whole_numbers(x)
    rounded = (numbers.double() - zero) * scale
    assert (rounded - x).abs().max() <= 0.5001 * scale and 0 <= zero <= 255
    step = exact["weight"].abs().amax(1, keepdim=True) / 127
    weight = (exact["weight"] / step).round() * step
    product = rounded @ weight.T + exact["bias"]
    for found, wanted in (
        (layer(x), product),
        (apply_linear(layer, x, activation="gelu"), F.gelu(product)),
        (apply_linear(layer, x, activation="relu"), F.relu(product)),
        (apply_linear(layer, x, residual=residual), product + residual),
    ):
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)
    assert same_state(layer, {name: value.float() for name, value in exact.items()})
    assert torch.equal(layer(x[:0]), x.new_zeros(0, 11))
    assert torch.isfinite(layer(torch.zeros(2, 24))).all()


@needs_onednn
def test_a_layer_in_int8_follows_new_weights_and_copies_plainly() -> None:
    layer = torch.nn.Linear(24, 11).requires_grad_(False)
    to_int8(layer)
    x, doubled = torch.randn(5, 24), {n: 2 * value for n, value in layer.state_dict().items()}
    before = layer(x)
    layer.load_state_dict(doubled)
    torch.testing.assert_close(layer(x), 2 * before)
    assert type(copy.deepcopy(layer)) is torch.nn.Linear
    assert same_state(pickle.loads(pickle.dumps(layer)), doubled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
