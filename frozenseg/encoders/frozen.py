"""Frozen encoders: their class, and which parts and entries of a model are frozen."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


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


def frozen_parts(model: nn.Module) -> set[str]:
    """Return the names of the frozen parts of a model, the outermost ones. Checkpoints of training
    leave them out."""
    parts: set[str] = set()
    # Parents come before their children; one module may stand under two names.
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Frozen) and part_of(name, parts) is None:
            parts.add(name)
    return parts


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """Return the part that a parameter, a buffer or a module belongs to, by its full name."""
    return next((part for part in parts if name.startswith(f"{part}.")), None)


def add_tensors(digest: Any, state: Mapping[str, Tensor]) -> None:
    """Feed names and values of tensors, in the order of the names, to a digest of hashlib."""
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def keep_digest(model: nn.Module) -> None:
    """Let `weights_digest` return what it is now, also when weights have been cast or folded for
    inference, which is done otherwise on each device. No weight may be trained from now on."""
    setattr(model, "kept_digest", weights_digest(model))  # noqa: B010 (nn.Module's type is other)


def weights_digest(model: nn.Module) -> str:
    """Return a digest of all weights of a model, of which none has been cast or folded, or that of
    `keep_digest`."""
    kept = getattr(model, "kept_digest", None)
    if isinstance(kept, str):
        return kept
    digest = hashlib.sha256()
    add_tensors(digest, model.state_dict())
    return digest.hexdigest()[:16]
