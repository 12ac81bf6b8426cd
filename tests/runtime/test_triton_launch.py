"""What happens where a kernel of Triton fails: one line, and PyTorch does the work."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from frozenseg.runtime import channels_last, triton_launch
from frozenseg.runtime.channels_last import depthwise_layer_norm, group_norm
from frozenseg.runtime.triton_launch import kernels_work, launch

pytest.importorskip("triton", reason="triton is not installed")


class Broken:
    """A kernel that does not compile."""

    fn = F.layer_norm
    tries = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*tensors: Any, **sizes: Any) -> None:
            self.tries += 1
            raise RuntimeError("PassManager::run failed\n(a page of the compiler's own)")

        return run


@pytest.fixture(autouse=True)
def _nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "_failed", set())


def test_a_part_whose_kernel_failed_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    broken, other = Broken(), Broken()
    given: dict[str, Any] = {"instead": "a loop takes its place"}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not launch("norms", broken, (1,), torch.zeros(1), **given)
    assert (broken.tries, kernels_work("norms"), kernels_work("sums")) == (1, False, True)
    assert not launch("sums", other, (1,), torch.zeros(1), **given)
    first, second = caplog.messages
    assert first.startswith("norms: the kernel layer_norm of Triton")
    assert "PassManager::run failed (a page" in first and "a loop takes its place" in first
    assert second.startswith("sums: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels start here")
def test_norms_are_pytorch_s_on_a_machine_without_a_driver(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is made up here: Triton itself raises."""
    cells, taps, bias = torch.randn(2, 5, 6, 8), torch.randn(7, 7, 8), torch.randn(8)
    scale, shift = torch.randn(2, 8)
    found = depthwise_layer_norm(cells, taps, bias, scale, shift, 1e-6)
    maps, weight = cells.permute(0, 3, 1, 2), taps.permute(2, 0, 1)[:, None]
    mixed = F.conv2d(maps, weight, bias, padding=3, groups=8).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, F.layer_norm(mixed, (8,), scale, shift, 1e-6))
    normed = group_norm(maps, 4, scale, shift, 1e-5, True)
    torch.testing.assert_close(normed, F.group_norm(maps, 4, scale, shift, 1e-5).relu())
    (message,) = caplog.messages
    assert message.startswith(f"{channels_last.PART}: the kernel depthwise_norm of Triton")
