"""Resizing in bands of output rows, compared with the published two steps on entire images."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.text.vocabulary import Vocabulary

# mask at stride 4, padded input, image inside it, output: (height, width) each
CASES = {
    "upscaled": ((16, 24), (64, 96), (50, 77), (101, 160)),
    "downscaled": ((16, 24), (64, 96), (64, 90), (23, 31)),
    "taller and narrower": ((8, 16), (32, 64), (31, 64), (97, 13)),
    "one pixel": ((8, 8), (32, 32), (1, 1), (1, 1)),
    "a line": ((8, 32), (32, 128), (1, 128), (3, 500)),
    "as it is": ((9, 7), (9, 7), (9, 7), (9, 7)),
    "many rows from one": ((8, 8), (32, 32), (1, 32), (40, 40)),
}


def published(masks: Tensor, padded: tuple, image: tuple, output: tuple) -> Tensor:
    """Resize to the padded input, crop the image, resize to the output."""
    masks = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)
    masks = masks[..., : image[0], : image[1]]
    return F.interpolate(masks, size=output, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_rows_equal_the_published_steps_on_the_whole_image(name: str, step: int) -> None:
    size, padded, image, output = CASES[name]
    masks = 10 * torch.randn(3, *size)
    resizer = MaskResizer(mask_size=size, padded_size=padded, image_size=image, output_size=output)
    bands = [
        resizer.rows(masks, start, min(start + step, output[0]))
        for start in range(0, output[0], step)
    ]
    expected = published(masks, padded, image, output)
    torch.testing.assert_close(torch.cat(bands, 1), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_scores_made_at_input_size_equal_the_published_steps(name: str, step: int) -> None:
    """If only semantic results are made, sigmoid and the sum over queries are computed at input
    size, before the last resize."""
    size, padded, image, output = CASES[name]
    masks, weights = 4 * torch.randn(3, *size), torch.rand(2, 3)
    resizer = MaskResizer(mask_size=size, padded_size=padded, image_size=image, output_size=output)
    bands = []
    for start in range(0, output[0], step):
        logits, matrix = resizer.input_rows(masks, start, min(start + step, output[0]))
        scores = torch.einsum("kq,qhw->khw", weights, logits.sigmoid())
        bands.append(resizer.finish(matrix, scores))
    at_input = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)[0]
    at_input = at_input[:, : image[0], : image[1]].sigmoid()
    scores = torch.einsum("kq,qhw->khw", weights, at_input)
    expected = F.interpolate(scores[None], size=output, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.cat(bands, 1), expected, atol=1e-5, rtol=1e-5)


def test_a_band_reads_only_the_input_rows_it_needs() -> None:
    resizer = MaskResizer(
        mask_size=(64, 8), padded_size=(256, 32), image_size=(256, 32), output_size=(512, 64)
    )
    logits, matrix = resizer.input_rows(torch.randn(2, 64, 8), 100, 120)
    assert logits.shape[1] == matrix.shape[1] <= 12 and matrix.shape[0] == 20
    masks = torch.randn(2, 64, 8)
    far = masks.clone()
    far[:, :5], far[:, 40:] = 1e9, 1e9
    assert torch.equal(resizer.rows(masks, 100, 120), resizer.rows(far, 100, 120))


def test_identity_gives_the_masks_themselves() -> None:
    masks = torch.randn(2, 5, 6)
    assert torch.equal(MaskResizer.identity((5, 6)).rows(masks, 1, 4), masks[:, 1:4])


DIVISOR, STRIDE = 32, 4
SIDES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(image=SIDES, output=SIDES, stride=st.sampled_from([STRIDE, 16]))
def test_a_class_found_everywhere_leaves_no_stripe_at_the_border(
    image: tuple[int, int], output: tuple[int, int], stride: int
) -> None:
    """A model finds one class in an entire image of any size, and nothing in the padding, nor in
    cells that are partly padding: all results then have only this class, at all pixels."""
    padded = tuple(-(-side // DIVISOR) * DIVISOR for side in image)
    size = tuple(side // stride for side in padded)
    whole = tuple(max(1, side // stride) for side in image)
    masks = torch.full((2, *size), -20.0)
    masks[0, : whole[0], : whole[1]] = 20.0
    masks[1] = -masks[0]  # a second query finds the padding
    classes = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    resizer = MaskResizer(
        mask_size=size,
        padded_size=padded,
        image_size=image,
        output_size=output,
        cells_inside=True,
    )
    words = Vocabulary((("dog",), ("nothing",)), (True, False))
    found = PostProcessor()(classes, masks, resizer, words)
    assert (found.semantic == 0).all()
    (segment,) = found.panoptic.segments
    assert segment.name == "dog" and (found.panoptic.ids == segment.id).all()
    assert found.instances.masks[found.instances.scores.argmax()].all()
    scores = PostProcessor(panoptic=False, instances=False, masks_at_output_size=False)
    assert (scores(classes, masks, resizer, words).semantic == 0).all()


@pytest.mark.parametrize("width", [201, 202, 203])
def test_as_published_the_last_columns_are_mixed_with_the_padding(width: int) -> None:
    size = {"padded_size": (32, 224), "image_size": (32, width), "output_size": (32, width)}
    masks = torch.full((1, 8, 56), -20.0)
    masks[..., : width // 4] = 20.0
    published = MaskResizer(mask_size=(8, 56), **size).rows(masks, 0, 32)
    assert (published[..., -1] < 0).all()
    ours = MaskResizer(mask_size=(8, 56), **size, cells_inside=True).rows(masks, 0, 32)
    assert (ours == 20).all()


def test_without_padding_all_cells_are_inside() -> None:
    size = {"padded_size": (32, 64), "image_size": (32, 64), "output_size": (50, 77)}
    masks = torch.randn(3, 8, 16)
    published, ours = (
        MaskResizer(mask_size=(8, 16), **size, cells_inside=inside).rows(masks, 0, 50)
        for inside in (False, True)
    )
    assert torch.equal(published, ours)
