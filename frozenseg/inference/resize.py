"""Resizes mask logits to output size in bands of rows, so that memory is bounded for any image.

The masks of a model have stride 4 relative to the padded input. As published, they are resized to
the padded input, cropped to the image, and resized to the output size, both times bilinearly. Along
the vertical axis both resizes are combined into one small matrix; along the horizontal axis both
are computed, but only for the rows of a band.

The last pixels before the padding are thus interpolated from cells that lie entirely or partly in
the padding, where the model predicts no object: a stripe without class remains at the image's edge.
With `cells_inside`, these cells get the value of the last cell that lies entirely in the image.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskResizer:
    """Computes any rows of masks at output size from mask logits (Q, h, w).

    whole_cells: the number of rows and of columns of the masks that lie entirely in the image, at
        least 1.
    """

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

        mask_size: size of the masks, at stride 4 of the padded input.
        padded_size: size of the network's input.
        image_size: size of the image within that input.
        output_size: size of the results.
        cells_inside: whether only cells that lie entirely in the image are used; False as
            published.
        """
        self.padded_size = padded_size
        self.image_size = image_size
        self.output_size = output_size
        sizes = list(zip(mask_size, padded_size, image_size, output_size, strict=True))
        self.whole_cells = tuple(_cells_inside(*axis[:3]) for axis in sizes)
        self._vertical, self._horizontal = (
            _axis(*axis, used=whole if cells_inside else axis[0])
            for axis, whole in zip(sizes, self.whole_cells, strict=True)
        )

    @classmethod
    def identity(cls, size: tuple[int, int]) -> "MaskResizer":
        """Return a resizer for masks that already have the output size."""
        return cls(mask_size=size, padded_size=size, image_size=size, output_size=size)

    def rows(self, masks: Tensor, start: int, stop: int) -> Tensor:
        """Return output rows start..stop of masks (Q, h, w): (Q, stop - start, output width)."""
        cells = self._widened(self.cell_rows(masks, start, stop))
        return _stretch(cells, self.output_size[1])

    def cell_rows(self, masks: Tensor, start: int, stop: int) -> Tensor:
        """Like `rows`, but with the columns of the masks: (Q, stop - start, w)."""
        first, last = self._vertical.cells_of(start, stop)
        matrix = self._vertical.matrix_on(masks.device)[start:stop, first:last]
        return matrix.to(masks) @ masks[:, first:last]

    @property
    def has_column_shares(self) -> bool:
        """Whether `column_shares` is valid: masks have no more columns than the padded input."""
        return self._horizontal.cells <= self.padded_size[1]

    def column_shares(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return from which columns of the masks each column of the output is interpolated.

        Returns the first column (output width,) int32, and the shares (3, output width) of this
        column and the next two. The share of a column that does not exist is 0.
        """
        return self._horizontal.shares_on(device)

    def input_rows(self, masks: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the input rows that output rows start..stop are interpolated from, and their
        weights.

        Returns masks (Q, n, image width) of n input rows, and a matrix (stop - start, n) for
        `finish`.
        """
        matrix = self._vertical.output_matrix[start:stop]
        first, last = _band(matrix)
        band = _apply(self._vertical.input_matrix[first:last], masks)
        return self._widened(band), matrix[:, first:last]

    def finish(self, matrix: Tensor, scores: Tensor) -> Tensor:
        """Return output rows (K, rows, output width) from input rows (K, n, image width)."""
        return _stretch(_apply(matrix, scores), self.output_size[1])

    def _widened(self, rows: Tensor) -> Tensor:
        """Resize rows (Q, R, w) of mask cells to the padded input, and crop them to the image."""
        used = self._horizontal.used
        rows[..., used:] = rows[..., used - 1 : used]
        return _stretch(rows, self.padded_size[1])[..., : self.image_size[1]]


@dataclass(frozen=True)
class _Shares:
    """A bilinear resize along one axis: each target is the weighted sum of two sources.

    first, second: (target,), indices of the sources. left, right: (target,), their weights.
    """

    first: Tensor
    second: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, source: int, target: int) -> "_Shares":
        """Return the shares of PyTorch's resize, bit for bit if it fuses products and sums."""
        scale = torch.tensor(source, dtype=torch.float32) / target
        centres = torch.arange(target, dtype=torch.float64) + 0.5
        places = (centres * scale.double() - 0.5).float().clamp(min=0)
        first = places.floor().long().clamp(max=source - 1)
        right = (places - first).clamp(0, 1)
        return cls(first, (first + 1).clamp(max=source - 1), 1 - right, right)

    def sums(self, rows: Tensor) -> Tensor:
        """Resize rows (source, n) to (target, n)."""
        return self.left[:, None] * rows[self.first] + self.right[:, None] * rows[self.second]

    def matrix(self, source: int) -> Tensor:
        """Return the resize as a matrix (target, source)."""
        matrix = torch.zeros(len(self.first), source)
        matrix.scatter_add_(1, self.first[:, None], self.left[:, None])
        return matrix.scatter_add_(1, self.second[:, None], self.right[:, None])


class _Axis:
    """How mask cells become output pixels along one axis.

    cells: number of cells of the mask.
    used: how many of the cells are used, from the first on; the last of them replaces all others.
    matrix: (output, cells), on the CPU, so that the rows which a band needs are known without
        waiting for the device.
    """

    def __init__(self, cells: int, padded: int, image: int, output: int, used: int) -> None:
        whole = _Shares.of(cells, padded)
        self.to_input = _Shares(
            whole.first[:image].clamp(max=used - 1),
            whole.second[:image].clamp(max=used - 1),
            whole.left[:image],
            whole.right[:image],
        )
        self.to_output = _Shares.of(image, output)
        self.cells, self.used = cells, used
        self.input_matrix = self.to_input.matrix(cells)
        self.matrix = self.to_output.sums(self.input_matrix)
        self._matrices: dict[torch.device, Tensor] = {}
        self._shares: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def cells_of(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of cells from which the outputs start..stop are computed."""
        first = self.to_input.first[self.to_output.first[start]]
        last = self.to_input.second[self.to_output.second[stop - 1]]
        return int(first), int(last) + 1

    @functools.cached_property
    def output_matrix(self) -> Tensor:
        """The matrix (output, image) of the second resize."""
        return self.to_output.matrix(len(self.to_input.first))

    def matrix_on(self, device: torch.device) -> Tensor:
        """Return `matrix` on a device."""
        if device not in self._matrices:
            self._matrices[device] = self.matrix.to(device)
        return self._matrices[device]

    def shares_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """See `MaskResizer.column_shares`."""
        if device not in self._shares:
            inner, outer = self.to_input, self.to_output
            first = inner.first[outer.first]
            shares = torch.zeros(3, len(first))
            for column, share in ((outer.first, outer.left), (outer.second, outer.right)):
                for cell, part in ((inner.first, inner.left), (inner.second, inner.right)):
                    place = (cell[column] - first)[None]
                    shares.scatter_add_(0, place, (share * part[column])[None])
            self._shares[device] = first.int().to(device), shares.to(device)
        return self._shares[device]


@functools.lru_cache(maxsize=64)  # the images of a data set have few sizes
def _axis(cells: int, padded: int, image: int, output: int, used: int) -> _Axis:
    return _Axis(cells, padded, image, output, used)


def _cells_inside(cells: int, padded: int, image: int) -> int:
    """Return how many cells along an axis lie entirely in the image, at least 1."""
    return max(1, image * cells // padded)


def _band(matrix: Tensor) -> tuple[int, int]:
    """Return the range (start, stop) of columns that a band of rows uses."""
    used = matrix.any(0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def _apply(matrix: Tensor, maps: Tensor) -> Tensor:
    """Multiply (R, h) by (N, h, w): (N, R, w); reads only the rows of `maps` that are used."""
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
    """Like `_stretch`, with the same result: on CUDA, PyTorch's resize of one axis has only one
    thread per column and takes thirty times as long as the resize of two axes."""
    size = (maps.shape[1], width)
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
