"""Choose the activation function of a CLIP model: GELU or QuickGELU."""

from pathlib import Path

from torch import nn

from frozenseg.checkpoints.quick_gelu import tell_quick_gelu
from frozenseg.encoders.clip_text import has_quick_gelu
from frozenseg.errors import UserError


def uses_quick_gelu(*, name: str, weights: str, choice: str, key: str, allow_random: bool) -> bool:
    """Return whether the CLIP model `name` with these weights is built with QuickGELU.

    weights: a tag of open_clip or a file.
    choice: "yes", "no" or "auto", which asks `tell_quick_gelu`.
    key: the configuration key of `choice`, for the `UserError` if `tell_quick_gelu` cannot tell.
    allow_random: whether absent weights are replaced by random ones, for which the activation does
        not matter.
    """
    if choice != "auto":
        return choice == "yes"
    answer = tell_quick_gelu(name, weights)
    if answer is None and not (allow_random and not Path(weights).is_file()):
        raise UserError(
            f"{key}: the weights {weights or '(none named)'} of {name} do not tell whether they "
            "were trained with QuickGELU, as OpenAI's were; set this key to yes or no"
        )
    return bool(answer)


def said_quick_gelu(module: nn.Module) -> str:
    """Return the value of a *_QUICK_GELU key that builds this module: "yes" or "no"."""
    return "yes" if has_quick_gelu(module) else "no"
