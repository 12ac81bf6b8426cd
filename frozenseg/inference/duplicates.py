"""Finds the duplicates among candidates when several queries predict the same object.

Training assigns one query to each object, but at inference several queries may predict the same
mask with the same class. In panoptic results they split the pixels of the object until none of them
keeps enough, and the object is lost; among instances, all but one are wrong. A mask that covers
several objects is equally harmful, whatever its class: it takes pixels of each of them and is then
dropped itself.

Legend: N candidates, each a mask with a class.
"""

import torch
from torch import Tensor


def duplicates(class_ids: Tensor, scores: Tensor, same: Tensor) -> Tensor:
    """Return which candidates have the class and the mask of a better candidate: (N,) bool.

    As in Fast NMS (YOLACT, arXiv 1904.02689), the better candidate may itself be a duplicate. Of
    candidates with equal scores, the first is the better one.

    class_ids, scores: (N,). same: (N, N) bool, whether two candidates have about the same mask.
    """
    return (same & (class_ids == class_ids[:, None]) & _better(scores)).any(1)


def uncovered(scores: Tensor, covers: Tensor) -> Tensor:
    """Return which candidates are kept, because no better kept candidate covers them: (N,) bool.

    Candidates are accepted one after another, the best first, as in the conversion of instances to
    a panoptic result in arXiv 1801.00868 (section 7); but here a candidate is compared with each
    better candidate separately. Of candidates with equal scores, the first is the better one.

    scores: (N,). covers: (N, N) bool, whether the mask of the second candidate (column) covers that
    of the first (row).
    """
    rivals = covers & _better(scores)
    kept = torch.ones_like(scores, dtype=torch.bool)
    # Each pass decides at least one more candidate, the best of those that are undecided, because
    # all its rivals are decided. This needs no stable sort, which ONNX lacks.
    for _ in range(len(scores)):
        kept = ~(rivals & kept).any(1)
    return kept


def _better(scores: Tensor) -> Tensor:
    """Return whether the second candidate (column) is better than the first (row): (N, N) bool."""
    places = torch.arange(len(scores), device=scores.device)
    return (scores > scores[:, None]) | ((scores == scores[:, None]) & (places < places[:, None]))
