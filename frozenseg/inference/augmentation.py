"""Test-time augmentation: semantic scores averaged over sizes and flips of an image.

Masks of different views belong to different queries and cannot be averaged; panoptic and instance
results therefore stay those of the plain view, as in detectron2's augmentation for semantic
segmentation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frozenseg.data.transforms import resize_image, resize_shortest_edge

Scorer = Callable[[Tensor], np.ndarray]
"""(3, h, w) RGB 0-255 -> (K, H, W) scores at the size of the result."""


@dataclass(frozen=True)
class View:
    """image: (3, h, w) uint8. flipped: left and right have changed places."""

    image: Tensor
    flipped: bool


def views(
    image: np.ndarray, *, short_sides: tuple[int, ...], long_side: int, flip: bool
) -> Iterator[View]:
    """The image (H, W, 3) uint8 at each shorter side, each also mirrored with `flip`."""
    for short in short_sides:
        size = resize_shortest_edge(image.shape[0], image.shape[1], short, long_side)
        resized = torch.from_numpy(np.array(resize_image(image, size))).permute(2, 0, 1)
        yield View(resized, flipped=False)
        if flip:
            yield View(resized.flip(-1), flipped=True)


def average_scores(score: Scorer, of: Iterator[View]) -> np.ndarray:
    """The mean (K, H, W) of the scores of all views, mirrored ones turned back."""
    total, count = None, 0
    for view in of:
        scores = score(view.image)
        scores = scores[..., ::-1] if view.flipped else scores
        total = scores.copy() if total is None else np.add(total, scores, out=total)
        count += 1
    assert total is not None, "at least one view"
    return total / count
