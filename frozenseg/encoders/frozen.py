"""What frozen encoders have in common."""

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)

# Top-level names of frozen encoders in all models: of FrozenSeg, and of Fusioner. Checkpoints of
# training leave them out.
FROZEN_PARTS = ("clip", "sam", "visual", "text")


class Frozen(nn.Module):
    """A module that never trains: no gradients, and eval mode whatever its parent does.

    Batch statistics of a "frozen" encoder left in training mode drift, which the published code let
    happen to MobileSAM (PAPERS.md 1.6, 14).
    """

    def freeze(self, module: Module) -> Module:
        """Take `module` out of training and return it."""
        return module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)
