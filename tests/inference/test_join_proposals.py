"""The OpenSeg Ensemble, compared with its formula class by class, and SAM's masks in all tasks."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from frozenseg.encoders.pooling import OUTSIDE, pool_masks, resample_to_padded_grid
from frozenseg.inference.join_proposals import (
    ClassifiedProposals,
    proposal_class_probs,
    semantic_weights,
)
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.text.vocabulary import Vocabulary

EPSILON = 0.2
SEEN = torch.tensor([True, False, False, True])
WORDS = Vocabulary((("a",), ("b",), ("c",), ("d",)), (True, True, False, False))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_unseen_classes_get_a_share_of_sams_masks(threshold: float) -> None:
    """docs/papers.md, "Departures", row 8: the threshold xi applies to unseen classes only."""
    class_logits, masks = 2 * torch.randn(6, 5), torch.randn(6, 4, 7)
    proposal_logits, proposals = 3 * torch.randn(9, 5), torch.randn(9, 4, 7)
    weights = semantic_weights(
        class_logits, proposal_logits, SEEN, epsilon=EPSILON, threshold=threshold
    )
    joined = torch.cat((masks, proposals)).sigmoid()
    ours = torch.einsum("qk,qhw->khw", torch.cat(weights), joined)
    of_queries = softmax(class_logits.double().numpy(), -1)
    of_proposals = softmax(proposal_logits.double().numpy(), -1)
    passed = [row[[1, 2]].max() > threshold for row in of_proposals]
    if threshold == 0.5:
        assert 0 < sum(passed) < 9
    for label in range(4):
        expected = sum(of_queries[q, label] * expit(masks[q].double().numpy()) for q in range(6))
        if not SEEN[label]:
            by_sam = sum(
                of_proposals[p, label] * expit(proposals[p].double().numpy())
                for p in range(9)
                if passed[p]
            )
            expected = (1 - EPSILON) * expected + EPSILON * by_sam
        np.testing.assert_allclose(ours[label], expected, atol=1e-5)


def test_no_proposals() -> None:
    class_logits = torch.randn(6, 5)
    of_queries, of_proposals = semantic_weights(
        class_logits, torch.zeros(0, 5), SEEN, epsilon=EPSILON, threshold=0.5
    )
    expected = class_logits.softmax(-1)[:, :-1] * torch.tensor([1, 0.8, 0.8, 1])
    torch.testing.assert_close(of_queries, expected)
    assert of_proposals.shape == (0, 4)


def classified(probabilities: list[list[float]], masks: torch.Tensor) -> ClassifiedProposals:
    logits = torch.tensor(probabilities).clamp(min=1e-9).log()
    return ClassifiedProposals(logits, masks, torch.full((len(masks),), 0.9), SEEN)


def test_proposals_have_the_probabilities_of_clip_times_the_quality_of_sam() -> None:
    found = classified([[0.1, 0.7, 0.1, 0.0, 0.1], [0.6, 0.2, 0.1, 0.1, 0.0]], torch.zeros(2, 4, 4))
    rows = proposal_class_probs(found, weight=0.5, threshold=0.5)
    expected = [[0, 0.5 * 0.9 * 0.7, 0.5 * 0.9 * 0.1, 0, 1 - 0.45 * 0.8], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(rows, torch.tensor(expected))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_sams_masks_reach_every_task_that_asks_for_them(weight: float) -> None:
    """A query with class d has a mask on the left; SAM has a mask on the right, which CLIP
    classifies as b."""
    left, right = torch.full((1, 8, 8), -9.0), torch.full((1, 8, 8), -9.0)
    left[..., :4], right[..., 4:] = 9.0, 9.0
    query = torch.tensor([[0.02, 0.01, 0.01, 0.95, 0.01]]).log()
    found = classified([[0.02, 0.9, 0.02, 0.03, 0.03]], right)
    process = PostProcessor(proposals=True, sam_weight=weight)
    result = process(query, left, MaskResizer.identity((8, 8)), WORDS, found)
    assert (result.semantic[:, :4] == 3).all() and (result.semantic[:, 4:] == 1).all()
    assert result.proposals.shape == (2, 8, 8) and result.proposals[1, :, 4:].all()
    names = {segment.name for segment in result.panoptic.segments}
    assert names == ({"b", "d"} if weight else {"d"})
    best = result.instances.scores[result.instances.class_ids == 1].max()
    assert (best > 0.5) == bool(weight)


@pytest.mark.parametrize(
    ("grid", "image"),
    [((25, 34), (800, 1088)), ((24, 42), (750, 1333)), ((10, 13), (320, 416))],
)
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_quarter_of_the_image_pools_that_quarters_features(
    grid: tuple[int, int], image: tuple[int, int], place: tuple[int, int]
) -> None:
    """The expected rule is in pixels: a cell belongs to the quarter in which its centre lies."""
    rows, columns = 192, 256
    mask = torch.full((1, rows, columns), -5.0)
    half = (rows // 2, columns // 2)
    top, left = place[0] * half[0], place[1] * half[1]
    mask[0, top : top + half[0], left : left + half[1]] = 5.0
    padded = (grid[0] * 32, grid[1] * 32)
    placed = resample_to_padded_grid(mask, image, padded, grid)
    y, x = (torch.arange(cells) * 32 + 16.0 for cells in grid)
    inside = torch.stack(
        [
            (y[:, None] >= place[0] * image[0] / 2) & (y[:, None] < (1 + place[0]) * image[0] / 2)
            & (x >= place[1] * image[1] / 2) & (x < (1 + place[1]) * image[1] / 2)
        ]
    )  # fmt: skip
    border = (y[:, None] == image[0] / 2) | (x == image[1] / 2)  # belongs to both sides
    assert torch.equal((placed > 0) & ~border, inside & ~border)
    features = torch.randn(1, 3, *grid)
    mean = features[0][:, placed[0] > 0].mean(1)
    torch.testing.assert_close(pool_masks(features, placed[None])[0, 0], mean)
    assert (placed[0][y > image[0]] == OUTSIDE).all() and (
        placed[0][:, x > image[1]] == OUTSIDE
    ).all()
