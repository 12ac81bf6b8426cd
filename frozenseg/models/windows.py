"""Sliding windows over a padded batch, for models that were trained at one image size."""

from collections.abc import Iterator

from frozenseg.structures import ImageBatch


def windows(
    images: ImageBatch, *, side: int, stride: int, padding: float
) -> Iterator[tuple[int, int, ImageBatch]]:
    """Yield (top, left, part) for square windows that cover images of one size; all lengths are in
    pixels.

    The last window of a row or column may extend beyond the image, as does the only window of an
    image smaller than `side`. There the encoders see `padding`, a value after normalisation.
    """
    height, width = images.sizes[0]
    for top in window_starts(height, side, stride):
        for left in window_starts(width, side, stride):
            inside = images.pixels[..., top : top + side, left : left + side]
            pixels = images.pixels.new_zeros(*inside.shape[:2], side, side)
            pixels[..., : inside.shape[-2], : inside.shape[-1]] = inside
            size = (min(height - top, side), min(width - left, side))
            yield top, left, ImageBatch(pixels, [size] * len(images.sizes), padding)


def window_starts(length: int, side: int, stride: int) -> range:
    """Return where windows begin along an axis of `length` pixels; the last one covers its end."""
    beyond = max(length - side, 0)
    return range(0, beyond + stride, stride) if beyond % stride else range(0, beyond + 1, stride)
