"""Resizes mask logits to output size in bands of rows, so that memory is bounded for any image.

The masks of a model have stride 4 of the padded input. As published, they are resized to the padded
input, cropped to the image, and resized to the output, bilinearly each time. Vertically both steps
are one small matrix; horizontally both are computed, but only for the rows of a band.

The last pixels before the padding are thus interpolated from cells that lie in the padding, wholly
or in part, where the model predicts no object: a stripe without class remains at the image's end.
With `cells_inside` those cells take the value of the last cell that is all image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskResizer:
    """Computes any rows of (Q, *output_size) from mask logits (Q, h, w)."""

    def __init__(
        self,
        *,
        mask_size: tuple[int, int],
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        output_size: tuple[int, int],
        cells_inside: bool = False,
    ) -> None:
        """Prepare the matrices; all sizes are (height, width).

        mask_size: of the masks, at stride 4 of the padded input.
        padded_size: of the network's input.
        image_size: of the image within that input.
        output_size: of the results.
        cells_inside: whether only cells that are all image count; False as published.
        """
        self.padded_size = padded_size
        self.image_size = image_size
        self.output_size = output_size
        # The matrices stay on the CPU, so that the rows which a band needs are known without
        # waiting for the device.
        used = [
            _cells_inside(*axis) if cells_inside else axis[0]
            for axis in zip(mask_size, padded_size, image_size, strict=True)
        ]
        self._to_input = _last_repeated(
            _interpolation(mask_size[0], padded_size[0])[: image_size[0]], used[0]
        )
        self._columns = used[1]
        self._to_output = _interpolation(image_size[0], output_size[0])
        self._rows = self._to_output @ self._to_input
        self._copies: dict[torch.device, Tensor] = {}  # of `_rows`

    @classmethod
    def identity(cls, size: tuple[int, int]) -> "MaskResizer":
        """Return a resizer for masks that are at output size already."""
        return cls(mask_size=size, padded_size=size, image_size=size, output_size=size)

    def rows(self, masks: Tensor, start: int, stop: int) -> Tensor:
        """Output rows start..stop of masks (Q, h, w): (Q, stop - start, output width)."""
        first, last = _band(self._rows[start:stop])
        if masks.device not in self._copies:
            self._copies[masks.device] = self._rows.to(masks)
        matrix = self._copies[masks.device][start:stop, first:last]
        return _stretch(self._crop(matrix @ masks[:, first:last]), self.output_size[1])

    def input_rows(self, masks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the input rows that output rows start..stop are interpolated from, and their
        weights.

        Returns masks (Q, n, image width) of n input rows, and a matrix (stop - start, n) for
        `finish`.
        """
        matrix = self._to_output[start:stop]
        first, last = _band(matrix)
        band = _apply(self._to_input[first:last], masks)
        return self._crop(band), matrix[:, first:last]

    def finish(self, matrix: Tensor, scores: Tensor) -> Tensor:
        """Output rows (K, rows, output width) from input rows (K, n, image width)."""
        return _stretch(_apply(matrix, scores), self.output_size[1])

    def _crop(self, rows: Tensor) -> Tensor:
        """Rows (Q, R, w) of mask cells, resized to the padded input and cropped to the image."""
        rows[..., self._columns :] = rows[..., self._columns - 1 : self._columns]
        return _stretch(rows, self.padded_size[1])[..., : self.image_size[1]]


def _cells_inside(cells: int, padded: int, image: int) -> int:
    """How many of the cells along an axis are all image, but at least one."""
    return max(1, image * cells // padded)


def _last_repeated(matrix: Tensor, used: int) -> Tensor:
    """Return a matrix (target, source) that reads source entry `used - 1` in place of all behind
    it."""
    matrix = matrix.clone()
    matrix[:, used - 1] = matrix[:, used - 1 :].sum(1)
    matrix[:, used:] = 0
    return matrix


def _interpolation(source: int, target: int) -> Tensor:
    """Return the matrix (target, source) of a bilinear resize along one axis, made by PyTorch's
    resize."""
    identity = torch.eye(source)[None, None]
    return F.interpolate(identity, size=(target, source), mode="bilinear", align_corners=False)[
        0, 0
    ]


def _band(matrix: Tensor) -> tuple[int, int]:
    """Return the range (start, stop) of columns that a band of rows uses."""
    used = matrix.any(0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def _apply(matrix: Tensor, maps: Tensor) -> Tensor:
    """(R, h) x (N, h, w) to (N, R, w); reads only the rows of `maps` that the matrix uses."""
    first, last = _band(matrix)
    return matrix[:, first:last].to(maps) @ maps[:, first:last]


def _stretch(maps: Tensor, width: int) -> Tensor:
    """Resize (N, R, w) along its last axis."""
    if maps.shape[-1] == width:
        return maps
    if maps.device.type == "cpu":
        return F.interpolate(maps, size=width, mode="linear", align_corners=False)
    return _stretch_in_two_axes(maps, width)


def _stretch_in_two_axes(maps: Tensor, width: int) -> Tensor:
    """As `_stretch`, with the same numbers: on CUDA, PyTorch's resize of one axis has a thread for
    each column only and takes thirty times as long as that of two."""
    size = (maps.shape[1], width)
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
