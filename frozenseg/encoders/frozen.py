"""Frozen encoders: their base class, and functions that find the frozen parts of a model."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Frozen(nn.Module):
    """A module that is never trained: it has no gradients and always stays in evaluation mode.

    If a "frozen" encoder is left in training mode, its batch statistics drift. In the published
    code of FrozenSeg this happens to MobileSAM.
    """

    def freeze(self, module: Module) -> Module:
        """Disable gradients and training mode of `module`, and return it."""
        return module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


def frozen_parts(model: nn.Module) -> set[str]:
    """Return the names of the outermost frozen parts of a model.

    Checkpoints of training do not contain their weights.
    """
    parts: set[str] = set()
    # Parents come before their children; a module may have two names.
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Frozen) and part_of(name, parts) is None:
            parts.add(name)
    return parts


def part_of(name: str, parts: Iterable[str]) -> str | None:
    """Return the one of `parts` that contains the parameter, buffer or module of this full name."""
    return next((part for part in parts if name.startswith(f"{part}.")), None)


def add_tensors(digest: Any, state: Mapping[str, Tensor]) -> None:
    """Add the names and values of tensors, sorted by name, to a hashlib digest."""
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def keep_digest(model: nn.Module) -> None:
    """Store the current digest, so that `weights_digest` returns it even after weights have been
    cast or folded for inference, which differs between devices.

    No weight may be trained from now on.
    """
    setattr(model, "kept_digest", weights_digest(model))  # noqa: B010 (mypy rejects an assignment)


def weights_digest(model: nn.Module) -> str:
    """Return a digest of all weights of a model: the one stored by `keep_digest`, or else of the
    current weights, which must not have been cast or folded."""
    kept = getattr(model, "kept_digest", None)
    if isinstance(kept, str):
        return kept
    digest = hashlib.sha256()
    add_tensors(digest, model.state_dict())
    return digest.hexdigest()[:16]
