"""Classification, compared with loops over classes and names, and with formulas in float64."""

import math

import numpy as np
import pytest
import torch

from frozenseg.encoders.pooling import pool_masks, pool_predicted_masks
from frozenseg.models.geometric_ensemble import class_logits, geometric_ensemble
from frozenseg.structures import TextEmbeddings

NAMES_PER_CLASS = [2, 1, 4, 1, 3]


def make_text(dim: int = 8) -> TextEmbeddings:
    index = [number for number, count in enumerate(NAMES_PER_CLASS) for _ in range(count)]
    weight = torch.nn.functional.normalize(torch.randn(len(index), dim), dim=-1)
    return TextEmbeddings(weight, torch.tensor(index), torch.rand(len(NAMES_PER_CLASS)) < 0.5)


def test_pooling_equals_the_loop_and_empty_masks_pool_to_zero() -> None:
    features, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    logits[0, 2] = -1  # nothing
    logits[1, 0] = 1  # everything
    logits[1, 1] = 0  # zero counts as outside
    ours = pool_masks(features, logits)
    for image in range(2):
        for query in range(6):
            cells = [
                features[image, :, i, j]
                for i in range(4)
                for j in range(5)
                if logits[image, query, i, j] > 0
            ]
            expected = torch.stack(cells).mean(0) if cells else torch.zeros(3)
            torch.testing.assert_close(ours[image, query], expected, atol=1e-6, rtol=1e-5)
    assert not ours[0, 2].any() and not ours[1, 1].any()


def test_pooling_sends_gradient_to_the_features_only() -> None:
    features = torch.randn(1, 3, 4, 5, requires_grad=True)
    logits = torch.randn(1, 2, 4, 5, requires_grad=True)
    pool_masks(features, logits).sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert logits.grad is None


def test_masks_that_are_not_kept_pool_the_same_with_the_same_gradients() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    embed = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    embed.data[0, 0] = 0  # nothing is inside
    grad = torch.randn(2, 6, 3)
    found = []
    for pool in (
        lambda: pool_predicted_masks(embed, features),
        lambda: pool_masks(features, torch.einsum("bqc,bchw->bqhw", embed, features)),
    ):
        pooled = pool()
        found.append((pooled, *torch.autograd.grad(pooled, features, grad)))
    torch.testing.assert_close(*found)
    assert not found[0][0][0, 0].any()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(pool_predicted_masks(embed, features).sum(), embed)


def test_class_logits_equal_the_loop_over_classes_and_names() -> None:
    text, embeddings, void = make_text(), torch.randn(2, 4, 8), torch.randn(1, 8) * 3
    scale = torch.tensor(2.5)
    ours = class_logits(embeddings, text, void, scale)
    assert ours.shape == (2, 4, len(NAMES_PER_CLASS) + 1)
    for image in range(2):
        for query in range(4):
            embedding = embeddings[image, query].double().numpy()
            embedding = embedding / np.linalg.norm(embedding)
            row = 0
            for number, count in enumerate(NAMES_PER_CLASS):
                names = text.weight[row : row + count].double().numpy()
                row += count
                expected = np.exp(2.5) * max(float(name @ embedding) for name in names)
                assert ours[image, query, number].item() == pytest.approx(expected, abs=1e-4)
            last = void[0].double().numpy() / np.linalg.norm(void[0].double().numpy())
            expected = np.exp(2.5) * float(last @ embedding)
            assert ours[image, query, -1].item() == pytest.approx(expected, abs=1e-4)


def test_gradients_of_class_logits_do_not_depend_on_what_the_memory_held() -> None:
    """Repeated calls get memory that still holds the same logits."""
    text, void, scale = make_text(), torch.randn(1, 8), torch.tensor(2.5)
    embeddings = torch.randn(1, 40, 8, requires_grad=True)
    weight = torch.nn.functional.normalize(torch.cat((text.weight, void)), dim=-1)
    names = scale.exp() * torch.nn.functional.normalize(embeddings, dim=-1) @ weight.T
    classes = [part.amax(-1) for part in names.split([*NAMES_PER_CLASS, 1], -1)]
    (expected,) = torch.autograd.grad(torch.stack(classes, -1).square().sum(), embeddings)
    for _ in range(50):
        squares = class_logits(embeddings, text, void, scale).square().sum()
        (found,) = torch.autograd.grad(squares, embeddings)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_scale_is_kept_at_a_hundred() -> None:
    text = make_text()
    embedding = text.weight[:1][None]  # cosine 1 with the first name
    logits = class_logits(embedding, text, torch.randn(1, 8), torch.tensor(50.0))
    assert logits[0, 0, 0].item() == pytest.approx(100, abs=1e-3)


def test_permuted_classes_permute_scores() -> None:
    text, embeddings, void = make_text(), torch.randn(1, 4, 8), torch.randn(1, 8)
    order = [3, 0, 4, 2, 1]
    rows = [
        row for number in order for row, index in enumerate(text.class_index) if index == number
    ]
    index = [place for place, number in enumerate(order) for _ in range(NAMES_PER_CLASS[number])]
    permuted = TextEmbeddings(text.weight[rows], torch.tensor(index), text.seen[order])
    scale = torch.tensor(1.0)
    ours = class_logits(embeddings, permuted, void, scale)
    expected = class_logits(embeddings, text, void, scale)[..., [*order, len(order)]]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("factor", [1.0, 0.25, 3.0, 0.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("with_valid", [True, False])
def test_void_is_weakened_as_by_hand(factor: float, share: float, with_valid: bool) -> None:
    """The expected values are computed query by query from the result without either rule."""
    in_logits, out_logits = 2 * torch.randn(2, 4, 6), 2 * torch.randn(2, 4, 6)
    seen = torch.tensor([True, False, True, True, False])
    valid = torch.tensor([[True, False, True, False], [False, True, True, True]])
    rules = {"alpha": 0.4, "beta": 0.8, "valid": valid if with_valid else None}
    plain = geometric_ensemble(in_logits, out_logits, seen, **rules).exp()
    ours = geometric_ensemble(
        in_logits, out_logits, seen, **rules, void_factor=factor, void_to_unseen=share
    ).exp()
    for image in range(2):
        for query in range(4):
            p = [float(value) for value in plain[image, query]]
            odds = factor * p[5] / (1 - p[5])
            expected = [value / (1 - p[5]) / (1 + odds) for value in p[:5]]
            void = left = odds / (1 + odds)
            weights = [math.exp(value) for value in out_logits[image, query, :5].tolist()]
            for number in (1, 4):
                if not with_valid or valid[image, query]:
                    claim = share * void * weights[number] / sum(weights)
                    expected[number], left = expected[number] + claim, left - claim
            torch.testing.assert_close(
                ours[image, query], torch.tensor([*expected, left]), atol=1e-6, rtol=1e-4
            )


def test_the_published_rule_of_void_is_untouched() -> None:
    in_logits, out_logits = 5 * torch.randn(2, 4, 6), 5 * torch.randn(2, 4, 6)
    seen = torch.tensor([True, False, True, True, False])
    weight = torch.where(seen, 0.4, 0.8)
    mixed = (1 - weight) * in_logits[..., :-1].log_softmax(-1)
    mixed = mixed + weight * out_logits[..., :-1].log_softmax(-1)
    void = in_logits.softmax(-1)[..., -1:]
    expected = torch.log(torch.cat((mixed.softmax(-1) * (1 - void), void), -1) + 1e-8)
    rules = {"alpha": 0.4, "beta": 0.8, "void_factor": 1.0, "void_to_unseen": 0.0}
    assert torch.equal(geometric_ensemble(in_logits, out_logits, seen, **rules), expected)


def ensemble_by_hand(
    in_logits: torch.Tensor,
    out_logits: torch.Tensor,
    seen: torch.Tensor,
    alpha: float,
    beta: float,
    valid: torch.Tensor | None = None,
) -> np.ndarray:
    """Compute docs/papers.md, FrozenSeg's architecture, 9, with probabilities in float64:
    p_in ** (1 - w) * p_out ** w, normalised to a sum of 1, times (1 - p_void), followed by
    p_void."""

    def probabilities(logits: torch.Tensor) -> np.ndarray:
        values = logits.double().numpy()
        shifted = np.exp(values - values.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)

    of_in, of_out = probabilities(in_logits[..., :-1]), probabilities(out_logits[..., :-1])
    weight = np.where(seen.numpy(), alpha, beta) * np.ones_like(of_in)
    if valid is not None:
        weight = weight * valid.numpy()[..., None]
    mixed = of_in ** (1 - weight) * of_out**weight
    mixed = mixed / mixed.sum(-1, keepdims=True)
    void = probabilities(in_logits)[..., -1:]
    return np.concatenate((mixed * (1 - void), void), -1)


@pytest.mark.parametrize("with_valid", [True, False])
def test_geometric_ensemble_equals_the_formula(with_valid: bool) -> None:
    in_logits, out_logits = 5 * torch.randn(2, 4, 6), 5 * torch.randn(2, 4, 6)
    seen = torch.tensor([True, False, True, True, False])
    valid = torch.tensor([[True, False, True, False], [False, True, True, True]])
    valid = valid if with_valid else None
    ours = geometric_ensemble(in_logits, out_logits, seen, alpha=0.4, beta=0.8, valid=valid)
    expected = ensemble_by_hand(in_logits, out_logits, seen, 0.4, 0.8, valid)
    np.testing.assert_allclose(ours.exp(), expected + 1e-8, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(ours.exp().sum(-1), 1, atol=1e-5)


def test_an_invalid_mask_leaves_the_first_classifier_alone() -> None:
    in_logits, out_logits = torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    seen, valid = torch.zeros(5, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    ours = geometric_ensemble(in_logits, out_logits, seen, alpha=0.4, beta=0.8, valid=valid)
    torch.testing.assert_close(ours.exp(), in_logits.softmax(-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e30])
@pytest.mark.parametrize("with_valid", [True, False])
def test_extreme_logits_stay_finite(scale: float, with_valid: bool) -> None:
    """Some probabilities underflow to zero; in the published code, 0 * log(0) then gives NaN."""
    in_logits, out_logits = scale * torch.randn(1, 8, 6), scale * torch.randn(1, 8, 6)
    in_logits[0, 0] = torch.tensor([-scale, -scale, -scale, -scale, -scale, scale])  # all void
    in_logits[0, 1] = torch.tensor([scale, -scale, -scale, -scale, -scale, -scale])
    valid = torch.rand(1, 8) < 0.5 if with_valid else None
    seen = torch.tensor([True, False, True, True, False])
    for more in ({}, {"void_factor": 0.0}, {"void_factor": 0.1, "void_to_unseen": 1.0}):
        ours = geometric_ensemble(
            in_logits, out_logits, seen, alpha=0.4, beta=0.8, valid=valid, **more
        )
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.exp().sum(-1), torch.ones(1, 8), atol=1e-4, rtol=0)


def test_one_class() -> None:
    in_logits = torch.randn(1, 4, 2)
    seen = torch.tensor([False])
    ours = geometric_ensemble(in_logits, torch.randn(1, 4, 2), seen, alpha=0.4, beta=0.8)
    torch.testing.assert_close(ours.exp(), in_logits.softmax(-1), atol=1e-6, rtol=1e-5)
