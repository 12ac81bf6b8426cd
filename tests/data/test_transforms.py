"""Resizes against known sizes, and labels against the pixels of the transformed image."""

import numpy as np
import pytest
from PIL import Image

from frozenseg.data.transforms import (
    LargeScaleJitter,
    ShortestEdgeResize,
    nearest_positions,
    resize_shortest_edge,
    seeded_generator,
)


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((427, 640), 800, 1333, (800, 1199)),
        ((640, 427), 800, 1333, (1199, 800)),
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((360, 640), 800, 1333, (750, 1333)),
        ((500, 375), 800, 1333, (1067, 800)),
        ((333, 500), 800, 1333, (800, 1201)),
        ((640, 640), 800, 1333, (800, 800)),
        ((512, 683), 800, 1333, (800, 1067)),
        ((426, 640), 800, 1333, (800, 1202)),
        ((1024, 2048), 1024, 2560, (1024, 2048)),
        ((300, 12000), 800, 1333, (33, 1333)),
        ((1, 12000), 800, 1333, (1, 1333)),
    ],
)
def test_resize_shortest_edge(size, short, long, expected):
    assert resize_shortest_edge(*size, short=short, long=long) == expected


def test_shortest_edge_resize_is_pillows_bilinear_and_nearest():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    labels = generator.integers(0, 9, (2, 31, 47), dtype=np.uint8)
    ours, our_labels = ShortestEdgeResize(short=50, long=70)(image, labels, generator)
    size = (70, 46)  # width, height; odd sizes have no centre on a border, where Pillow wavers
    expected = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(ours, np.asarray(expected))
    for plane, our_plane in zip(labels, our_labels, strict=True):
        nearest = Image.fromarray(plane).resize(size, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(our_plane, np.asarray(nearest))


@pytest.mark.parametrize(("size", "new_size"), [(1, 5), (5, 1), (640, 1199), (427, 43), (7, 7)])
def test_nearest_positions_are_pillows(size, new_size):
    row = np.arange(size, dtype=np.int32)[None]
    expected = Image.fromarray(row).resize((new_size, 1), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest_positions(size, new_size), np.asarray(expected)[0])


@pytest.mark.parametrize("seed", range(12))
def test_jitter_moves_image_and_labels_together(seed):
    """Colours code the labels: after flip, scale and crop the labels can be read off the image."""
    labels = np.zeros((1, 60, 100), dtype=np.uint8)
    labels[0, :40, :30], labels[0, 20:, 50:90], labels[0, 45:, 5:40] = 1, 2, 3
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    image = colours[labels[0]]
    new, new_labels = LargeScaleJitter(size=96)(image, labels, np.random.default_rng(seed))
    assert new.shape == (96, 96, 3) and new_labels.shape == (1, 96, 96)
    padding = np.all(new == 128, axis=-1)
    assert np.all(new_labels[0][padding] == 0)
    pure = (new[..., None, :] == colours).all(axis=-1)  # (96, 96, 4); mixed only along borders
    clean = pure.any(axis=-1)
    assert clean.sum() > 0.5 * (~padding).sum()
    np.testing.assert_array_equal(pure.argmax(axis=-1)[clean], new_labels[0][clean])


def _inside(size, scale, height=40, width=80, seed=0):
    image = np.full((height, width, 3), 7, dtype=np.uint8)
    jitter = LargeScaleJitter(size=size, min_scale=scale, max_scale=scale)
    labels = np.ones((1, height, width), dtype=np.uint8)
    new, new_labels = jitter(image, labels, np.random.default_rng(seed))
    inside = np.all(new == 7, axis=-1)
    np.testing.assert_array_equal(inside, new_labels[0] == 1)
    return inside


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(0.1, (5, 10)), (0.5, (25, 50)), (1.0, (50, 100)), (1.5, (75, 100)), (3.0, (100, 100))],
)
def test_jitter_fits_the_scaled_square_and_pads_bottom_right(scale, expected):
    inside = _inside(100, scale)
    assert inside.sum() == expected[0] * expected[1]
    assert inside[: expected[0], : expected[1]].all()


def test_jitter_distributions():
    """Flips half the time, scales over the whole range, crops at all places."""
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    columns = np.arange(1, 9, dtype=np.uint8)[None, None].repeat(8, axis=1)
    jitter = LargeScaleJitter(size=32, min_scale=0.25, max_scale=0.5)
    generator = np.random.default_rng(0)
    flips, widths = [], []
    for _ in range(2000):
        labels = jitter(image, columns, generator)[1][0]
        flips.append(labels[0, 0] == 8)
        widths.append((labels[0] > 0).sum())
    assert abs(np.mean(flips) - 0.5) < 0.04
    assert set(widths) == set(range(8, 17))
    assert abs(np.mean(widths) - 12) < 0.2
    crop = LargeScaleJitter(size=4, min_scale=2, max_scale=2, flip_probability=0)
    first = [crop(image, columns, generator)[1][0, 0, 0] for _ in range(500)]
    assert set(first) == {1, 2, 3, 4, 5}


def test_jitter_repeats_with_its_generator_and_keys_differ():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    labels = np.ones((1, 30, 40), dtype=np.uint8)

    def one(*key):
        return LargeScaleJitter(size=64)(image, labels, seeded_generator(3, *key))[0]

    np.testing.assert_array_equal(one(0, 5), one(0, 5))
    assert not np.array_equal(one(0, 5), one(0, 6))
    assert seeded_generator(1, 2).random() != seeded_generator(1, 2, 0).random()


def test_jitter_takes_images_without_label_planes_and_slim_ones():
    for height, width in [(1, 1), (1, 3000), (3000, 1)]:
        image = np.zeros((height, width, 3), dtype=np.uint8)
        labels = np.zeros((0, height, width), dtype=np.uint8)
        new, new_labels = LargeScaleJitter(size=16)(image, labels, np.random.default_rng(1))
        assert new.shape == (16, 16, 3) and new_labels.shape == (0, 16, 16)
