"""What frozen encoders have in common."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

# Top-level names of frozen encoders in all models: of FrozenSeg, and of Fusioner. Checkpoints of
# training leave them out.
FROZEN_PARTS = ("clip", "sam", "visual", "text")


class Frozen(nn.Module):
    """A module that never trains: no gradients, and eval mode whatever its parent does.

    Batch statistics of a "frozen" encoder left in training mode drift, which the published code
    of FrozenSeg lets happen to MobileSAM.
    """

    def freeze(self, module: Module) -> Module:
        """Take `module` out of training and return it."""
        return module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode."""
        return super().train(False)


def add_tensors(digest: Any, state: Mapping[str, Tensor]) -> None:
    """Add names and values to a digest of hashlib, in the order of the names."""
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def weights_digest(model: nn.Module) -> str:
    """Of all weights of a model."""
    digest = hashlib.sha256()
    add_tensors(digest, model.state_dict())
    return digest.hexdigest()[:16]
