import torch

from frozenseg.losses.points import sample_logits, sample_masks, uncertain_points

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
    chosen = uncertain_points(masks, **settings, generator=torch.Generator().manual_seed(5))
    replay = torch.Generator().manual_seed(5)
    candidates = torch.rand(3, 120, 2, generator=replay)
    rest = torch.rand(3, 10, 2, generator=replay)
    for mask, points, options, drawn in zip(masks, chosen, candidates, rest, strict=True):
        order = values_at(mask, options).abs().argsort()[:30]
        expected = {tuple(point) for point in options[order].tolist()}
        assert {tuple(point) for point in points[:30].tolist()} == expected
        assert torch.equal(points[30:], drawn)


def test_importance_may_be_none_or_all() -> None:
    masks = torch.randn(2, 6, 6)
    for ratio in (0.0, 1.0):
        points = uncertain_points(
            masks, num_points=16, oversample_ratio=1.0, importance_sample_ratio=ratio
        )
        assert points.shape == (2, 16, 2)
        assert points.min() >= 0 and points.max() <= 1
