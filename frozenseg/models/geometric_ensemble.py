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
    """Class logits (B, Q, K + 1), void last: scaled cosines of embeddings and text.

    A class with several names takes the logit of the best of them (OpenSeg, arXiv 2112.12143). The
    product is computed in float32, because bfloat16 has steps of 0.5 at a logit of 100.

    embeddings: (B, Q, D), not normalised.
    void: (1, D), the learned embedding of "no object", not normalised.
    logit_scale: the logarithm of the scale, which is limited to 100.
    """
    weight = torch.cat((text.weight, F.normalize(void, dim=-1)))  # (S + 1, D)
    scale = logit_scale.exp().clamp(max=100)
    with in_float32(weight):
        name_logits = scale * F.normalize(embeddings.float(), dim=-1) @ weight.T  # (B, Q, S + 1)
    index = torch.cat((text.class_index, text.class_index.new_full((1,), text.num_classes)))
    logits = name_logits.new_empty(*name_logits.shape[:-1], text.num_classes + 1)
    return logits.scatter_reduce(
        -1, index.expand_as(name_logits), name_logits, reduce="amax", include_self=False
    )


@dataclass
class TextAndVoid:
    """Classifies embeddings by a vocabulary. text, void: as of `class_logits`."""

    text: TextEmbeddings
    void: Tensor

    def __call__(self, embeddings: Tensor, logit_scale: Tensor) -> Tensor:
        """As `class_logits`."""
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

    After FC-CLIP (arXiv 2308.02487, section 3): p = p_in^(1 - w) * p_out^w, where w is alpha for
    seen and beta for unseen classes. All steps start from log-softmax, so that no probability
    underflows to log(0).

    in_logits: (B, Q, K + 1) of the trained classifier, void last.
    out_logits: (B, Q, K + 1) of CLIP's own classifier; its void logit is not used.
    seen: (K,) bool.
    valid: (B, Q) bool; where False, the in-vocabulary classifier alone counts.
    void_factor: what the odds of void are multiplied by; 1: as published.
    void_to_unseen: share of the claim of CLIP's own classifier on void, see `unseen_in_void`; 0: as
        published.
    Returns log-probabilities (B, Q, K + 1).
    """
    weight = torch.where(seen, alpha, beta).to(in_logits.dtype)  # (K,)
    if valid is not None:
        weight = weight * valid[..., None]
    mixed = (1 - weight) * in_logits[..., :-1].log_softmax(-1) + weight * out_logits[
        ..., :-1
    ].log_softmax(-1)
    if void_factor != 1:  # as logits, since odds may be infinite
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
    """Return the probabilities (B, Q, K) of void and of an unseen class at once; 0 for seen ones.

    In training regions of unseen classes are without annotation and are called void, so the void of
    the in-vocabulary classifier stands for both: nothing, or an unseen class. Which of the two, and
    which class, is up to CLIP's own classifier: p(unseen class k, void) = p_void * p_out(k).

    void: (B, Q, 1) probability of void. The rest as of `geometric_ensemble`.
    """
    claims = void * out_logits[..., :-1].softmax(-1) * ~seen
    return claims if valid is None else claims * valid[..., None]
