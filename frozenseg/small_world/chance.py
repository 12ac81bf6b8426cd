"""Draws that several parts of a scene make alike."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Word(Protocol):
    """A noun or a ground."""

    @property
    def seen(self) -> bool:
        """Whether the word is annotated in the training masks."""


def pick(
    generator: np.random.Generator,
    table: Mapping[str, Word],
    names: Sequence[str],
    unseen_weight: float,
) -> str:
    """Draw one of `names`; an unseen word comes `unseen_weight` times as often as a seen one."""
    if unseen_weight == 1:  # other draws than with shares: scenes of version 1 stay as they were
        return str(generator.choice(list(names)))
    weights = np.array([1.0 if table[name].seen else unseen_weight for name in names])
    if not weights.any():  # nothing but unseen words fits here
        weights[:] = 1.0
    return str(generator.choice(list(names), p=weights / weights.sum()))
