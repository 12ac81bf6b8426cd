"""The Triton kernels of deformable attention: their results, and the fallback if they do not
compile."""

import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from frozenseg.models import ms_deform_attn
from frozenseg.models.ms_deform_attn import deformable_attention, triton_operator
from frozenseg.models.ms_deform_loop import loop_gradients, loop_over_levels
from frozenseg.runtime import triton_launch
from frozenseg.runtime.triton_launch import kernels_work, runs_triton
from tests.kernels import run_interpreted
from tests.models.test_ms_deform_attn import SHAPES, random_inputs, with_gradients

pytest.importorskip("triton", reason="triton is not installed")


def test_kernels_equal_the_loop_in_the_interpreter() -> None:
    run_interpreted("tests.models.triton_against_loop")


class Broken:
    """A kernel that does not compile."""

    fn = loop_over_levels

    def __init__(self) -> None:
        self.tries = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*tensors: Tensor, **sizes: int) -> None:
            self.tries += 1
            raise RuntimeError("PassManager::run failed\n(a page of the compiler's output)")

        return launch


class Silent:
    """A kernel that seems to succeed, but does nothing."""

    fn = loop_over_levels

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda *tensors, **sizes: None


@pytest.fixture
def triton_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Triton module before its first kernel was tried, on a CPU that is treated as a GPU."""
    from frozenseg.models import ms_deform_triton

    monkeypatch.setattr(triton_launch, "_failed", set())
    monkeypatch.setattr(ms_deform_attn, "runs_triton", lambda *tensors: True)
    return ms_deform_triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_no_kernel_compiles_the_loop_takes_its_place(
    dtype: torch.dtype,
    triton_module: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forward, backward = Broken(), Broken()
    monkeypatch.setattr(triton_module, "deformable_forward", forward)
    monkeypatch.setattr(triton_module, "deformable_backward", backward)
    inputs = [tensor.to(dtype) for tensor in random_inputs(SHAPES, torch.float32)]
    expected = with_gradients(loop_over_levels, [tensor.float() for tensor in inputs], SHAPES)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = with_gradients(deformable_attention, inputs, SHAPES)
    assert all(tensor.dtype == dtype for tensor in found)
    torch.testing.assert_close(found[0], expected[0].to(dtype))
    if dtype == torch.float32:
        torch.testing.assert_close(found[1:], expected[1:])
    assert (forward.tries, backward.tries) == (1, 0)
    (message,) = caplog.messages
    assert "the kernel loop_over_levels of Triton" in message
    assert "RuntimeError: PassManager::run failed (a page" in message
    assert not kernels_work(triton_module.PART)


def test_where_the_backward_kernel_alone_fails_its_gradients_are_the_loop_s(
    triton_module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(triton_module, "deformable_forward", Silent())
    monkeypatch.setattr(triton_module, "deformable_backward", Broken())
    inputs = random_inputs(SHAPES, torch.float32)
    first = with_gradients(deformable_attention, inputs, SHAPES)
    expected = with_gradients(loop_over_levels, inputs, SHAPES)
    torch.testing.assert_close(first[1:], expected[1:])
    second = with_gradients(deformable_attention, inputs, SHAPES)
    torch.testing.assert_close(second, expected)
    assert len(caplog.messages) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels start here")
def test_on_a_machine_without_a_driver_the_loop_takes_its_place(
    triton_module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is simulated here: Triton itself raises the error."""
    inputs = random_inputs(SHAPES, torch.float32)
    found = with_gradients(deformable_attention, inputs, SHAPES)
    torch.testing.assert_close(found, with_gradients(loop_over_levels, inputs, SHAPES))
    (message,) = caplog.messages
    assert "the kernel deformable_forward of Triton" in message


def test_a_triton_that_cannot_be_imported_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ms_deform_attn, "runs_triton", lambda *tensors: True)
    monkeypatch.setitem(sys.modules, "frozenseg.models.ms_deform_triton", None)
    triton_operator.cache_clear()
    inputs = random_inputs(SHAPES, torch.float32)
    for _ in range(2):
        found = with_gradients(deformable_attention, inputs, SHAPES)
    triton_operator.cache_clear()
    torch.testing.assert_close(found, with_gradients(loop_over_levels, inputs, SHAPES))
    (message,) = caplog.messages
    assert "Triton cannot be imported (ModuleNotFoundError" in message


def test_no_queries_and_no_channels(triton_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken()
    monkeypatch.setattr(triton_module, "deformable_forward", broken)
    value, locations, weights = random_inputs(SHAPES, torch.float32, queries=0)
    assert deformable_attention(value, SHAPES, locations, weights).shape == (2, 0, 15)
    value, locations, weights = random_inputs(SHAPES, torch.float32)
    assert deformable_attention(value[..., :0], SHAPES, locations, weights).shape == (2, 29, 0)
    assert broken.tries == 0


@pytest.mark.parametrize("shapes", [SHAPES, [(1, 1), (1, 6), (6, 1)]])
def test_gradients_of_the_loop_are_those_of_autograd(shapes: list[tuple[int, int]]) -> None:
    inputs = random_inputs(shapes, torch.float64)
    output, *expected = with_gradients(loop_over_levels, inputs, shapes)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = loop_gradients(grad, inputs[0], shapes, *inputs[1:])
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_equal_the_loop_on_a_gpu() -> None:
    from frozenseg.models.ms_deform_triton import PART
    from tests.models import triton_against_loop

    triton_against_loop.compare("cuda")
    triton_against_loop.compare_half_precision("cuda")
    triton_against_loop.check_lost_positions("cuda")
    inputs = [tensor.cuda() for tensor in random_inputs(SHAPES, torch.float32)]
    assert runs_triton(*inputs)
    expected = loop_over_levels(inputs[0], SHAPES, *inputs[1:])
    ours = deformable_attention(inputs[0], SHAPES, *inputs[1:])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert kernels_work(PART)


def test_tables_stay_for_the_graphs_that_read_them() -> None:
    """They are kept for any number of image sizes, because a CUDA graph does not keep a table
    alive."""
    from frozenseg.models.ms_deform_triton import _level_table

    tables = [_level_table((n,), (n,), torch.device("cpu")) for n in range(1, 200)]
    assert _level_table((1,), (1,), torch.device("cpu")) is tables[0]
