"""The losses of the mask adapter against a loop over objects and queries."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.losses.region_loss import MOST_OBJECTS, RegionLoss
from frozenseg.structures import MaskPredictions, Targets

CHANNELS, CLASSES, SIDE = 3, 4, 32  # CLIP's cells are 8 pixels, masks have 4 a cell


class Embedder(nn.Module):
    """Regions embedded by their size and by what is in them, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES + 1, CHANNELS + 1))

    def forward(self, dense: Tensor, masks: Tensor) -> Tensor:
        cells = F.avg_pool2d(masks, 4).flatten(2)
        content = cells @ dense.flatten(2).transpose(1, 2)
        return torch.cat((content, masks.mean((2, 3))[..., None]), -1) @ self.weight.T


def criterion(embed: nn.Module, threshold: float = 0.5) -> RegionLoss:
    return RegionLoss(
        embed=embed,
        classify=lambda embedded: 3 * embedded,
        finer=4,
        iou_threshold=threshold,
        class_weight=2.0,
        consistency_weight=5.0,
    )


def boxes(*corners: tuple[int, int, int, int]) -> Tensor:
    masks = torch.zeros(len(corners), SIDE, SIDE, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def batch() -> tuple[MaskPredictions, list[Targets]]:
    """Masks of queries at every second pixel: the products of one-hot vectors and themselves."""
    of_queries = torch.stack([
        boxes((0, 16, 0, 16), (0, 14, 0, 16), (16, 32, 16, 32), (0, 32, 0, 32)),
        boxes((8, 24, 8, 24), (0, 4, 0, 4), (8, 24, 8, 20), (30, 32, 0, 32)),
    ])[..., ::2, ::2]  # fmt: skip
    logits = (2 * of_queries.float() - 1).requires_grad_()
    embed = torch.eye(4).expand(2, 4, 4).clone().requires_grad_()
    targets = [
        Targets(torch.tensor([1, 3]), boxes((0, 14, 0, 14), (20, 32, 0, 8))),
        Targets(torch.tensor([0]), boxes((8, 24, 8, 20))),
    ]
    predictions = MaskPredictions(torch.zeros(2, 4, CLASSES + 1), torch.zeros(2, 4, 0, 0))
    predictions.mask_embed, predictions.mask_features = embed, logits
    predictions.clip_dense = torch.randn(2, CHANNELS, 4, 4)
    return predictions, targets


def test_losses_equal_a_loop() -> None:
    predictions, targets = batch()
    embed = Embedder()
    losses = criterion(embed)(predictions, targets, 3.0, torch.tensor([1, 2]))

    matched = {(0, 0): 1, (1, 0): 2}  # (image, object): query of the largest IoU, above the half
    classes, consistency = torch.tensor(0.0), torch.tensor(0.0)
    for image, target in enumerate(targets):
        dense = predictions.clip_dense[[image]]
        for number, class_id in enumerate(target.class_ids):
            mask = F.avg_pool2d(target.masks[None, [number]].float(), 2)
            of_object = embed(dense, mask)[0, 0]
            classes = classes - (3 * of_object[:CLASSES]).log_softmax(0)[class_id]
            if (image, number) in matched:
                inside = predictions.mask_features[image, matched[image, number]] > 0
                of_query = embed(dense, inside[None, None].float())[0, 0]
                classes = classes - (3 * of_query[:CLASSES]).log_softmax(0)[class_id]
                consistency = (
                    consistency + 1 - F.cosine_similarity(of_query, of_object.detach(), dim=0)
                )
    torch.testing.assert_close(losses["loss_adapter"], classes / 3)
    torch.testing.assert_close(losses["loss_consistency"], consistency / 3)
    for loss, expected in (
        (losses["loss_adapter"], classes),
        (losses["loss_consistency"], consistency),
    ):
        (ours,) = torch.autograd.grad(loss, embed.weight, retain_graph=True)
        (slow,) = torch.autograd.grad(expected / 3, embed.weight, retain_graph=True)
        torch.testing.assert_close(ours, slow)


def test_gradients_reach_what_embeds_and_nothing_else() -> None:
    predictions, targets = batch()
    embed = Embedder()
    losses = criterion(embed)(predictions, targets, 3.0, torch.tensor([1, 2]))
    sum(losses.values()).backward()
    assert embed.weight.grad.abs().sum() > 0
    assert predictions.mask_embed.grad is None and predictions.mask_features.grad is None


@pytest.mark.parametrize("size", [(SIDE, SIDE), (0, 0)])
def test_without_objects_every_weight_has_a_gradient_of_zero(size: tuple[int, int]) -> None:
    predictions, _ = batch()
    nothing = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *size, dtype=torch.bool))
    embed = Embedder()
    losses = criterion(embed)(predictions, [nothing, nothing], 1.0, torch.tensor([1, 2]))
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert torch.equal(embed.weight.grad, torch.zeros_like(embed.weight))


def test_no_predicted_mask_is_good_enough() -> None:
    predictions, targets = batch()
    losses = criterion(Embedder(), threshold=1.0)(predictions, targets, 3.0, torch.tensor([1, 2]))
    assert losses["loss_consistency"] == 0 < losses["loss_adapter"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_finds_the_same_predicted_masks(dtype: torch.dtype) -> None:
    """Half of an object of 4,098 cells is not more than half; in half precision 2,049 are 2,048 or
    2,050, and 351 are 352."""
    for count in (351, 2049):
        cells = torch.arange(96 * 96).view(1, 96, 96)
        predictions, _ = batch()
        predictions.mask_embed = torch.ones(1, 1, 1)
        predictions.mask_features = (2.0 * (cells < count) - 1)[None]
        for size, found in ((2 * count, 0), (2 * count - 1, 1)):
            with torch.autocast("cpu", dtype=dtype):
                _, pairs = criterion(Embedder())._predicted(predictions, 0, cells < size, (8, 8))
            assert len(pairs) == found


def test_images_with_many_objects_choose_by_their_seed() -> None:
    predictions, targets = batch()
    many = MOST_OBJECTS + 4
    targets[0] = Targets(torch.randint(CLASSES, (many,)), torch.rand(many, SIDE, SIDE) < 0.5)
    loss, seeds = criterion(Embedder()), ([1, 2], [1, 3], [2, 2])
    found = [loss(predictions, targets, 20.0, torch.tensor(pair))["loss_adapter"] for pair in seeds]
    assert found[0] == found[1] != found[2]


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    predictions, targets = batch()
    loss, seeds = criterion(Embedder()), torch.tensor([1, 2])
    both = loss(predictions, targets, 3.0, seeds)
    alone = []
    for rows in (slice(0, 1), slice(1, 2)):
        part = MaskPredictions(predictions.class_logits[rows], predictions.mask_logits[rows])
        part.mask_embed = predictions.mask_embed[rows]
        part.mask_features = predictions.mask_features[rows]
        part.clip_dense = predictions.clip_dense[rows]
        alone.append(loss(part, targets[rows], 3.0, seeds[rows]))
    for name, whole in both.items():
        torch.testing.assert_close(alone[0][name] + alone[1][name], whole)
