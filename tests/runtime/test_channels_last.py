"""Norms by kernels equal PyTorch's own."""

import pytest
import torch

from tests.kernels import run_interpreted

pytest.importorskip("triton", reason="triton is not installed")


def test_kernels_equal_pytorch_in_the_interpreter() -> None:
    run_interpreted("tests.runtime.channels_last_against_pytorch")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_equal_pytorch_on_a_gpu() -> None:
    from tests.runtime.channels_last_against_pytorch import compare

    compare("cuda")
