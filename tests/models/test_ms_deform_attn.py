"""Deformable attention, compared with sampling in loops, one value at a time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from frozenseg.models import ms_deform_gather
from frozenseg.models.ms_deform_attn import (
    DeformableAttention,
    deformable_attention,
    reference_points,
    remap_to_single_level,
    small_softmax,
)
from frozenseg.models.ms_deform_loop import loop_over_levels
from frozenseg.runtime.triton_launch import runs_triton

SHAPES = [(3, 5), (6, 4), (2, 7)]


def sample_by_hand(level: np.ndarray, x: float, y: float) -> np.ndarray:
    """Return the bilinear sample of (h, w, C) at (x, y) in 0-1; cell i of n has its centre at
    (i + 0.5) / n."""
    height, width = level.shape[:2]
    column, row = x * width - 0.5, y * height - 0.5
    total = np.zeros(level.shape[-1])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def attention_by_hand(
    value: np.ndarray, shapes: list[tuple[int, int]], locations: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    batch, length, heads, levels, points = weights.shape
    output = np.zeros((batch, length, heads, value.shape[-1]))
    for image, query, head, number, point in np.ndindex(batch, length, heads, levels, points):
        start = sum(h * w for h, w in shapes[:number])
        height, width = shapes[number]
        level = value[image, start : start + height * width, head].reshape(height, width, -1)
        x, y = locations[image, query, head, number, point]
        output[image, query, head] += weights[image, query, head, number, point] * sample_by_hand(
            level, x, y
        )
    return output.reshape(batch, length, -1)


@pytest.mark.parametrize("way", [deformable_attention, loop_over_levels])
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], [(1, 1), (1, 6), (6, 1)]])
def test_equals_the_loop_on_several_levels_and_outside_the_map(
    shapes: list[tuple[int, int]], way: Callable[..., Tensor]
) -> None:
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(2, cells, 2, 3, dtype=torch.float64)
    # From -0.3 to 1.3: many samples lie outside the map, and some across its border.
    locations = torch.rand(2, 5, 2, len(shapes), 4, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 5, 2, len(shapes), 4, dtype=torch.float64)
    expected = attention_by_hand(value.numpy(), shapes, locations.numpy(), weights.numpy())
    ours = way(value, shapes, locations, weights)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def random_inputs(
    shapes: list[tuple[int, int]], dtype: torch.dtype, queries: int = 29
) -> list[Tensor]:
    """Return value, locations (some outside the maps) and weights of 2 images, 3 heads, 2 points
    and 5 channels."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)
    layout = (2, queries, 3, len(shapes), 2)
    value = torch.randn(2, cells, 3, 5, generator=generator, dtype=dtype)
    locations = torch.rand(*layout, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    return [value, locations, torch.rand(layout, generator=generator, dtype=dtype)]


def with_gradients(
    way: Callable[..., Tensor], inputs: list[Tensor], shapes: list[tuple[int, int]]
) -> tuple[Tensor, ...]:
    """Return the output and its gradients with respect to value, locations and weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = way(leaves[0], shapes, *leaves[1:])
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, grad)


@pytest.mark.parametrize("shapes", [SHAPES, [(1, 1), (1, 6), (6, 1)], [(20, 31), (10, 16)]])
@pytest.mark.parametrize(
    ("dtype", "bounds"), [(torch.float64, (1e-12, 1e-10)), (torch.float32, (1e-5, 1e-4))]
)
def test_gradients_equal_those_of_grid_sample(
    shapes: list[tuple[int, int]],
    dtype: torch.dtype,
    bounds: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With 18 samples per query at three levels, and 24 cells per bag, there are several chunks, and
    # the last one is shorter.
    monkeypatch.setattr(ms_deform_gather, "CHUNK_SAMPLES", 18 * 7)
    monkeypatch.setattr(ms_deform_gather, "CHUNK_CELLS", 24 * 4)
    inputs = random_inputs(shapes, dtype)
    ours = with_gradients(deformable_attention, inputs, shapes)
    theirs = with_gradients(loop_over_levels, inputs, shapes)
    absolute, relative = bounds
    torch.testing.assert_close(ours[0], theirs[0], atol=absolute, rtol=0)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        largest = other.abs().max().item()
        torch.testing.assert_close(mine, other, atol=relative * largest, rtol=0)


def test_gradients_at_cell_centres_are_those_to_the_right() -> None:
    """At cell centres, bilinear samples have a kink. New weights sample only there, and
    `grid_sample` takes the gradient to the right."""
    shapes = [(4, 8), (2, 1)]
    value, locations, weights = random_inputs(shapes, torch.float32, queries=12)
    columns = torch.arange(-2, 10).view(1, 12, 1, 1)  # all cells, and some on both sides outside
    for level, (height, width) in enumerate(shapes):
        locations[:, :, :, level, :, 0] = (columns + 0.5) / width
        locations[:, :, :, level, :, 1] = (columns % (height + 2) - 0.5) / height
    ours = with_gradients(deformable_attention, [value, locations, weights], shapes)
    theirs = with_gradients(loop_over_levels, [value, locations, weights], shapes)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_lost_positions() -> None:
    """Locations that are infinite or far away are outside and sample zero; NaN affects only its own
    query and head."""
    shapes = [(5, 7), (1, 6)]
    value, locations, weights = random_inputs(shapes, torch.float32)
    locations[0, 0, :, :, :, 0] = torch.inf
    locations[0, 1, :, :, :, 1] = -torch.inf
    locations[0, 2] = 1e30
    locations[1, 2, 1, 0, 0, 0] = torch.nan
    output, by_value, _, _ = with_gradients(
        deformable_attention, [value, locations, weights], shapes
    )
    output = output.unflatten(-1, (3, 5))
    assert (output[0, :3] == 0).all()
    assert output[1, 2, 1].isnan().all() and output.isnan().sum() == 5
    assert by_value[0].isfinite().all()


def test_half_precision_is_rounded_once_at_the_end() -> None:
    inputs = [tensor.bfloat16() for tensor in random_inputs(SHAPES, torch.float32)]
    ours = deformable_attention(inputs[0], SHAPES, *inputs[1:])
    exact = loop_over_levels(inputs[0].double(), SHAPES, *(x.double() for x in inputs[1:]))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, exact.bfloat16())


def test_training_may_follow_inference_mode() -> None:
    """Tables for a size may be created in inference mode; autograd must not get such tensors."""
    shapes = [(3, 11)]  # no other test uses them
    inputs = random_inputs(shapes, torch.float32)
    with torch.inference_mode():
        expected = deformable_attention(inputs[0], shapes, *inputs[1:])
    torch.testing.assert_close(with_gradients(deformable_attention, inputs, shapes)[0], expected)


@pytest.mark.slow
def test_the_operator_can_be_compiled() -> None:
    """Run PyTorch's own checks of shapes, changes in place and the graph of the gradients."""
    inputs = [tensor.requires_grad_() for tensor in random_inputs([(2, 3)], torch.float32, 2)]
    torch.library.opcheck(
        ms_deform_gather.deformable_gather, (inputs[0], [2], [3], inputs[1], inputs[2])
    )


def test_other_devices_take_the_loop() -> None:
    """Triton is only used on CUDA. Every machine has `meta` as an example of another device."""
    inputs = [tensor.to("meta") for tensor in random_inputs(SHAPES, torch.float32)]
    assert not runs_triton(*inputs) and not runs_triton(*random_inputs(SHAPES, torch.float32))
    assert deformable_attention(inputs[0], SHAPES, *inputs[1:]).shape == (2, 29, 15)


def test_softmax_of_few_is_the_softmax() -> None:
    x = 100 * torch.randn(3, 5, 12)
    with torch.no_grad():
        found = small_softmax(x)
    torch.testing.assert_close(found, x.softmax(-1))
    torch.testing.assert_close(small_softmax(x), x.softmax(-1), rtol=0, atol=0)


def test_remapping_takes_consecutive_entries_of_the_flat_buffers() -> None:
    images, queries, heads, levels, points = 2, 7, 4, 3, 4
    locations = torch.randn(images, queries, heads, levels, points, 2)
    weights = torch.randn(images, queries, heads, levels, points)
    ours_locations, ours_weights = remap_to_single_level(locations, weights, 1)
    assert ours_weights.shape == (images, queries, heads, 1, points)
    for image in range(images):
        flat_locations = locations[image].reshape(-1, 2)
        flat_weights = weights[image].reshape(-1)
        for query in range(queries):
            for head in range(heads):
                sample = query * heads + head
                for point in range(points):
                    position = 4 * sample + point
                    entry = (image, query, head, 0, point)
                    assert torch.equal(ours_locations[entry], flat_locations[position])
                    assert ours_weights[entry] == flat_weights[position]


def test_remapping_with_as_many_levels_as_built_changes_nothing() -> None:
    locations, weights = torch.randn(1, 5, 2, 3, 4, 2), torch.randn(1, 5, 2, 3, 4)
    same = remap_to_single_level(locations, weights, 3)
    assert torch.equal(same[0], locations) and torch.equal(same[1], weights)


def make_attention(levels: int) -> DeformableAttention:
    attention = DeformableAttention(dim=16, num_levels=levels, num_heads=4, num_points=2)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention.double()


def test_module_equals_the_loop() -> None:
    """The loop has the projections, offsets in cells of each level, and one softmax over all levels
    and points."""
    attention = make_attention(3)
    cells = sum(height * width for height, width in SHAPES)
    tokens = torch.randn(2, cells, 16, dtype=torch.float64)
    positions = torch.randn(1, cells, 16, dtype=torch.float64)
    query = tokens + positions
    references = reference_points(tuple(SHAPES), torch.device("cpu")).double()
    with torch.no_grad():
        ours = attention(tokens, positions, references, SHAPES)
        offsets = attention.sampling_offsets(query).view(2, cells, 4, 3, 2, 2).numpy()
        scores = attention.attention_weights(query).view(2, cells, 4, 6)
        weights = (scores.exp() / scores.exp().sum(-1, keepdim=True)).view(2, cells, 4, 3, 2)
        value = attention.value_proj(tokens).view(2, cells, 4, 4)
        locations = np.empty((2, cells, 4, 3, 2, 2))
        for number, (height, width) in enumerate(SHAPES):
            locations[..., number, :, 0] = (
                references.numpy()[None, :, None, None, 0] + offsets[..., number, :, 0] / width
            )
            locations[..., number, :, 1] = (
                references.numpy()[None, :, None, None, 1] + offsets[..., number, :, 1] / height
            )
        expected = attention.output_proj(
            torch.from_numpy(attention_by_hand(value.numpy(), SHAPES, locations, weights.numpy()))
        )
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


def test_an_attention_for_three_levels_reads_one_level_image_by_image() -> None:
    """Given one level, each image has the same result as alone, unlike with the published CUDA
    kernel."""
    attention = make_attention(3)
    shapes = [(4, 4)]
    tokens = torch.randn(2, 16, 16, dtype=torch.float64)
    positions = torch.randn(1, 16, 16, dtype=torch.float64)
    references = reference_points(tuple(shapes), torch.device("cpu")).double()
    with torch.no_grad():
        both = attention(tokens, positions, references, shapes)
        single = [attention(alone, positions, references, shapes) for alone in tokens.split(1)]
    torch.testing.assert_close(both, torch.cat(single), atol=1e-12, rtol=0)


def test_offsets_begin_as_directions_of_growing_length() -> None:
    attention = DeformableAttention(dim=32, num_levels=3, num_heads=8, num_points=4)
    assert not attention.sampling_offsets.weight.any()
    bias = attention.sampling_offsets.bias.detach().view(8, 3, 4, 2)
    # Head m has the direction of angle 2 pi m / 8, scaled to the border of the unit square.
    expected = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(expected):
        for level in range(3):
            for point in range(4):
                wanted = torch.tensor(direction, dtype=torch.float32) * (point + 1)
                torch.testing.assert_close(bias[head, level, point], wanted, atol=1e-5, rtol=0)
    # Initially, all samples of a query have equal weights.
    assert not attention.attention_weights.weight.any()
    assert not attention.attention_weights.bias.any()


def test_reference_points_are_cell_centres_as_x_y() -> None:
    points = reference_points(((2, 3), (1, 1)), torch.device("cpu"))
    expected = [((j + 0.5) / 3, (i + 0.5) / 2) for i in range(2) for j in range(3)] + [(0.5, 0.5)]
    torch.testing.assert_close(points, torch.tensor(expected))
