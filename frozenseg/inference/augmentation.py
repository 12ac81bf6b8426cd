"""Test-time augmentation: semantic scores averaged over several sizes and flips of an image.

Masks of different views belong to different queries and cannot be averaged. Panoptic and instance
results are therefore taken from the plain view, as in detectron2's `SemanticSegmentorWithTTA`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from frozenseg.data.transforms import resize_to_tensor

Scorer = Callable[[Tensor], np.ndarray]
"""Maps an image (3, h, w), RGB 0-255, to scores (K, H, W) at output size."""


@dataclass(frozen=True)
class View:
    """One version of an image.

    image: (3, h, w) uint8. flipped: whether the image is mirrored left to right.
    """

    image: Tensor
    flipped: bool


def views(
    image: np.ndarray, *, short_sides: tuple[int, ...], long_side: int, flip: bool
) -> Iterator[View]:
    """Yield the image (H, W, 3) uint8 resized to each shorter side; with `flip`, also mirrored.

    long_side: limit of the longer side, in pixels.
    """
    for short in short_sides:
        resized = resize_to_tensor(image, short, long_side)
        yield View(resized, flipped=False)
        if flip:
            yield View(resized.flip(-1), flipped=True)


def average_scores(score: Scorer, all_views: Iterator[View]) -> np.ndarray:
    """Return the mean scores (K, H, W) of all views; those of mirrored views are mirrored back."""
    total, count = None, 0
    for view in all_views:
        scores = score(view.image)
        scores = scores[..., ::-1] if view.flipped else scores
        total = scores.copy() if total is None else np.add(total, scores, out=total)
        count += 1
    assert total is not None, "there must be at least one view"
    return total / count
