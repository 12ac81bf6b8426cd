"""The weights of losses in the total that training minimises."""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

Loss = TypeVar("Loss", Tensor, float)


def weighted_losses(losses: Mapping[str, Loss], weights: Mapping[str, float]) -> dict[str, Loss]:
    """Return each loss times its weight; their sum is the total loss.

    weights: by the name of the loss without the number of the output, so that the weight of
    `loss_mask` is also that of `loss_mask_0`, the same loss of the first auxiliary output.
    """
    return {name: weights["_".join(name.split("_")[:2])] * loss for name, loss in losses.items()}
