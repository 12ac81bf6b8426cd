"""Two views of a picture each, for training without names.

What both views share and other pictures do not is what a network then learns to tell. Hence colours
and brightness, place and scale differ between the views, and what a picture shows does not.

Legend: S pixels a side.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.small_world.pretraining.clip import MIXTURE
from frozenseg.small_world.scene import make_scene

SHARES = (0.35, 1.0)  # of a picture's area, in a view
RATIOS = (3 / 4, 4 / 3)  # width by height of what a view shows
GREY = 0.2  # how often a view has no colour
GAIN, SATURATION = 0.25, 0.6  # most that a channel's gain and the colourfulness differ from 1


class ViewPairs(Dataset[tuple[Tensor, ...]]):
    """Pairs of views (2, 3, S, S) uint8; (seed, i) alone makes pair i.

    The pictures are those of the small CLIP's first stage, mostly of one thing: networks that learn
    without names learned from pictures of one thing each as well (ImageNet).
    """

    def __init__(self, *, seed: int, side: int) -> None:
        self.seed, self.side = seed, side

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        generator = np.random.default_rng([self.seed, index])
        row = generator.choice(len(MIXTURE), p=[share for share, _ in MIXTURE])
        image = make_scene(self.seed, "clip", index, MIXTURE[row][1]).image
        views = [view(image, self.side, generator) for _ in range(2)]
        return (torch.from_numpy(np.stack(views).transpose(0, 3, 1, 2).copy()),)


def view(image: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    """Return a random window of an image (H, W, 3) uint8 as (S, S, 3) uint8, in other colours."""
    seen = cv2.resize(_window(image, generator), (side, side), interpolation=cv2.INTER_LINEAR)
    if generator.random() < 0.5:
        seen = seen[:, ::-1]
    return np.clip(seen.astype(np.float32) @ _colours(generator) + 0.5, 0, 255).astype(np.uint8)


def _window(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a window of random area and shape, as large as the image lets it be."""
    height, width = image.shape[:2]
    area = height * width * generator.uniform(*SHARES)
    ratio = np.exp(generator.uniform(*np.log(RATIOS)))
    rows = min(height, max(1, round(np.sqrt(area / ratio))))
    columns = min(width, max(1, round(np.sqrt(area * ratio))))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return image[top : top + rows, left : left + columns]


def _colours(generator: np.random.Generator) -> np.ndarray:
    """Return a matrix (3, 3) that a row of RGB is multiplied by: gains, and less or more colour."""
    gains = generator.uniform(1 - GAIN, 1 + GAIN) * generator.uniform(1 - GAIN, 1 + GAIN, 3)
    left = 0.0 if generator.random() < GREY else generator.uniform(1 - SATURATION, 1 + SATURATION)
    grey = np.full((3, 3), 1 / 3)
    return ((left * np.eye(3) + (1 - left) * grey) * gains).astype(np.float32)
