"""Post-processing with Triton kernels gives the same results as with operations of PyTorch."""

import pytest
import torch

from tests.kernels import run_interpreted

pytest.importorskip("triton", reason="triton is not installed")
MODULE = "tests.inference.scan_against_pytorch"


def test_kernels_equal_pytorch_in_the_interpreter() -> None:
    run_interpreted(MODULE, "some queries", "as it is")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", ["upscaled", "downscaled", "a line"])
def test_other_results_and_sizes_equal_too(size: str) -> None:
    others = ("all", "semantic, with a threshold", "with scores and proposals")
    run_interpreted(MODULE, ";".join(others), size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_equal_pytorch_on_a_gpu() -> None:
    from tests.inference import scan_against_pytorch as against

    against.compare("cuda", list(against.PROCESSORS), list(against.SIZES))
