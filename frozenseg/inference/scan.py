"""Post-processing on CUDA in a single pass over the masks, by Triton kernels.

With PyTorch's operations, masks and scores at output size are written many times; for 250 queries
and an image of 800 x 1199 pixels, each such tensor takes 1 GB. The kernels resize the masks while
they read them, and write them at most once.

Legend: N queries, K classes, H x W output pixels, R rows of a band.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.inference.accumulators import (
    Accumulator,
    InstanceAccumulator,
    PanopticAccumulator,
    SemanticAccumulator,
)
from frozenseg.inference.resize import MaskResizer
from frozenseg.runtime.precision import tf32_settings
from frozenseg.runtime.triton_launch import kernels_work, launch, runs_triton

Kind = TypeVar("Kind", bound=Accumulator)

PART = "post-processing"  # the name of these operations in warnings
INSTEAD = "operations of PyTorch are used instead"
ELEMENTS = 1 << 28  # the most probabilities of a band, two bytes each
ROWS = 65535  # the most rows of a band: CUDA's limit for the second axis of a grid
WEIGHT_SCALE = 4096.0  # keeps small class probabilities from underflowing in float16
OWNER_BLOCK = {"BLOCK_COLUMNS": 256, "num_warps": 4}
MASK_BLOCK = {"BLOCK_ROWS": 16, "BLOCK_COLUMNS": 256, "num_warps": 4}
CLASS_BLOCK = {"BLOCK_CLASSES": 128, "BLOCK_QUERIES": 32, "BLOCK_PIXELS": 128, "num_warps": 4}


def scan(
    accumulators: Sequence[Accumulator], masks: Tensor, resizer: MaskResizer
) -> list[Accumulator]:
    """Run the kernels for the accumulators that they support, over the entire image; return the
    other accumulators.

    masks: (N, h, w), logits. Semantic results are computed from products in float16, which is as
    precise as TF32; they are therefore supported only if TF32 is allowed.
    """
    works = runs_triton(masks) and kernels_work(PART) and resizer.has_column_shares
    if not (accumulators and works):
        return list(accumulators)
    supported = [accumulator for accumulator in accumulators if _is_supported(accumulator)]
    if not supported or not _Scan(supported, masks, resizer).run():
        return list(accumulators)
    return [accumulator for accumulator in accumulators if accumulator not in supported]


def _is_supported(accumulator: Accumulator) -> bool:
    if isinstance(accumulator, SemanticAccumulator):
        return accumulator.all_scores is None and tf32_settings()[0]
    return isinstance(accumulator, PanopticAccumulator | InstanceAccumulator)


def _first(accumulators: Sequence[Accumulator], kind: type[Kind]) -> Kind | None:
    return next((found for found in accumulators if isinstance(found, kind)), None)


class _Scan:
    """Runs the kernels on one image."""

    def __init__(
        self, accumulators: Sequence[Accumulator], masks: Tensor, resizer: MaskResizer
    ) -> None:
        self.masks, self.resizer, self.device = masks, resizer, masks.device
        self.width = resizer.output_size[1]
        self.columns = resizer.column_shares(masks.device)
        self.panoptic = _first(accumulators, PanopticAccumulator)
        self.instances = _first(accumulators, InstanceAccumulator)
        self.semantic = _first(accumulators, SemanticAccumulator)
        self.counted: list[Callable[[], None]] = []
        numbers = torch.arange(len(masks), dtype=torch.int32, device=self.device)
        # For each query: its index in the results, or -1; and its class probability, or -1.
        self.slots, self.order = torch.full_like(numbers, -1).repeat(2, 1)
        self.factors = masks.new_full((len(masks),), -1.0)
        if self.instances is not None:
            self.slots[self.instances.queries] = numbers[: len(self.instances.queries)]
        if self.panoptic is not None:
            self.order[self.panoptic.queries] = numbers[: len(self.panoptic.queries)]
            self.factors[self.panoptic.queries] = self.panoptic.factors.flatten()
        if self.semantic is not None:
            self.weights = _padded(self.semantic.weights)

    def run(self) -> bool:
        """Compute all results. If a kernel fails, return False and add no counts."""
        height, count = self.resizer.output_size[0], len(self.masks)
        step = min(ROWS, max(1, ELEMENTS // (count * self.width)))
        for start in range(0, height, step):
            cells = self.resizer.cell_rows(self.masks, start, min(start + step, height))
            if not self._run_band(start, cells.contiguous()):
                return False
        for count_band in self.counted:
            count_band()
        return True

    def _run_band(self, start: int, cells: Tensor) -> bool:
        shape = (0,) if self.semantic is None else (*cells.shape[:2], self.width)
        probs = torch.empty(shape, dtype=torch.float16, device=self.device)
        return (
            self._measure_masks(start, cells, probs)
            and (self.panoptic is None or self._find_owners(self.panoptic, start, cells))
            and (self.semantic is None or self._find_classes(self.semantic, start, probs))
        )

    def _measure_masks(self, start: int, cells: Tensor, probs: Tensor) -> bool:
        count, rows, width = cells.shape
        masks = self.slots  # a placeholder; without slots it is never written to
        if self.instances is not None:
            masks = self.instances.masks.view(torch.int8).view(-1)[start * self.width :]
        blocks = -(-rows // MASK_BLOCK["BLOCK_ROWS"])
        counts = self.slots.new_empty((blocks, 2, count))
        sums = cells.new_empty((blocks, count))
        if not self._launch(
            _kernels().measure_masks,
            (count, blocks),
            *(cells, *self.columns, self.slots, masks, probs, counts, sums),
            *(count, rows, width, self.width, self.resizer.output_size[0] * self.width),
            WRITE_PROBS=self.semantic is not None,
            **MASK_BLOCK,
        ):
            return False
        by_probability, by_logit = counts.sum(0)
        if self.panoptic is not None:
            self.counted.append(partial(self.panoptic.add_sizes, by_probability))
        if self.instances is not None:
            self.counted.append(partial(self.instances.add_sizes, by_logit, sums.sum(0)))
        return True

    def _find_owners(self, panoptic: PanopticAccumulator, start: int, cells: Tensor) -> bool:
        count, rows, width = cells.shape
        blocks, bins = -(-self.width // OWNER_BLOCK["BLOCK_COLUMNS"]), 1 << count.bit_length()
        histograms = self.order.new_empty((rows, blocks, 2, bins))
        if not self._launch(
            _kernels().find_owners,
            (blocks, rows),
            *(cells, *self.columns, self.factors, self.order),
            *(panoptic.winner[start:], panoptic.in_columns.view(torch.int8), histograms),
            *(count, rows, width, self.width),
            BINS=bins,
            **OWNER_BLOCK,
        ):
            return False
        self.counted.append(partial(panoptic.add_owned, start, histograms.sum(1)))
        return True

    def _find_classes(self, semantic: SemanticAccumulator, start: int, probs: Tensor) -> bool:
        classes, queries = semantic.weights.shape
        limit = semantic.threshold * WEIGHT_SCALE if semantic.threshold else -1.0
        pixels = probs[0].numel()
        return self._launch(
            _kernels().find_classes,
            (-(-pixels // CLASS_BLOCK["BLOCK_PIXELS"]),),
            *(probs, self.weights, semantic.ids[start:], queries, self.weights.shape[1]),
            *(classes, pixels, limit),
            **CLASS_BLOCK,
        )

    def _launch(self, kernel: Any, grid: tuple[int, ...], *given: Any, **sizes: Any) -> bool:
        return launch(PART, kernel, grid, *given, instead=INSTEAD, **sizes)


def _padded(weights: Tensor) -> Tensor:
    """Return class weights (K, N) in the form that `scan_kernels.find_classes` expects."""
    classes, queries = (
        -length % CLASS_BLOCK[name]
        for length, name in zip(weights.shape, ("BLOCK_CLASSES", "BLOCK_QUERIES"), strict=True)
    )
    return F.pad(weights * WEIGHT_SCALE, (0, queries, 0, classes)).half()


@functools.cache
def _kernels() -> Any:
    from frozenseg.inference import scan_kernels

    return scan_kernels
