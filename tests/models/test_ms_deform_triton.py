"""The Triton kernels of deformable attention: what they compute, that they compile, and what
happens where they do not."""

import logging
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from frozenseg.models import ms_deform_attn
from frozenseg.models.ms_deform_attn import deformable_attention, runs_triton, triton_operator
from frozenseg.models.ms_deform_loop import loop_gradients, loop_over_levels
from tests.models.test_ms_deform_attn import SHAPES, random_inputs, with_gradients

pytest.importorskip("triton", reason="triton is not installed")
OTHER_VERSIONS = ("3.2.0", "3.6.0", "3.7.1", "3.8.0", "3.9.0")


def run_module(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which finds what this one does."""
    path = os.pathsep.join((environment.pop("first", ""), *sys.path))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.models.{name}", *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path.lstrip(os.pathsep)},
        capture_output=True,
        text=True,
    )


def test_kernels_equal_the_loop_in_the_interpreter() -> None:
    """Triton must know when it is imported that it is to interpret."""
    done = run_module("triton_against_loop", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_kernels_compile_for_a_gpu_that_is_not_here(
    kernel: str, aligned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes more than the compiler does."""
    from tests.models.compile_triton import CHANNELS, Case

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for channels in CHANNELS:
        Case(kernel, channels, aligned).compile()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_kernels_compile_with_other_versions_of_triton(version: str, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    target = tmp_path / "packages"
    done = subprocess.run(
        [*install, "--target", str(target), f"triton=={version}"], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"no triton {version} for Python {platform.python_version()}: {reason}")
    # Those of 3.6 and 3.7 have failed here, so they compile all that is launched.
    types = ("fp32", "bf16 autocast") if version in ("3.6.0", "3.7.1") else ("fp32",)
    compiled = run_module(
        "compile_triton",
        *types,
        first=str(target),
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert compiled.stdout == f"Triton {version}: 0 failures\n", compiled.stderr


class Broken:
    """A kernel that does not compile."""

    fn = loop_over_levels

    def __init__(self) -> None:
        self.tries = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*tensors: Tensor, **sizes: int) -> None:
            self.tries += 1
            raise RuntimeError("PassManager::run failed\n(a page of the compiler's own)")

        return launch


class Silent:
    """A kernel that works, as far as its caller can see, and leaves everything as it is."""

    fn = loop_over_levels

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda *tensors, **sizes: None


@pytest.fixture
def triton_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As it is before the first kernel was tried, on a CPU that is taken for a GPU."""
    from frozenseg.models import ms_deform_triton

    monkeypatch.setattr(ms_deform_triton, "_kernels_failed", threading.Event())
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
    assert not triton_module.kernels_work()


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
def test_a_machine_without_a_driver_is_such_a_machine(
    triton_module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is made up here: Triton itself raises."""
    inputs = random_inputs(SHAPES, torch.float32)
    found = with_gradients(deformable_attention, inputs, SHAPES)
    torch.testing.assert_close(found, with_gradients(loop_over_levels, inputs, SHAPES))
    (message,) = caplog.messages
    assert "the kernel deformable_forward of Triton" in message


def test_a_triton_that_cannot_be_imported_is_told_of_once(
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
    from frozenseg.models.ms_deform_triton import kernels_work
    from tests.models import triton_against_loop

    triton_against_loop.compare("cuda")
    triton_against_loop.compare_half_precision("cuda")
    triton_against_loop.check_lost_positions("cuda")
    inputs = [tensor.cuda() for tensor in random_inputs(SHAPES, torch.float32)]
    assert runs_triton(*inputs)
    expected = loop_over_levels(inputs[0], SHAPES, *inputs[1:])
    ours = deformable_attention(inputs[0], SHAPES, *inputs[1:])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert kernels_work()
