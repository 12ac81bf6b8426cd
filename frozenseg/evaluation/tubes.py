"""Tubes, which are segments over the frames of a video; the video metrics compare them."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Tubes:
    """The tubes of a video, predicted or true.

    ids: (T, H, W) int, the identity at each pixel of each of T frames, 0 for void.
    classes: {identity: its class}. things: the identities whose class is a thing. crowds: the true
    identities that are crowd regions, which nobody has to find.
    """

    ids: np.ndarray
    classes: dict[int, int]
    things: set[int]
    crowds: set[int] = field(default_factory=set)

    def compact(self) -> tuple[np.ndarray, list[int]]:
        """Return `ids` with the identities renumbered from 1, and the list of N identities, where
        number n stands for entry n - 1."""
        known = sorted(self.classes)
        index = np.searchsorted(known, self.ids).clip(max=max(0, len(known) - 1))
        numbers = np.where(self.ids > 0, index + 1, 0) if known else np.zeros_like(self.ids)
        return numbers, known


def shared_pixels(one: np.ndarray, other: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Return (M + 1, N + 1) int64, how many pixels have each pair of numbers in two maps.

    sizes: (M, N), the largest numbers of the two maps.
    """
    width = sizes[1] + 1
    pairs = one.ravel().astype(np.int64) * width + other.ravel()
    return np.bincount(pairs, minlength=(sizes[0] + 1) * width).reshape(-1, width)
