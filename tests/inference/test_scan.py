"""Post-processing with Triton kernels gives the same results as with operations of PyTorch."""

from types import SimpleNamespace

import pytest
import torch

from tests.kernels import run_interpreted

pytest.importorskip("triton", reason="triton is not installed")
MODULE = "tests.inference.scan_against_pytorch"


def test_kernels_equal_pytorch_in_the_interpreter() -> None:
    run_interpreted(MODULE, "some queries", "as it is")


def test_bands_of_a_very_high_image_fit_into_a_grid() -> None:
    from frozenseg.inference.scan import _Scan

    bands = []
    scan = _Scan.__new__(_Scan)  # without a GPU there are no kernels that could run
    scan.masks, scan.width, scan.counted = torch.zeros(1, 4, 4), 10, []
    scan.resizer = SimpleNamespace(
        output_size=(150_000, 10), cell_rows=lambda masks, first, last: torch.zeros(1, last - first)
    )
    scan._run_band = lambda start, cells: bands.append((start, cells.shape[1])) or True
    assert scan.run()
    assert bands == [(0, 65535), (65535, 65535), (131070, 18930)]


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
