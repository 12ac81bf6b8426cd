"""The random choice of a noun or a ground, in which unseen words may be rarer than seen ones."""

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
    """Draw one of `names`; an unseen word is `unseen_weight` times as likely as a seen one."""
    if unseen_weight == 1:  # drawing with weights would change the scenes of version 1
        return str(generator.choice(list(names)))
    weights = np.array([1.0 if table[name].seen else unseen_weight for name in names])
    if not weights.any():  # there are only unseen words, and their weight is 0
        weights[:] = 1.0
    return str(generator.choice(list(names), p=weights / weights.sum()))
