"""OpenSeg Ensemble: SAM's masks join the queries' (FrozenSeg, section 3.3).

Legend: Q queries, P proposals of SAM, K classes, h x w cells.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassifiedProposals:
    """SAM's masks of one image, with what CLIP says of them.

    class_logits: (P, K + 1), void last. mask_logits: (P, h, w) on the grid of the queries' masks.
    predicted_iou: (P,) SAM's own estimate. seen: (K,) bool.
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
    """Class weights (Q, K) of queries and (P, K) of proposals; the sum over both of weight times
    mask probability is the joint semantic score.

    For seen classes the queries count alone; for the others (1 - epsilon) of them and epsilon of
    those proposals whose best unseen class is more probable than `threshold` (xi).

    class_logits (Q, K + 1) and proposal_class_logits (P, K + 1), void last; seen (K,) bool.
    """
    of_queries = class_logits.softmax(-1)[:, :-1]
    of_queries = of_queries * torch.where(seen, 1.0, 1 - epsilon)
    of_proposals = unseen_probabilities(proposal_class_logits, seen, threshold)
    return of_queries, epsilon * of_proposals


def unseen_probabilities(class_logits: Tensor, seen: Tensor, threshold: float) -> Tensor:
    """(P, K) probabilities of unseen classes, 0 for seen ones, and for all classes of a proposal
    whose best unseen class is not more probable than `threshold`."""
    probabilities = class_logits.softmax(-1)[:, :-1] * ~seen
    if not probabilities.shape[1]:
        return probabilities
    return probabilities * (probabilities.max(-1, keepdim=True).values > threshold)


def proposal_class_probs(
    evidence: ClassifiedProposals, *, weight: float, threshold: float
) -> Tensor:
    """Class probabilities (P, K + 1), void last, with which proposals compete as queries do.

    Ours; the published ensemble knows semantic results only. An unseen class gets `weight` times
    its probability by CLIP times SAM's own estimate of the mask, void the rest.
    """
    classes = unseen_probabilities(evidence.class_logits, evidence.seen, threshold)
    quality = evidence.predicted_iou.clamp(0, 1)[:, None]
    classes = (weight * quality * classes).clamp(max=1.0)
    return torch.cat((classes, 1 - classes.sum(-1, keepdim=True)), dim=-1)
