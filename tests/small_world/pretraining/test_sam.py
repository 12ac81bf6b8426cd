"""Prompts, losses and scores of SAM's training, against slow versions and torchvision."""

import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torchvision.ops import masks_to_boxes, sigmoid_focal_loss

from frozenseg.encoders.sam import build_sam_model
from frozenseg.small_world.pretraining.mask_losses import FOCAL_ALPHA, _focal, iou, mask_losses
from frozenseg.small_world.pretraining.prompts import middle_points, noisy_boxes, sample_points
from frozenseg.small_world.pretraining.sam import SamTask, fit_scene
from frozenseg.small_world.scene import make_scene


def masks(count: int = 5, side: int = 32) -> torch.Tensor:
    """Random rectangles."""
    generator = np.random.default_rng(0)
    result = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in result:
        y, x = generator.integers(0, side - 8, 2)
        mask[y : y + generator.integers(3, 9), x : x + generator.integers(3, 9)] = True
    return result


def test_focal_loss_is_torchvisions() -> None:
    logits, target = torch.randn(40), torch.randint(0, 2, (40,)).float()
    expected = sigmoid_focal_loss(logits, target, alpha=FOCAL_ALPHA, gamma=2)
    torch.testing.assert_close(_focal(logits, target), expected)


def test_only_the_best_of_three_masks_is_pulled() -> None:
    truth = masks(2)
    logits = torch.full((2, 3, 32, 32), -4.0)
    logits[:, 1] = torch.where(truth, 4.0, -4.0)  # the second mask is right
    logits.requires_grad_(True)
    quality = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.2, 0.1]], requires_grad=True)
    losses, best = mask_losses(logits, quality, truth)
    (losses["focal"] + losses["dice"]).backward(retain_graph=True)
    assert logits.grad is not None
    moved = logits.grad.abs().flatten(2).sum(-1) > 0
    assert moved.tolist() == [[False, True, False]] * 2
    expected = ((quality.detach() - torch.tensor([0.0, 1.0, 0.0])) ** 2).mean()
    torch.testing.assert_close(losses["iou_error"].detach(), expected)
    torch.testing.assert_close(losses["iou"], torch.tensor(1.0))
    assert torch.equal(best[0], logits[0, 2]) and torch.equal(best[1], logits[1, 0])


def test_iou_counts_pixels() -> None:
    first, second = masks(4), masks(4).flip(0)
    slow = [(a & b).sum().item() / (a | b).sum().item() for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(iou(first, second), torch.tensor(slow))


def test_points_fall_where_they_may_and_carry_the_truth() -> None:
    truth = masks()
    where = truth.clone()
    where[0] = ~truth[0]
    where[1] = False  # an empty mask: any pixel
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        points, labels = sample_points(where, truth, generator)
        assert points.shape == (5, 1, 2) and labels.shape == (5, 1)
        # SAM adds half a pixel: x + 0.5 is a place in its input, and two pixels there are one here
        x, y = ((points[:, 0] + 0.5) / 2).long().unbind(-1)
        inside = truth[torch.arange(5), y, x]
        assert torch.equal(inside, labels[:, 0].bool())
        assert labels[0] == 0 and bool(labels[2:].all())


def test_the_middle_is_farthest_from_the_border() -> None:
    truth = torch.zeros(1, 32, 32, dtype=torch.bool)
    truth[0, 4:11, 10:29] = True
    x, y = ((middle_points(truth)[0, 0] + 0.5) / 2).long().tolist()
    assert y == 7 and 13 <= x <= 25
    truth[:] = True  # the image's own border counts
    x, y = ((middle_points(truth)[0, 0] + 0.5) / 2).long().tolist()
    assert 14 <= x <= 17 and 14 <= y <= 17


def test_boxes_are_torchvisions_with_noise_of_a_tenth() -> None:
    truth = masks(200)
    exact = masks_to_boxes(truth)
    exact[:, 2:] += 1  # exclusive
    boxes = noisy_boxes(truth, torch.Generator().manual_seed(0)) / 2
    most = 20 * 64 / 1024 / 2
    assert (boxes - exact).abs().max() <= most + 1e-5
    assert 0.2 < (boxes - exact).std() < most


def test_scenes_are_fitted_as_sam_does() -> None:
    scene = make_scene(0, "sam_test", 3)
    image, size, found = fit_scene(scene, 256)
    official = ResizeLongestSide(256).apply_image(scene.image)
    assert official.shape[:2] == size
    difference = image[:, : size[0], : size[1]].permute(1, 2, 0).numpy().astype(int) - official
    assert np.abs(difference).max() <= 1
    assert not image[:, size[0] :].any() and not image[:, :, size[1] :].any()
    assert found.shape == (len(scene.regions), 128, 128)
    low = found[:, : size[0] // 2, : size[1] // 2]
    assert bool((low.sum(dim=0) == 1).all())  # every pixel is in one region
    shares = scene.masks().mean(axis=(1, 2))
    np.testing.assert_allclose(low.float().mean(dim=(1, 2)).numpy(), shares, atol=0.02)


def test_a_tiny_sam_learns_and_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frozenseg.small_world.pretraining.sam.AUTOMATIC_IMAGES", 1)
    torch.manual_seed(0)
    task = SamTask(model=build_sam_model("tiny"), seed=0, masks=2, rounds=2, test_images=2)
    samples = task.samples()
    batch = [torch.stack(parts) for parts in zip(*(samples[i] for i in range(2)), strict=True)]
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=2e-3)
    history = []
    for step in range(12):
        loss = task.losses(batch, torch.Generator().manual_seed(step % 2))["total_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-2:]) < 0.9 * np.mean(history[:2])
    unreached = [name for name, p in task.model.named_parameters() if p.grad is None]
    assert not unreached, unreached
    task.model.eval()
    scores = task.evaluate()
    assert 0 <= scores["one_click_iou"] <= scores["one_click_iou_best_of_three"] <= 100
    assert scores["automatic_masks"] >= 0
