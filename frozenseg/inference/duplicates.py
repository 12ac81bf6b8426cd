"""Objects that several queries find, of which one counts.

Training gives each object one query, yet at test several may give one mask the same class. In
panoptic results they divide its pixels until none keeps enough of them, and the object has no name;
among instances all but one are wrong. A mask that reaches over several objects does the same harm,
whatever its class: it takes pixels of each, and is then dropped itself.

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


def uncovered(scores: Tensor, covers: Tensor) -> Tensor:
    """Tell which finds no better one covers, where only those that stay cover others: (N,) bool.

    The best one stays, and then one after another, as instances become a panoptic result in arXiv
    1801.00868 (section 7); but a find is compared with one better find at a time. Of equal ones the
    first is the better.

    scores: (N,). covers: (N, N) bool, whether the second one's mask covers that of the first.
    """
    order = scores.argsort(descending=True, stable=True)
    stays = torch.ones_like(order, dtype=torch.bool)
    covers = covers[order][:, order].tril(-1)  # by better ones
    for place in range(len(order)):
        stays = stays & ~(covers[:, place] & stays[place])
    return torch.zeros_like(stays).scatter(0, order, stays)
