import torch

from frozenseg.losses.points import (
    random_points,
    sample_logits,
    sample_masks,
    stream_keys,
    uncertain_points,
)

from .slow_criterion import values_at

# The corners, the borders, and points around the outermost pixel centres, which mix in zeros.
EDGES = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.999, 0.001], [0.5, 0.0], [0.02, 0.98]])


def test_logits_are_sampled_between_four_neighbours_and_zeros_outside() -> None:
    maps = torch.randn(2, 3, 5, 7)
    points = torch.cat([torch.rand(2, 20, 2), EDGES.expand(2, -1, -1)], dim=1)
    sampled = sample_logits(maps, points)
    for image in range(2):
        for channel in range(3):
            expected = values_at(maps[image, channel], points[image])
            torch.testing.assert_close(sampled[image, channel], expected)


def test_masks_are_sampled_like_logits_without_becoming_floats() -> None:
    masks = torch.rand(3, 9, 6) < 0.5
    rows = torch.tensor([2, 0, 2, 1])
    points = torch.cat([torch.rand(4, 200, 2), EDGES.expand(4, -1, -1)], dim=1)
    expected = sample_logits(masks[rows].unsqueeze(1).float(), points).squeeze(1)
    torch.testing.assert_close(sample_masks(masks, rows, points), expected)
    slow = values_at(masks[2].float(), points[0])
    torch.testing.assert_close(sample_masks(masks, rows, points)[0], slow)


def test_half_precision_maps_are_sampled_with_exact_points() -> None:
    maps = torch.randn(1, 1, 64, 64)
    points = torch.rand(1, 500, 2)
    sampled = sample_logits(maps.bfloat16(), points)
    torch.testing.assert_close(sampled, sample_logits(maps.bfloat16().float(), points))
    assert sampled.dtype == torch.float32


def test_uncertain_points_are_those_with_the_smallest_logits() -> None:
    masks = torch.randn(3, 6, 6)
    settings = {"num_points": 40, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75}
    keys = torch.tensor([5, 6, 7])
    chosen = uncertain_points(masks, keys, **settings)
    candidates, rest = random_points(keys, 130).split([120, 10], dim=1)
    for mask, points, options, drawn in zip(masks, chosen, candidates, rest, strict=True):
        order = values_at(mask, options).abs().argsort()[:30]
        expected = {tuple(point) for point in options[order].tolist()}
        assert {tuple(point) for point in points[:30].tolist()} == expected
        assert torch.equal(points[30:], drawn)


def test_importance_may_be_none_or_all() -> None:
    masks = torch.randn(2, 6, 6)
    for ratio in (0.0, 1.0):
        points = uncertain_points(
            masks,
            torch.arange(2),
            num_points=16,
            oversample_ratio=1.0,
            importance_sample_ratio=ratio,
        )
        assert points.shape == (2, 16, 2)
        assert points.min() >= 0 and points.max() <= 1


def test_random_points_are_splitmix64() -> None:
    """Against Python's whole numbers; the first output for key 0 is published."""

    def mix(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        return bits ^ bits >> 31

    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # from the authors' reference program
    keys = [0, 12345, -(2**63), 2**63 - 1]
    found = random_points(torch.tensor(keys), 5)
    for key, points in zip(keys, found.tolist(), strict=True):
        for number, point in enumerate(points, 1):
            bits = mix((key + number * 0x9E3779B97F4A7C15) % 2**64)
            assert point == [(bits >> 40) / 2**24, (bits >> 16) % 2**24 / 2**24]


def test_random_points_are_uniform_and_streams_apart() -> None:
    keys = stream_keys(torch.tensor([0, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    points = random_points(keys, 20000)
    assert points.min() >= 0 and points.max() < 1
    counts = torch.histc(points.flatten(), bins=10, min=0, max=1) / points.numel()
    assert (counts - 0.1).abs().max() < 0.003  # 400,000 numbers: the deviation is about 0.0005
    flat = points.permute(0, 2, 1).flatten(0, 1)
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 0.04  # 20,000 pairs: the deviation is about 0.007
