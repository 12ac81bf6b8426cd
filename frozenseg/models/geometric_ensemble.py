"""Open-vocabulary classification: cosine logits, and the geometric ensemble of two classifiers.

Legend: B images, Q queries, K classes, S names, D dimension of the joint space.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.runtime.precision import in_float32
from frozenseg.structures import TextEmbeddings


def class_logits(
    embeddings: Tensor, text: TextEmbeddings, void: Tensor, logit_scale: Tensor
) -> Tensor:
    """Return class logits (B, Q, K + 1), void last: scaled cosines of embeddings and text.

    A class with several names takes the largest of their logits (OpenSeg, arXiv 2112.12143). The
    product is computed in float32, because near a logit of 100 bfloat16 numbers are 0.5 apart.

    embeddings: (B, Q, D), not normalised.
    void: (1, D), the learned embedding of "no object", not normalised.
    logit_scale: the logarithm of the scale; the scale itself is limited to 100.
    """
    weight = torch.cat((text.weight, F.normalize(void, dim=-1)))  # (S + 1, D)
    scale = logit_scale.exp().clamp(max=100)
    with in_float32(weight):
        name_logits = scale * F.normalize(embeddings.float(), dim=-1) @ weight.T  # (B, Q, S + 1)
    index = torch.cat((text.class_index, text.class_index.new_full((1,), text.num_classes)))
    # Not with include_self=False: the gradient of PyTorch's scatter_reduce would still count the
    # numbers that were in the tensor before. If they equal the result, e.g. in uninitialised memory
    # that holds an earlier one, the gradient is halved.
    logits = name_logits.new_full((*name_logits.shape[:-1], text.num_classes + 1), -math.inf)
    return logits.scatter_reduce(-1, index.expand_as(name_logits), name_logits, reduce="amax")


@dataclass
class TextAndVoid:
    """Classifies embeddings by a vocabulary. text, void: as in `class_logits`."""

    text: TextEmbeddings
    void: Tensor

    def __call__(self, embeddings: Tensor, logit_scale: Tensor) -> Tensor:
        """See `class_logits`."""
        return class_logits(embeddings, self.text, self.void, logit_scale)


def geometric_ensemble(
    in_logits: Tensor,
    out_logits: Tensor,
    seen: Tensor,
    *,
    alpha: float,
    beta: float,
    valid: Tensor | None = None,
    void_factor: float = 1.0,
    void_to_unseen: float = 0.0,
) -> Tensor:
    """Return the geometric ensemble of the in-vocabulary and the out-of-vocabulary classifier.

    It follows FC-CLIP (arXiv 2308.02487, section 3): p = p_in^(1 - w) * p_out^w, where w is alpha
    for seen and beta for unseen classes. All steps start from log-softmax, so that no probability
    underflows to log(0).

    in_logits: (B, Q, K + 1), logits of the trained classifier, void last.
    out_logits: (B, Q, K + 1), logits of CLIP's own classifier; its void logit is not used.
    seen: (K,) bool, whether a class is a seen class.
    valid: (B, Q) bool; where it is False, only the in-vocabulary classifier counts.
    void_factor: factor by which the odds of void are multiplied; 1: as published.
    void_to_unseen: share of the probability `unseen_in_void` that is moved from void to the unseen
        classes; 0: as published.
    Returns log-probabilities (B, Q, K + 1).
    """
    weight = torch.where(seen, alpha, beta).to(in_logits.dtype)  # (K,)
    if valid is not None:
        weight = weight * valid[..., None]
    mixed = (1 - weight) * in_logits[..., :-1].log_softmax(-1) + weight * out_logits[
        ..., :-1
    ].log_softmax(-1)
    if void_factor != 1:  # applied to the logits, since the odds may be infinite
        shift = math.log(void_factor) if void_factor else -math.inf
        in_logits = torch.cat((in_logits[..., :-1], in_logits[..., -1:] + shift), dim=-1)
    void = in_logits.softmax(-1)[..., -1:]
    classes = mixed.softmax(-1) * (1 - void)
    if void_to_unseen:
        claims = void_to_unseen * unseen_in_void(out_logits, seen, void, valid)
        classes, void = classes + claims, void - claims.sum(-1, keepdim=True)
    probabilities = torch.cat((classes, void), dim=-1)
    return torch.log(probabilities + 1e-8)  # 1e-8: as published


def unseen_in_void(
    out_logits: Tensor, seen: Tensor, void: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Return the joint probabilities (B, Q, K) of void and each unseen class; 0 for seen classes.

    In training, regions of unseen classes have no annotation and are labelled void. The void of the
    in-vocabulary classifier therefore means one of two things: no object, or an unseen class.
    CLIP's own classifier decides between the two, and between the unseen classes:
    p(unseen class k, void) = p_void * p_out(k).

    void: (B, Q, 1), the probability of void. The other arguments are as in `geometric_ensemble`.
    """
    claims = void * out_logits[..., :-1].softmax(-1) * ~seen
    return claims if valid is None else claims * valid[..., None]
