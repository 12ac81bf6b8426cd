"""Flip, resize and crop images together with their label maps.

A transform takes an image (H, W, 3) uint8 RGB, L label maps (H, W) with 0 for unlabelled, and a
random generator. It returns the image and the maps in their new size, the maps as one array
(L, h, w). It processes the maps one after the other, so that they need not all be in memory. Images
are resized by Pillow's bilinear filter, as in the published work, and labels by the nearest pixel.
Labels are maps rather than masks: one map holds all segments of an image, and masks are cut out
afterwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Transform(Protocol):
    """Changes an image and its label maps together."""

    def __call__(
        self, image: np.ndarray, labels: Iterable[np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and its label maps in their new size."""


def seeded_generator(seed: int, *key: int) -> np.random.Generator:
    """Make a random generator that depends only on the seed and the key.

    Generators of different keys are independent of each other.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def resize_shortest_edge(
    height: int, width: int, short: int = 800, long: int = 1333
) -> tuple[int, int]:
    """Return the (height, width) whose shorter side is `short`, or whose longer side is `long`.

    The smaller of the two sizes is taken; if `short` is 0, the size stays as it is. Sides are
    rounded as in detectron2, so that images have exactly the size of the published evaluations.
    """
    if short == 0:
        return height, width
    scale = short / min(height, width)
    new_height, new_width = scale * height, scale * width
    longest = max(new_height, new_width)
    if longest > long:
        new_height, new_width = new_height * (long / longest), new_width * (long / longest)
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 to `size` (height, width) by Pillow's bilinear filter."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def image_tensor(image: np.ndarray) -> Tensor:
    """Return an image (H, W, 3) as a tensor (3, H, W) with its own memory."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def resize_to_tensor(image: np.ndarray, short: int, long: int) -> Tensor:
    """Resize an image (H, W, 3) uint8 as `resize_shortest_edge` says; return (3, h, w) uint8."""
    size = resize_shortest_edge(image.shape[0], image.shape[1], short, long)
    return image_tensor(resize_image(image, size))


def nearest_positions(size: int, new_size: int) -> np.ndarray:
    """Return, for each of `new_size` pixels along an axis, the old pixel under its centre."""
    # Integer arithmetic avoids rounding errors.
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize label maps (..., H, W) to `size` (height, width) by the nearest pixel."""
    rows, columns = map(nearest_positions, labels.shape[-2:], size)
    return labels.take(rows, axis=-2).take(columns, axis=-1)


def _stacked(maps: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return label maps of one size (height, width) as one array (L, H, W)."""
    listed = [*maps]
    return np.stack(listed) if listed else np.zeros((0, *size), np.uint8)


@dataclass(frozen=True, kw_only=True)
class ShortestEdgeResize:
    """The resize at test time, which draws no random numbers."""

    short: int = 800
    long: int = 1333

    def __call__(
        self, image: np.ndarray, labels: Iterable[np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and its label maps in their new size."""
        size = resize_shortest_edge(image.shape[0], image.shape[1], self.short, self.long)
        resized = (resize_labels(label, size) for label in labels)
        return resize_image(image, size), _stacked(resized, size)


@dataclass(frozen=True, kw_only=True)
class LargeScaleJitter:
    """Random flip, scale and crop to `size` x `size` (arXiv 2012.07177).

    The image is scaled to fit a square of `scale * size` pixels, scale uniform in [min_scale,
    max_scale], keeping its aspect. What exceeds `size` is cropped at a random place; what is
    missing is padded at the bottom and right, with `pad_value` in the image and 0 in the labels.

    diagonal: whether one random number places the crop along both axes, as in detectron2's
        `FixedSizeCrop`; otherwise each axis has its own.
    """

    size: int = 1024
    min_scale: float = 0.1
    max_scale: float = 2.0
    flip_probability: float = 0.5
    pad_value: int = 128
    diagonal: bool = True

    def __call__(
        self, image: np.ndarray, labels: Iterable[np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and its label maps in their new size."""
        # The number of draws is always the same, so that no option shifts the draws after it.
        flip, scale, top, left = generator.random(4)
        flipped = flip < self.flip_probability
        if self.diagonal:
            left = 1 - top if flipped else top  # the published crop is cut after the flip
        height, width = image.shape[:2]
        target = self.size * (self.min_scale + scale * (self.max_scale - self.min_scale))
        factor = target / max(height, width)
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        rows = self._window(scaled[0], top)
        columns = self._window(scaled[1], left)
        window = resize_image(image, scaled)[rows, columns]
        row_source = nearest_positions(height, scaled[0])[rows]
        column_source = nearest_positions(width, scaled[1])[columns]
        step = -1 if flipped else 1

        def cut(label: np.ndarray) -> np.ndarray:
            return self._padded(label.take(row_source, 0).take(column_source, 1)[:, ::step], 0)

        maps = _stacked(map(cut, labels), (self.size, self.size))
        return self._padded(window[:, ::step], self.pad_value), maps

    @property
    def num_views(self) -> int | None:
        """The number of different views of an image; None if a random scale or crop varies them."""
        if self.min_scale != self.max_scale or self.max_scale > 1:
            return None
        return 2 if 0 < self.flip_probability < 1 else 1

    def _window(self, scaled: int, share: float) -> slice:
        start = round(max(scaled - self.size, 0) * share)
        return slice(start, start + min(scaled, self.size))

    def _padded(self, window: np.ndarray, value: int) -> np.ndarray:
        """Put a window (h, w, ...) at the top left of a square; the rest of it is `value`."""
        square = np.full((self.size, self.size, *window.shape[2:]), value, dtype=window.dtype)
        square[: window.shape[0], : window.shape[1]] = window
        return square
