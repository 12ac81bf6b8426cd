"""Segments over time: what the measures of videos compare."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Tubes:
    """The segments of a video, predicted or true.

    ids: (T, H, W) int, the identity at each pixel of each frame, 0 for void.
    classes: the class of each identity. things: the identities of things.
    """

    ids: np.ndarray
    classes: dict[int, int]
    things: set[int]

    def compact(self) -> tuple[np.ndarray, list[int]]:
        """Return the map (T, H, W) with numbers from 1 for identities, and these in their order."""
        known = sorted(self.classes)
        index = np.searchsorted(known, self.ids).clip(max=max(0, len(known) - 1))
        numbers = np.where(self.ids > 0, index + 1, 0) if known else np.zeros_like(self.ids)
        return numbers, known


def shared_pixels(one: np.ndarray, other: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Count the pixels that two maps share, (M + 1, N + 1), for their numbers 0-M and 0-N.

    sizes: (M, N).
    """
    width = sizes[1] + 1
    pairs = one.ravel().astype(np.int64) * width + other.ravel()
    return np.bincount(pairs, minlength=(sizes[0] + 1) * width).reshape(-1, width)
