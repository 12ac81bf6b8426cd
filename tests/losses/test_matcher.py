import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from frozenseg.losses.matcher import (
    HungarianMatcher,
    TargetBatch,
    assign,
    pairwise_cross_entropy,
    pairwise_dice,
)
from frozenseg.structures import Targets

from .slow_criterion import best_assignment, dice_loss, match


def batch_of(targets: list[Targets], num_classes: int = 3) -> TargetBatch:
    return TargetBatch.collate(targets, num_classes=num_classes, device=torch.device("cpu"))


def test_pairwise_costs_equal_those_of_each_pair() -> None:
    logits, labels = torch.randn(2, 4, 30) * 5, torch.rand(2, 3, 30)
    cross_entropy, dice = pairwise_cross_entropy(logits, labels), pairwise_dice(logits, labels)
    assert cross_entropy.shape == dice.shape == (2, 4, 3)
    for image in range(2):
        for query in range(4):
            for item in range(3):
                pair = logits[image, query], labels[image, item]
                expected = F.binary_cross_entropy_with_logits(*pair)
                torch.testing.assert_close(cross_entropy[image, query, item], expected)
                torch.testing.assert_close(dice[image, query, item], dice_loss(*pair))


@pytest.mark.parametrize("counts", [(1, 3), (4, 0), (6, 2), (0, 5)])
def test_assignment_is_the_best_of_all(counts: tuple[int, ...], make_targets) -> None:
    queries, batch = 4, batch_of(make_targets(counts))
    costs = np.random.default_rng(0).normal(size=(3, 2, queries, max(counts))).astype(np.float32)
    matching = assign(costs, batch)
    assert matching.queries.shape == (3, sum(min(queries, count) for count in counts))
    for output in range(3):
        for image, (count, offset) in enumerate(zip(counts, batch.offsets, strict=True)):
            here = matching.images == image
            pairs = zip(
                matching.queries[output, here].tolist(),
                (matching.objects[output, here] - offset).tolist(),
                strict=True,
            )
            cost = costs[output, image, :, :count].tolist()
            assert sorted(pairs) == sorted(best_assignment(cost) if count else [])


def test_matching_equals_the_slow_one(shared_points, make_predictions, make_targets) -> None:
    predictions, targets = make_predictions(), make_targets((3, 2))
    outputs = [*predictions.auxiliary, predictions]
    batch = batch_of(targets)
    matching = HungarianMatcher(num_points=15)(outputs, batch, torch.arange(2))
    for row, output in enumerate(outputs):
        for image, offset in enumerate(batch.offsets):
            here = matching.images == image
            pairs = torch.stack([matching.queries[row], matching.objects[row] - offset])[:, here]
            logits = output.class_logits[image], output.mask_logits[image]
            expected = match(*logits, targets[image], 15)
            assert sorted(map(tuple, pairs.T.tolist())) == sorted(expected)


def test_all_costs_leave_the_device_in_one_copy(
    monkeypatch: pytest.MonkeyPatch, make_predictions, make_targets
) -> None:
    copies = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))
    predictions = make_predictions(outputs=4)
    batch = batch_of(make_targets((3, 2)))
    HungarianMatcher(num_points=15)([*predictions.auxiliary, predictions], batch, torch.arange(2))
    assert copies == [(4, 2, 5, 3)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["class_logits", "mask_logits"])
def test_predictions_that_are_not_finite_are_named(
    kind: str, value: float, make_predictions, make_targets
) -> None:
    predictions, batch = make_predictions(), batch_of(make_targets((2, 2)))
    outputs = [*predictions.auxiliary, predictions]
    with torch.no_grad():
        getattr(outputs[1], kind)[1, 3] = value
    with pytest.raises(FloatingPointError, match="auxiliary output 1 for image 1 "):
        HungarianMatcher(num_points=15)(outputs, batch, torch.arange(2))
    with pytest.raises(FloatingPointError, match="last output for image 1 "):
        HungarianMatcher(num_points=15)(outputs[:2], batch, torch.arange(2))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([Targets(torch.tensor([0]), torch.ones(2, 4, 4).bool())], "1 class ids, but 2 masks"),
        ([Targets(torch.tensor([3]), torch.ones(1, 4, 4).bool())], "[3] lie outside 0-2"),
        ([Targets(torch.tensor([-2]), torch.ones(1, 4, 4).bool())], "[-2] lie outside 0-2"),
        (
            [Targets(torch.tensor([0]), torch.ones(1, 4, n).bool()) for n in (4, 6)],
            "sizes [(4, 4), (4, 6)]",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: list[Targets], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        batch_of(targets)


def test_an_image_without_objects_needs_no_mask_size() -> None:
    empty = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0, 0).bool())
    batch = batch_of([empty, Targets(torch.tensor([1]), torch.ones(1, 4, 4).bool())])
    assert batch.counts == (0, 1) and batch.masks.shape == (1, 4, 4)
