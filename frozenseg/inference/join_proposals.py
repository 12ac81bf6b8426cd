"""OpenSeg Ensemble (FrozenSeg, section 3.3): SAM's masks are added to the queries' masks.

This is not the ensemble of two classifiers, which is in `frozenseg.models.geometric_ensemble`.

Legend: Q queries, P proposals of SAM, K classes, h x w cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassifiedProposals:
    """SAM's masks of one image, classified by CLIP.

    class_logits: (P, K + 1), void last.
    mask_logits: (P, h, w) on the grid of the queries' masks.
    predicted_iou: (P,), SAM's own estimate of the masks' quality.
    seen: (K,) bool, whether a class is a seen class.
    """

    class_logits: Tensor
    mask_logits: Tensor
    predicted_iou: Tensor
    seen: Tensor


def semantic_weights(
    class_logits: Tensor,
    proposal_class_logits: Tensor,
    seen: Tensor,
    *,
    epsilon: float,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Return class weights (Q, K) of queries and (P, K) of proposals for semantic results.

    The semantic score is the sum of weight times mask probability over queries and proposals. For
    seen classes only the queries count. For unseen classes the queries have the share 1 - epsilon,
    and proposals whose best unseen class is more probable than `threshold` (xi in the paper) have
    the share epsilon.

    class_logits: (Q, K + 1), void last.
    proposal_class_logits: (P, K + 1), void last.
    seen: (K,) bool, whether a class is a seen class.
    """
    query_probs = class_logits.softmax(-1)[:, :-1]
    query_weights = query_probs * torch.where(seen, 1.0, 1 - epsilon)
    proposal_probs = unseen_probabilities(proposal_class_logits, seen, threshold)
    return query_weights, epsilon * proposal_probs


def unseen_probabilities(class_logits: Tensor, seen: Tensor, threshold: float) -> Tensor:
    """Return the probabilities (P, K) of unseen classes; those of seen classes are 0.

    All are 0 for a proposal whose best unseen class is not more probable than `threshold`.
    """
    probabilities = class_logits.softmax(-1)[:, :-1] * ~seen
    if not probabilities.shape[1]:
        return probabilities
    return probabilities * (probabilities.max(-1, keepdim=True).values > threshold)


def proposal_class_probs(
    proposals: ClassifiedProposals, *, weight: float, threshold: float
) -> Tensor:
    """Return class probabilities (P, K + 1), void last, with which proposals compete with queries.

    This is our extension: the published ensemble covers only semantic results. An unseen class gets
    `weight` times its probability by CLIP times SAM's estimate of the mask's quality; void gets the
    rest.
    """
    classes = unseen_probabilities(proposals.class_logits, proposals.seen, threshold)
    quality = proposals.predicted_iou.clamp(0, 1)[:, None]
    classes = (weight * quality * classes).clamp(max=1.0)
    return torch.cat((classes, 1 - classes.sum(-1, keepdim=True)), dim=-1)
