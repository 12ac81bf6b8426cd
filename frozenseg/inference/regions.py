"""Boxes of masks, and conversion of label maps and instances to `Segment`s."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from frozenseg.structures import InstanceResult, PanopticResult, Segment
from frozenseg.text.vocabulary import Vocabulary


def mask_boxes(masks: Tensor) -> Tensor:
    """Return boxes (N, 4) of masks (N, H, W) bool: float (x0, y0, x1, y1), x1 and y1 exclusive.

    The box of an empty mask is all zeros.
    """
    boxes = []
    bits = masks.view(torch.uint8)  # far faster on a CPU than `any` of bool
    for inside in (bits.amax(1), bits.amax(2)):  # columns (N, W), rows (N, H)
        length = inside.shape[1]
        first = inside.int().argmax(1)
        last = length - inside.flip(1).int().argmax(1)
        boxes.append(torch.stack((first, last)) * inside.any(1))
    (x0, x1), (y0, y1) = boxes
    return torch.stack((x0, y0, x1, y1), 1).float()


def spans(in_rows: np.ndarray, in_columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return x0, y0, x1, y1 of N regions, each (N,), x1 and y1 exclusive; no region may be empty.

    in_rows: (N, H) bool, whether a region has pixels in a row. in_columns: (N, W) bool, the same
    for columns.
    """
    (y0, y1), (x0, x1) = (
        (inside.argmax(1), inside.shape[1] - inside[:, ::-1].argmax(1))
        for inside in (in_rows, in_columns)
    )
    return x0, y0, x1, y1


def label_segments(
    labels: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    vocabulary: Vocabulary,
) -> list[Segment]:
    """Return the segments 1 to N of a panoptic map.

    labels: (N,), class ids. scores, areas: (N,). boxes: (N, 4) integers, as in `Segment`.
    """
    return [
        Segment(
            id=number,
            class_id=int(label),
            name=vocabulary.names[label][0],
            is_thing=vocabulary.is_thing[label],
            score=float(score),
            area=int(area),
            box=tuple(box.tolist()),
        )
        for number, (label, score, area, box) in enumerate(
            zip(labels, scores, areas, boxes, strict=True), 1
        )
    ]


def class_regions(semantic: np.ndarray, names: Sequence[str]) -> PanopticResult:
    """Convert a semantic map (H, W) to one stuff segment for each class in it, for drawing.

    The id of a segment is its class id + 1, and its score is NaN. Pixels whose value is not an
    index of `names` belong to no segment.
    """
    ids = np.where((semantic >= 0) & (semantic < len(names)), semantic + 1, 0).astype(np.int32)
    areas = np.bincount(ids.ravel(), minlength=len(names) + 1)
    segments = []
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        if box is not None:
            rows, columns = box
            segments.append(
                Segment(
                    id=number,
                    class_id=number - 1,
                    name=names[number - 1],
                    is_thing=False,
                    score=math.nan,
                    area=int(areas[number]),
                    box=(columns.start, rows.start, columns.stop, rows.stop),
                )
            )
    return PanopticResult(ids, segments)


def instance_regions(found: InstanceResult, vocabulary: Vocabulary) -> PanopticResult:
    """Convert instances to segments, for drawing: each pixel goes to the best instance that has it.

    An instance that is completely covered by better ones has no segment.
    """
    covered = found.masks.any(0)
    best = found.masks[:, covered].argmax(0) if len(found) else np.zeros(0, dtype=np.int64)
    visible, place = np.unique(best, return_inverse=True)
    ids = np.zeros(covered.shape, dtype=np.int32)
    ids[covered] = place + 1
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(ids)
    ]
    areas = np.bincount(place, minlength=len(visible))
    segments = label_segments(
        found.class_ids[visible], found.scores[visible], areas, np.array(boxes), vocabulary
    )
    return PanopticResult(ids, segments)
