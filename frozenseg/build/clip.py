"""The activation of a CLIP, as a configuration chooses it."""

from pathlib import Path

from frozenseg.checkpoints.quick_gelu import tell_quick_gelu
from frozenseg.errors import UserError


def uses_quick_gelu(*, name: str, weights: str, choice: str, key: str, allow_random: bool) -> bool:
    """Whether the CLIP `name` with these weights is built with QuickGELU.

    weights: a tag of open_clip or a file. choice: "yes", "no" or "auto", which asks
    `tell_quick_gelu`. key: of `choice`, for the error where that cannot tell. allow_random: weights
    that are absent may be random, and then the activation does not matter.
    """
    if choice != "auto":
        return choice == "yes"
    answer = tell_quick_gelu(name, weights)
    if answer is None and not (allow_random and not Path(weights).is_file()):
        raise UserError(
            f"{key}: whether {name} with the weights {weights or '(none named)'} was trained with "
            "QuickGELU, as OpenAI's were, shows neither in their name nor in their entries; set "
            "this key to yes or no"
        )
    return bool(answer)
