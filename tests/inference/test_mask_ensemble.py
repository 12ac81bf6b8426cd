"""The OpenSeg Ensemble against its formula, class by class."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from frozenseg.inference.mask_ensemble import add_sam_masks

EPSILON = 0.2


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_unseen_classes_get_a_share_of_sams_masks(threshold: float) -> None:
    """PAPERS.md 1.1, item 10, and 1.2, row 8: xi looks at unseen classes only."""
    class_logits, masks = 2 * torch.randn(6, 5), torch.randn(6, 4, 7)
    proposal_logits, proposals = 3 * torch.randn(9, 5), torch.randn(9, 4, 7)
    seen = torch.tensor([True, False, False, True])
    weights, joined = add_sam_masks(
        class_logits,
        masks,
        proposal_logits,
        proposals,
        seen,
        epsilon=EPSILON,
        threshold=threshold,
    )
    ours = torch.einsum("qk,qhw->khw", weights, joined.sigmoid())
    of_queries = softmax(class_logits.double().numpy(), -1)
    of_proposals = softmax(proposal_logits.double().numpy(), -1)
    passed = [row[[1, 2]].max() > threshold for row in of_proposals]
    assert len(joined) == 6 + sum(passed)
    if threshold == 0.5:
        assert 0 < sum(passed) < 9
    for label in range(4):
        expected = sum(of_queries[q, label] * expit(masks[q].double().numpy()) for q in range(6))
        if not seen[label]:
            by_sam = sum(
                of_proposals[p, label] * expit(proposals[p].double().numpy())
                for p in range(9)
                if passed[p]
            )
            expected = (1 - EPSILON) * expected + EPSILON * by_sam
        np.testing.assert_allclose(ours[label], expected, atol=1e-5)


def test_no_proposal_at_all() -> None:
    class_logits, masks = torch.randn(6, 5), torch.randn(6, 4, 7)
    seen = torch.tensor([True, False, False, True])
    weights, joined = add_sam_masks(
        class_logits,
        masks,
        torch.zeros(0, 5),
        torch.zeros(0, 4, 7),
        seen,
        epsilon=EPSILON,
        threshold=0.5,
    )
    assert torch.equal(joined, masks)
    expected = class_logits.softmax(-1)[:, :-1] * torch.tensor([1, 0.8, 0.8, 1])
    torch.testing.assert_close(weights, expected)
