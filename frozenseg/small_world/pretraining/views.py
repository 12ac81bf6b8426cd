"""Two views of each picture, for training without names.

A network learns to recognise what both views of a picture share and other pictures do not have.
Therefore colours, brightness, place and scale differ between the views, but not what the picture
shows.

Legend: S pixels per side.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.small_world.pretraining.clip import MIXTURE
from frozenseg.small_world.scene import make_scene

SHARES = (0.35, 1.0)  # of a picture's area that a view shows
RATIOS = (3 / 4, 4 / 3)  # width to height of what a view shows
GREY = 0.2  # how often a view has no colour
GAIN, SATURATION = 0.25, 0.6  # the largest deviations from 1 of a gain and of the colourfulness


class ViewPairs(Dataset[tuple[Tensor, ...]]):
    """Pairs of views (2, 3, S, S) uint8; pair i depends only on the seed and i.

    The pictures are those of the small CLIP's first stage and mostly show one thing. The published
    networks that learn without names also learned from pictures of one thing each (ImageNet).
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
    """Return a window of random area and aspect ratio, limited to the size of the image."""
    height, width = image.shape[:2]
    area = height * width * generator.uniform(*SHARES)
    ratio = np.exp(generator.uniform(*np.log(RATIOS)))
    rows = min(height, max(1, round(np.sqrt(area / ratio))))
    columns = min(width, max(1, round(np.sqrt(area * ratio))))
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return image[top : top + rows, left : left + columns]


def _colours(generator: np.random.Generator) -> np.ndarray:
    """Return a random matrix (3, 3) by which a row of RGB is multiplied: gains and saturation."""
    gains = generator.uniform(1 - GAIN, 1 + GAIN) * generator.uniform(1 - GAIN, 1 + GAIN, 3)
    left = 0.0 if generator.random() < GREY else generator.uniform(1 - SATURATION, 1 + SATURATION)
    grey = np.full((3, 3), 1 / 3)
    return ((left * np.eye(3) + (1 - left) * grey) * gains).astype(np.float32)
