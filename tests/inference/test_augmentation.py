"""Views for test-time augmentation, and the mean of their scores, compared with a loop."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frozenseg.inference.augmentation import average_scores, views


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_views_are_resized_and_mirrored() -> None:
    image = noise(20, 30)
    found = list(views(image, short_sides=(20, 40), long_side=45, flip=True))
    assert [tuple(view.image.shape[1:]) for view in found] == [
        (20, 30),
        (20, 30),
        (30, 45),
        (30, 45),
    ]
    assert [view.flipped for view in found] == [False, True, False, True]
    assert np.array_equal(found[0].image.permute(1, 2, 0).numpy(), image)
    larger = np.asarray(Image.fromarray(image).resize((45, 30), Image.Resampling.BILINEAR))
    assert np.array_equal(found[3].image.permute(1, 2, 0).numpy(), larger[:, ::-1])


def test_mean_of_all_views_turned_back() -> None:
    image = noise(8, 6)

    def score(view: Tensor) -> np.ndarray:
        """Return scores that depend on the pixels, so that they are mirrored if the view is."""
        rows = torch.nn.functional.interpolate(view[None].float(), size=(8, 6))[0]
        return rows.numpy() + view.shape[-1]

    plain = views(image, short_sides=(6, 12), long_side=99, flip=False)
    expected = np.mean([score(view.image) for view in plain], axis=0)
    again = views(image, short_sides=(6, 12), long_side=99, flip=False)
    assert np.allclose(average_scores(score, again), expected)
    only = views(image, short_sides=(6,), long_side=99, flip=True)
    assert np.array_equal(average_scores(score, only), image.transpose(2, 0, 1) + 6.0)
