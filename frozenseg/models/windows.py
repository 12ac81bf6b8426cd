"""Square windows that slide over a padded batch, for models that met one size in training."""

from collections.abc import Iterator

from frozenseg.structures import ImageBatch


def windows(images: ImageBatch, *, side: int, stride: int) -> Iterator[tuple[int, int, ImageBatch]]:
    """(top, left, part) of windows that cover the batch; side, stride, top, left: in pixels.

    The last window of a row or column ends at the edge; a batch smaller than `side` is one window.
    """
    height, width = images.pixels.shape[-2:]
    for top in window_starts(height, side, stride):
        for left in window_starts(width, side, stride):
            pixels = images.pixels[..., top : top + side, left : left + side]
            sizes = [
                (_inside(image_height - top, side), _inside(image_width - left, side))
                for image_height, image_width in images.sizes
            ]
            yield top, left, ImageBatch(pixels, sizes)


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin along an axis of `length` pixels."""
    last = max(length - side, 0)
    return [*range(0, last, stride), last]


def _inside(length: int, side: int) -> int:
    return min(max(length, 0), side)
