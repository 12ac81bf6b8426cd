"""Mask logits at output size, a band of rows at a time, so that memory is bounded for any image.

A model's masks lie at stride 4 of the padded input. As published, they are resized to the padded
input, cropped to the image, and resized to the output, each time bilinearly. Vertically both steps
are one small matrix; horizontally they are done as they stand, on the rows of a band only.

So the last pixels before the padding are mixed from cells that lie in it, wholly or in part, and of
which the model says that there is nothing: a stripe without class is left where the image ends.
With `cells_inside` those cells take the value of the last one that is all image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskResizer:
    """From (Q, h, w) mask logits to any rows of (Q, *output_size)."""

    def __init__(
        self,
        *,
        mask_size: tuple[int, int],
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        output_size: tuple[int, int],
        cells_inside: bool = False,
    ) -> None:
        """mask_size: (h, w) at stride 4; padded_size: of the network's input; image_size: the part
        of it that is image; output_size: of the results. All (height, width). cells_inside: whether
        only cells that are all image count; False as published."""
        self.padded_size = padded_size
        self.image_size = image_size
        self.output_size = output_size
        # The matrices stay on the CPU: which rows a band needs is then known without asking the
        # device.
        used = [
            _cells_inside(*axis) if cells_inside else axis[0]
            for axis in zip(mask_size, padded_size, image_size, strict=True)
        ]
        self._to_input = _last_repeated(
            _interpolation(mask_size[0], padded_size[0])[: image_size[0]], used[0]
        )
        self._columns = used[1]
        self._to_output = _interpolation(image_size[0], output_size[0])

    @classmethod
    def identity(cls, size: tuple[int, int]) -> "MaskResizer":
        """For masks that are at output size already."""
        return cls(mask_size=size, padded_size=size, image_size=size, output_size=size)

    def rows(self, masks: Tensor, start: int, stop: int) -> Tensor:
        """Rows start..stop of the output: (Q, h, w) -> (Q, stop - start, output width)."""
        rows = _apply(self._to_output[start:stop] @ self._to_input, masks)
        return _stretch(self._crop(rows), self.output_size[1])

    def input_rows(self, masks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """What output rows start..stop need at input size: masks (Q, n, image width) of n input
        rows, and the matrix (stop - start, n) that makes output rows of them."""
        matrix = self._to_output[start:stop]
        first, last = _band(matrix)
        band = _apply(self._to_input[first:last], masks)
        return self._crop(band), matrix[:, first:last]

    def finish(self, matrix: Tensor, scores: Tensor) -> Tensor:
        """Input rows (K, n, image width) -> output rows (K, rows, output width)."""
        return _stretch(_apply(matrix, scores), self.output_size[1])

    def _crop(self, rows: Tensor) -> Tensor:
        """(Q, R, w) of mask cells -> (Q, R, image width)."""
        rows[..., self._columns :] = rows[..., self._columns - 1 : self._columns]
        return _stretch(rows, self.padded_size[1])[..., : self.image_size[1]]


def _cells_inside(cells: int, padded: int, image: int) -> int:
    """How many of the cells along an axis are all image; one at least."""
    return max(1, image * cells // padded)


def _last_repeated(matrix: Tensor, used: int) -> Tensor:
    """The matrix (target, source) with the source's last entries read as the one before them."""
    matrix = matrix.clone()
    matrix[:, used - 1] = matrix[:, used - 1 :].sum(1)
    matrix[:, used:] = 0
    return matrix


def _interpolation(source: int, target: int) -> Tensor:
    """The matrix (target, source) of a bilinear resize along one axis, taken from the resize
    itself."""
    identity = torch.eye(source)[None, None]
    return F.interpolate(identity, size=(target, source), mode="bilinear", align_corners=False)[
        0, 0
    ]


def _band(matrix: Tensor) -> tuple[int, int]:
    """The columns first..last that a band of rows uses."""
    used = matrix.any(0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def _apply(matrix: Tensor, maps: Tensor) -> Tensor:
    """(R, h) x (N, h, w) -> (N, R, w); only the rows of `maps` that the matrix uses are read."""
    first, last = _band(matrix)
    return matrix[:, first:last].to(maps) @ maps[:, first:last]


def _stretch(maps: Tensor, width: int) -> Tensor:
    """Resize (N, R, w) along its last axis."""
    if maps.shape[-1] == width:
        return maps
    return F.interpolate(maps, size=width, mode="linear", align_corners=False)
