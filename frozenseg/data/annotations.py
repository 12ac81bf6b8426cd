"""Records -> arrays: the ground truth of one image, for training and for evaluators."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.records import Instances, Record, Segments
from frozenseg.data.shapes import decode_shapes
from frozenseg.errors import UserError

VOID_CLASS = -1  # in semantic ground truth: unlabelled, counts neither for nor against


@dataclass
class LabelMaps:
    """The annotation of one image as maps that can be flipped, scaled and cropped cheaply.

    maps: (L, H, W) unsigned integers, 0 where unlabelled. values, class_ids: (N,), one per object.
    With L = 1 object n is `maps[0] == values[n]`; objects that may overlap have a plane each
    (L = N). `maps == values[:, None, None]` gives the (N, H, W) masks of both.
    """

    maps: np.ndarray
    values: np.ndarray
    class_ids: np.ndarray


def load_panoptic(record: Record) -> tuple[np.ndarray, Segments]:
    """The panoptic ids (H, W) int32 of a record, 0 where void, and their segments."""
    ids, segments, _ = _panoptic(record)
    return ids, segments


def load_semantic(record: Record) -> np.ndarray:
    """The class ids (H, W) int32 of a record, `VOID_CLASS` where unlabelled.

    Without a label map they come from the panoptic annotation, crowd regions included: the same
    that detectron2's preparation of COCO writes to `panoptic_semseg_*`.
    """
    if record.semantic_path is None:
        _, segments, positions = _panoptic(record)
        return np.concatenate([[VOID_CLASS], segments.class_ids]).astype(np.int32)[positions]
    labels = read_labels(record.semantic_path).astype(np.int32)
    void = labels == record.semantic_ignore
    unknown = labels[(labels >= record.num_classes) & ~void]
    if unknown.size:
        raise UserError(
            f"{record.semantic_path}: holds class id {unknown[0]}, but there are "
            f"{record.num_classes} classes (0-{record.num_classes - 1}) and "
            f"{record.semantic_ignore} for unlabelled; correct it"
        )
    labels[void] = VOID_CLASS
    return labels


def present_classes(labels: np.ndarray) -> list[int]:
    """The class ids in a semantic map (H, W), ascending."""
    return [int(label) for label in np.unique(labels) if label != VOID_CLASS]


def load_instances(record: Record) -> tuple[np.ndarray, Instances]:
    """The masks (N, H, W) bool of a record's objects and what the file says of them."""
    instances, height, width = record.instances, record.height, record.width
    assert instances is not None and height and width, "a record of an instance JSON"
    return decode_shapes(instances.shapes, height, width), instances


def panoptic_labels(record: Record) -> LabelMaps:
    """One object per segment, things and stuff; crowd regions are unlabelled."""
    _, segments, positions = _panoptic(record)
    kept = np.flatnonzero(~segments.is_crowd)
    return LabelMaps(_narrow(positions)[None], kept + 1, segments.class_ids[kept])


def semantic_labels(record: Record) -> LabelMaps:
    """One object per class that is present."""
    labels = load_semantic(record) + 1
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)[1:]) + 1
    return LabelMaps(_narrow(labels)[None], values, values - 1)


def instance_labels(record: Record) -> LabelMaps:
    """One object per instance, each in its own plane; crowd regions are unlabelled."""
    masks, instances = load_instances(record)
    kept = np.flatnonzero(~instances.is_crowd)
    planes = masks[kept].astype(np.uint8)
    return LabelMaps(planes, np.ones(len(kept), dtype=np.int64), instances.class_ids[kept])


LABELS: dict[str, Callable[[Record], LabelMaps]] = {
    "panoptic": panoptic_labels,
    "semantic": semantic_labels,
    "instances": instance_labels,
}


def _panoptic(record: Record) -> tuple[np.ndarray, Segments, np.ndarray]:
    """ids (H, W), segments, and (H, W) positions: 0 where void, n + 1 in segment n."""
    path, segments = record.panoptic_path, record.segments
    assert path is not None and segments is not None, "a record of a panoptic JSON"
    ids = read_panoptic_ids(path)
    if record.height is not None and ids.shape != (record.height, record.width):
        raise UserError(
            f"{path}: is {ids.shape[0]} x {ids.shape[1]} (height x width), but its image "
            f"is {record.height} x {record.width}; make it again in the size of the image"
        )
    order = np.argsort(segments.ids)
    known = np.concatenate([[0], segments.ids[order]])
    ranks = np.searchsorted(known, ids)
    ranks[ranks == len(known)] = 0  # above all known ids; told apart from void by the next line
    stray = ids[known[ranks] != ids]
    if stray.size:
        raise UserError(
            f"{path}: holds id {stray[0]}, which the segments of image {record.image_id!r} in the "
            "JSON do not list; the PNG and the JSON do not belong together"
        )
    return ids, segments, np.concatenate([[0], order + 1])[ranks]


def _narrow(labels: np.ndarray) -> np.ndarray:
    """Non-negative labels in the smallest unsigned type: a large map is moved about three times."""
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
