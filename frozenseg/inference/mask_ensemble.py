"""OpenSeg Ensemble: SAM's masks join the queries' in semantic results (FrozenSeg, section 3.3).

Legend: Q queries, P proposals of SAM, K classes, H x W pixels.
"""

import torch
from torch import Tensor


def add_sam_masks(
    class_logits: Tensor,
    mask_logits: Tensor,
    proposal_class_logits: Tensor,
    proposal_logits: Tensor,
    seen: Tensor,
    *,
    epsilon: float,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Class weights and masks whose product is the joint semantic score.

    For seen classes the queries count alone; for the others (1 - epsilon) of them and epsilon of
    those proposals whose best unseen class is more probable than `threshold` (xi).

    class_logits (Q, K + 1) and proposal_class_logits (P, K + 1), void last; mask_logits (Q, H, W);
    proposal_logits (P, H, W); seen (K,) bool. Returns class weights (Q + P', K) and mask logits
    (Q + P', H, W) of the queries and the P' proposals that passed.
    """
    of_queries = class_logits.softmax(-1)[:, :-1]
    of_queries = of_queries * torch.where(seen, 1.0, 1 - epsilon)
    of_proposals = proposal_class_logits.softmax(-1)[:, :-1] * ~seen
    passed = of_proposals.max(-1).values > threshold
    weights = torch.cat((of_queries, epsilon * of_proposals[passed]))
    return weights, torch.cat((mask_logits, proposal_logits[passed]))
