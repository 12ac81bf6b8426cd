"""Objects that several queries find, of which one counts.

Training gives each object one query, yet at test several may give one mask the same class. In
panoptic results they divide its pixels until none keeps enough of them, and the object has no name;
among instances all but one are wrong.

Legend: N finds, each a mask with a class.
"""

import torch
from torch import Tensor


def duplicates(class_ids: Tensor, scores: Tensor, same: Tensor) -> Tensor:
    """Tell which finds have the class and the mask of a better one: (N,) bool.

    As Fast NMS (YOLACT, arXiv 1904.02689): the better one need not stay itself. Of equal ones the
    first is the better.

    class_ids, scores: (N,). same: (N, N) bool, whether two of them have about the same mask.
    """
    places = torch.arange(len(scores), device=scores.device)
    better = (scores > scores[:, None]) | ((scores == scores[:, None]) & (places < places[:, None]))
    return (same & (class_ids == class_ids[:, None]) & better).any(1)
