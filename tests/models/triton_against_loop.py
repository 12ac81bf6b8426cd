"""Compare the Triton kernels with the loop over levels; see `test_ms_deform_triton.py`.

Run as a module with TRITON_INTERPRET=1, since Triton decides on import whether to interpret.
"""

import torch
from torch import Tensor

from frozenseg.models import ms_deform_triton
from frozenseg.models.ms_deform_loop import loop_over_levels
from frozenseg.models.ms_deform_triton import PART, deformable_triton
from frozenseg.runtime.triton_launch import kernels_work

Case = tuple[int, int, int, int, int, list[tuple[int, int]]]

# Images, queries, heads, points, channels, levels; some levels have a single row or column.
CASES: list[Case] = [
    (2, 11, 3, 4, 20, [(5, 7), (3, 4), (1, 6)]),
    (1, 9, 8, 2, 32, [(9, 1)]),
    (3, 1, 1, 1, 1, [(2, 2), (1, 1)]),
    *((1, 3, 2, 2, channels, [(3, 4), (2, 1)]) for channels in (4, 8, 16, 64, 128)),
]
HALF_CASE: Case = (2, 5, 3, 2, 20, [(5, 7), (1, 6)])
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def make_inputs(case: Case, device: str) -> list[Tensor]:
    """Return value, locations (some outside the maps), weights, and a gradient of the output."""
    images, queries, heads, points, channels, shapes = case
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(images, cells, heads, channels, generator=generator)
    layout = (images, queries, heads, len(shapes), points)
    locations = torch.rand(*layout, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(layout, generator=generator)
    grad = torch.randn(images, queries, heads * channels, generator=generator)
    return [tensor.to(device) for tensor in (value, locations, weights, grad)]


def results(
    inputs: list[Tensor], shapes: list[tuple[int, int]], *, triton: bool
) -> tuple[Tensor, ...]:
    """Return the output and its gradients with respect to value, locations and weights."""
    *leaves, grad = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in leaves]
    if triton:
        sizes = [height for height, _ in shapes], [width for _, width in shapes]
        output = deformable_triton(leaves[0], *sizes, *leaves[1:])
    else:
        output = loop_over_levels(leaves[0], shapes, *leaves[1:])
    return output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))


def compare(device: str) -> None:
    for case in CASES:
        inputs = make_inputs(case, device)
        expected = results(inputs, case[-1], triton=False)
        for ours, theirs in zip(results(inputs, case[-1], triton=True), expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)


def compare_half_precision(device: str) -> None:
    """Results equal those in float32, rounded once at the end, whichever inputs are rounded."""
    shapes = HALF_CASE[-1]
    value, locations, weights, grad = make_inputs(HALF_CASE, device)
    some = [value.half(), locations, weights, grad.half()]
    for given in (some, [tensor.bfloat16() for tensor in (value, locations, weights, grad)]):
        expected = results([tensor.float() for tensor in given], shapes, triton=False)
        ours = results(given, shapes, triton=True)
        kinds = [given[0].dtype, *(tensor.dtype for tensor in given[:3])]
        assert [tensor.dtype for tensor in ours] == kinds
        for mine, theirs in zip(ours, expected, strict=True):
            bound = CLOSE if mine.dtype == torch.float32 else {}  # {}: the defaults of the type
            torch.testing.assert_close(mine, theirs.to(mine.dtype), **bound)


def check_lost_positions(device: str) -> None:
    """Infinite locations are outside and sample zero; NaN affects only its own query and head."""
    value, locations, weights, _ = make_inputs(HALF_CASE, device)
    locations[0, 0, :, :, :, 0] = torch.inf
    locations[0, 1, :, :, :, 1] = -torch.inf
    locations[1, 2, 1, 0, 0, 0] = torch.nan
    sizes = [height for height, _ in HALF_CASE[-1]], [width for _, width in HALF_CASE[-1]]
    output = deformable_triton(value, *sizes, locations, weights).unflatten(-1, (3, 20))
    assert (output[0, :2] == 0).all()
    assert output[1, 2, 1].isnan().all() and output.isnan().sum() == 20


if __name__ == "__main__":
    ms_deform_triton.TILE = 2**10  # larger tiles, as the interpreter runs programs one by one
    compare("cpu")
    compare_half_precision("cpu")
    check_lost_positions("cpu")
    assert kernels_work(PART)  # otherwise, the loop has been compared with itself
