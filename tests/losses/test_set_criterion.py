from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from frozenseg.errors import UserError
from frozenseg.losses.matcher import TargetBatch, assign
from frozenseg.losses.set_criterion import SetCriterion, elsewhere
from frozenseg.losses.weighting import weighted_losses
from frozenseg.structures import UNNAMED, MaskPredictions, Targets

from .slow_criterion import output_losses


def criterion_of(num_points: int = 12) -> SetCriterion:
    return SetCriterion(num_classes=3, num_points=num_points)


def total_of(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([*weighted_losses(losses, criterion_of().loss_weights).values()]).sum()


def outputs_of(predictions: MaskPredictions) -> list[MaskPredictions]:
    return [predictions, *predictions.auxiliary]


def leaves(predictions: MaskPredictions) -> list[Tensor]:
    return [t for o in outputs_of(predictions) for t in (o.class_logits, o.mask_logits)]


def image_of(predictions: MaskPredictions, image: int) -> MaskPredictions:
    one = [
        MaskPredictions(o.class_logits[image : image + 1], o.mask_logits[image : image + 1])
        for o in outputs_of(predictions)
    ]
    return MaskPredictions(one[0].class_logits, one[0].mask_logits, one[1:])


@pytest.mark.parametrize(
    ("counts", "unnamed"),
    [
        *(((3, 2), []), ((0, 2), []), ((7, 1), []), ((0, 0), [])),
        # objects of which only the mask is known: some, and all
        *(((3, 2), [(0, [0, 2]), (1, [1])]), ((7, 1), [(0, [3])]), ((2, 0), [(0, [0, 1])])),
    ],
)
def test_losses_and_gradients_equal_the_slow_ones(
    counts: tuple[int, ...], unnamed: list, shared_points, make_predictions, make_targets
) -> None:
    predictions, targets = make_predictions(), make_targets(counts)
    if counts[0] > 2:
        targets[0].masks[1] = False  # an object without a pixel
    for image, rows in unnamed:
        targets[image].class_ids[rows] = UNNAMED
    criterion = criterion_of()
    losses = criterion(predictions, targets)
    slow = {}
    for suffix, output in zip(["", "_0", "_1"], outputs_of(predictions), strict=True):
        for name, loss in output_losses(output, targets, 12, 3.0, 0.75).items():
            slow[name + suffix] = loss
    assert list(losses) == list(slow)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, slow[name], msg=lambda text, n=name: f"{n}: {text}")
    weights = {"ce": 2.0, "mask": 5.0, "dice": 5.0}
    total = sum(weights[name.split("_")[1]] * loss for name, loss in slow.items())
    torch.testing.assert_close(total_of(losses), total)
    ours = torch.autograd.grad(total_of(losses), leaves(predictions))
    theirs = torch.autograd.grad(total, leaves(predictions), materialize_grads=True)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


def test_only_matched_queries_get_mask_gradients(make_predictions, make_targets) -> None:
    predictions = make_predictions()
    total_of(criterion_of()(predictions, make_targets((3, 1)))).backward()
    for output in outputs_of(predictions):
        moved = output.mask_logits.grad.flatten(2).abs().sum(-1) > 0
        assert moved.sum(1).tolist() == [3, 1]
        assert (output.class_logits.grad.abs().sum(-1) > 0).all()


def test_without_any_object_everything_is_void_and_backward_works(
    make_predictions, make_targets
) -> None:
    predictions = make_predictions()
    losses = criterion_of()(predictions, make_targets((0, 0)))
    for suffix, output in zip(["", "_0", "_1"], outputs_of(predictions), strict=True):
        void = -output.class_logits.log_softmax(-1)[..., -1].mean()
        torch.testing.assert_close(losses[f"loss_ce{suffix}"], void)
        assert losses[f"loss_mask{suffix}"] == losses[f"loss_dice{suffix}"] == 0
    total_of(losses).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves(predictions))


def test_a_batch_of_two_equals_two_batches_of_one(
    shared_points, make_predictions, make_targets
) -> None:
    predictions, targets, criterion = make_predictions(), make_targets((3, 1)), criterion_of()
    both = criterion(predictions, targets)
    alone = [criterion(image_of(predictions, i), [targets[i]], num_masks=4) for i in range(2)]
    for name, loss in both.items():
        first, second = alone[0][name], alone[1][name]
        if name.startswith("loss_ce"):  # a mean over queries, objects weigh 1 and void 0.1
            shares = [3 + 0.1 * 2, 1 + 0.1 * 4]
            expected = (first * shares[0] + second * shares[1]) / sum(shares)
        else:
            expected = first + second
        torch.testing.assert_close(loss, expected)


def test_void_only_where_something_is_annotated(make_predictions, make_targets) -> None:
    predictions, targets = make_predictions(size=8), make_targets((2, 1), size=(16, 16))
    for target, masks in zip(targets, (((0, 8), (4, 12)), ((0, 4),)), strict=True):
        target.masks.zero_()
        for mask, (top, bottom) in zip(target.masks, masks, strict=True):
            mask[top:bottom] = True
    criterion = SetCriterion(num_classes=3, num_points=12, annotated_only=True)
    seeds = torch.tensor([1, 2])
    losses = criterion(predictions, targets, seeds=seeds)
    everywhere = criterion_of()(predictions, targets, seeds=seeds)
    left_out = 0
    for suffix, output in zip(["", "_0", "_1"], outputs_of(predictions), strict=True):
        matched = output.class_logits.new_zeros(2, 5, dtype=torch.bool)
        gradient = torch.autograd.grad(
            everywhere[f"loss_mask{suffix}"], output.mask_logits, retain_graph=True
        )[0]
        matched |= gradient.flatten(2).abs().sum(-1) > 0
        excused = torch.tensor(0.0)
        for image, target in enumerate(targets):
            annotated = target.masks.any(0)[::2, ::2]  # masks end at even rows: exact at half size
            for query in range(5):
                inside = output.mask_logits[image, query] > 0
                half = (inside & annotated).sum() < 0.5 * inside.sum()
                if half and not matched[image, query]:
                    excused = excused - 0.1 * output.class_logits[image, query].log_softmax(0)[3]
                    left_out += 1
        divisor = 3 + 0.1 * 7
        torch.testing.assert_close(
            losses[f"loss_ce{suffix}"], everywhere[f"loss_ce{suffix}"] - excused / divisor
        )
        torch.testing.assert_close(losses[f"loss_mask{suffix}"], everywhere[f"loss_mask{suffix}"])
    assert 0 < left_out < 3 * 7


def test_regions_without_a_class_are_not_annotated(make_predictions, make_targets) -> None:
    """Queries on them are excused as elsewhere, whatever they are matched with."""
    predictions, targets = make_predictions(), make_targets((2, 1), size=(16, 16))
    further = [target.with_unnamed(torch.ones(1, 16, 16).bool()) for target in targets]
    batches = [
        TargetBatch.collate(each, num_classes=3, device=torch.device("cpu"))
        for each in (targets, further)
    ]
    found = [elsewhere(outputs_of(predictions), batch) for batch in batches]
    assert torch.equal(*found) and found[0].any() and not found[0].all()


@pytest.mark.parametrize("size", [(16, 16), (0, 0)])
def test_where_nothing_is_annotated_nothing_is_void(make_predictions, make_targets, size) -> None:
    criterion = SetCriterion(num_classes=3, num_points=12, annotated_only=True)
    predictions = make_predictions()
    losses = criterion(predictions, make_targets((0, 0), size=size))
    assert all(loss == 0 for loss in losses.values())
    total_of(losses).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(predictions))


def test_masks_that_are_not_computed_yet_are_judged_alike(make_predictions, make_targets) -> None:
    outputs, targets = make_predictions(outputs=1), make_targets((1, 1))
    targets[0].masks[:] = True  # all of the first image is annotated, nothing of the second
    targets[1].masks[:] = False
    embed, features = torch.randn(2, 5, 4), torch.randn(2, 4, 8, 8)
    batch = TargetBatch.collate(targets, num_classes=3, device=torch.device("cpu"))
    outputs.mask_logits = torch.einsum("bqc,bchw->bqhw", embed, features)
    whole = elsewhere([outputs], batch)
    outputs.mask_logits, outputs.mask_embed = torch.zeros(2, 5, 0, 0), embed
    outputs.mask_features = features
    assert torch.equal(elsewhere([outputs], batch), whole)
    assert whole.any() and not whole.all()


def test_the_order_of_objects_does_not_matter(make_predictions, make_targets) -> None:
    predictions, targets = make_predictions(), make_targets((4, 2))
    order = torch.tensor([2, 0, 3, 1])
    permuted = [Targets(targets[0].class_ids[order], targets[0].masks[order]), targets[1]]
    first, second = (
        criterion_of()(predictions, given, seeds=torch.tensor([3, 4]))
        for given in (targets, permuted)
    )
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name])


def test_the_seeds_alone_decide_the_points(make_predictions, make_targets) -> None:
    predictions, targets = make_predictions(), make_targets((3, 2))

    def losses(seed: int) -> dict[str, Tensor]:
        return criterion_of()(predictions, targets, seeds=torch.tensor([seed, seed + 10]))

    first, again, other = losses(1), losses(1), losses(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(7)
    unseeded = criterion_of()(predictions, targets)
    torch.manual_seed(7)
    repeated = criterion_of()(predictions, targets)
    assert all(torch.equal(unseeded[name], repeated[name]) for name in unseeded)


def test_pairs_beyond_one_chunk_are_sampled_like_the_others(
    monkeypatch: pytest.MonkeyPatch, shared_points, make_predictions, make_targets
) -> None:
    predictions, targets = make_predictions(), make_targets((3, 2))
    whole = criterion_of()(predictions, targets)
    monkeypatch.setattr("frozenseg.losses.set_criterion.PAIRS_AT_ONCE", 2)
    parts = criterion_of()(predictions, targets)
    for name, loss in whole.items():
        torch.testing.assert_close(loss, parts[name])


def test_num_masks_divides_the_mask_losses(shared_points, make_predictions, make_targets) -> None:
    predictions, targets = make_predictions(), make_targets((3, 2))
    usual = criterion_of()(predictions, targets)
    doubled = criterion_of()(predictions, targets, num_masks=10.0)
    torch.testing.assert_close(doubled["loss_mask_1"] * 2, usual["loss_mask_1"])
    torch.testing.assert_close(doubled["loss_ce"], usual["loss_ce"])


@pytest.mark.parametrize("counts", [(3, 2), (0, 2), (7, 1), (0, 0)])
def test_recomputed_masks_have_the_same_losses_and_gradients(
    counts: tuple[int, ...], shared_points, make_predictions, make_targets
) -> None:
    """Whether all masks carry gradients, or only the matched ones are recomputed."""
    features = torch.randn(2, 6, 8, 8).requires_grad_()
    plain, split, embeddings = [], [], []
    for output in outputs_of(make_predictions()):
        embedding = torch.randn(2, 5, 6).requires_grad_()
        embeddings.append(embedding)
        masks = torch.einsum("bqc,bchw->bqhw", embedding, features)
        plain.append(MaskPredictions(output.class_logits, masks))
        split.append(
            MaskPredictions(
                output.class_logits, masks.detach(), mask_embed=embedding, mask_features=features
            )
        )
    targets, found = make_targets(counts), []
    for last, *rest in (plain, split):
        losses = criterion_of()(replace(last, auxiliary=rest), targets)
        total = total_of(losses)
        grads = torch.autograd.grad(total, [features, *embeddings])
        assert sum(counts) == 0 or all(grad.abs().sum() > 0 for grad in grads)
        found.append((losses, grads))
    (losses, grads), (expected, expected_grads) = found
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, atol=1e-5, rtol=1e-4)


def test_autocast_does_not_touch_losses_and_costs(
    monkeypatch: pytest.MonkeyPatch, shared_points, make_predictions, make_targets
) -> None:
    costs = []
    monkeypatch.setattr(
        "frozenseg.losses.matcher.assign", lambda *given: costs.append(given[0]) or assign(*given)
    )
    predictions, targets = make_predictions(), make_targets((3, 2))
    half = [
        MaskPredictions(o.class_logits.bfloat16(), o.mask_logits.bfloat16())
        for o in outputs_of(predictions)
    ]
    full = [MaskPredictions(o.class_logits.float(), o.mask_logits.float()) for o in half]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion_of()(replace(half[0], auxiliary=half[1:]), targets)
    expected = criterion_of()(replace(full[0], auxiliary=full[1:]), targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=0)
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-6)
    total_of(losses).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(predictions))


def test_perfect_predictions_cost_nothing(make_targets) -> None:
    targets = make_targets((3,), size=(64, 64))
    targets[0].masks[:] = False
    for row in range(3):
        targets[0].masks[row, 20 * row : 20 * row + 20] = True
    class_logits = torch.full((1, 5, 4), -50.0)
    class_logits[0, torch.arange(3), targets[0].class_ids] = 50.0
    class_logits[0, 3:, 3] = 50.0
    masks = torch.zeros(1, 5, 64, 64).bool()
    masks[0, :3] = targets[0].masks
    predictions = MaskPredictions(class_logits, torch.where(masks, 80.0, -80.0))
    # Without importance sampling few points fall between a mask and its surroundings.
    criterion = SetCriterion(num_classes=3, num_points=2000, importance_sample_ratio=0.0)
    losses = criterion(predictions, targets)
    assert losses["loss_ce"] == 0 and losses["loss_dice"] < 0.03
    nothing = torch.full_like(predictions.mask_logits, -80.0)
    assert criterion(MaskPredictions(class_logits, nothing), targets)["loss_dice"] > 0.9


def test_options_that_make_no_sense_are_refused() -> None:
    for option, value in [
        ("num_points", 0),
        ("oversample_ratio", 0.5),
        ("importance_sample_ratio", 1.5),
    ]:
        with pytest.raises(UserError, match=f"{option} is {value}"):
            SetCriterion(num_classes=3, **{option: value})


def test_predictions_that_do_not_fit_are_refused(make_predictions, make_targets) -> None:
    with pytest.raises(ValueError, match="num_classes=9 they need 10"):
        SetCriterion(num_classes=9)(make_predictions(), make_targets((1, 1)))
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        criterion_of()(make_predictions(), make_targets((1,)))


@pytest.mark.gpu
def test_a_gpu_gives_the_losses_of_the_cpu(shared_points, make_predictions, make_targets) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    predictions, targets = make_predictions(), make_targets((3, 2))
    moved = [
        MaskPredictions(o.class_logits.cuda(), o.mask_logits.cuda())
        for o in outputs_of(predictions)
    ]
    there = MaskPredictions(moved[0].class_logits, moved[0].mask_logits, moved[1:])
    losses = criterion_of()(there, targets)
    for name, loss in criterion_of()(predictions, targets).items():
        torch.testing.assert_close(losses[name].cpu(), loss, rtol=1e-4, atol=1e-5)
