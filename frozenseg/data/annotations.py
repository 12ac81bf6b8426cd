"""Records -> arrays: the ground truth of one image, for training and for evaluators."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.records import Instances, Record, Segments
from frozenseg.data.shapes import decode_shapes
from frozenseg.errors import UserError

# In semantic ground truth: unlabelled, which counts neither for nor against;
# and labelled, but of no class that is asked for, which counts against every class.
VOID_CLASS, BACKGROUND_CLASS = -1, -2


@dataclass
class LabelMaps:
    """The annotation of one image as maps that can be flipped, scaled and cropped cheaply.

    maps: (L, H, W) unsigned integers, 0 where unlabelled. values, class_ids: (N,), one per object.
    With L = 1 object n is `maps[0] == values[n]`; objects that may overlap have a plane each
    (L = N). `maps == values[:, None, None]` gives the (N, H, W) masks of both. has_background:
    whether what is not 0 in the one map, and in no object, is labelled as none of the classes;
    otherwise it is as good as 0.
    """

    maps: np.ndarray
    values: np.ndarray
    class_ids: np.ndarray
    has_background: bool = False


def load_panoptic(record: Record) -> tuple[np.ndarray, Segments]:
    """The panoptic ids (H, W) int32 of a record, 0 where void, and their segments."""
    ids, segments, _ = _panoptic(record)
    return ids, segments


def load_semantic(record: Record) -> np.ndarray:
    """The class ids (H, W) int32 of a record, `VOID_CLASS` where unlabelled.

    Without a label map they come from the panoptic annotation, crowd regions included: the same
    that detectron2's preparation of COCO writes to `panoptic_semseg_*`; or from the objects, the
    smaller above the larger. `BACKGROUND_CLASS` where there is no object, and where the class is
    none of `record.classes`.
    """
    labels = _source_classes(record)
    if record.classes is None:
        return labels
    places = np.full(record.num_classes, BACKGROUND_CLASS, dtype=np.int32)
    places[list(record.classes)] = np.arange(len(record.classes))
    return np.where(labels < 0, labels, places[np.maximum(labels, 0)])


def _source_classes(record: Record) -> np.ndarray:
    """As `load_semantic`, with the class ids of the files."""
    if record.semantic_path is None and record.panoptic_path is None:
        return _painted(record)
    if record.semantic_path is None:
        _, segments, positions = _panoptic(record)
        return np.concatenate([[VOID_CLASS], segments.class_ids]).astype(np.int32)[positions]
    labels = read_labels(record.semantic_path).astype(np.int32)
    void = labels == record.semantic_ignore
    background = labels == record.semantic_background
    unknown = labels[(labels >= record.num_classes) & ~void & ~background]
    if unknown.size:
        raise UserError(
            f"{record.semantic_path}: holds class id {unknown[0]}, but there are "
            f"{record.num_classes} classes (0-{record.num_classes - 1}) and "
            f"{record.semantic_ignore} for unlabelled; correct it"
        )
    labels[void] = VOID_CLASS
    labels[background] = BACKGROUND_CLASS
    return labels


def _painted(record: Record) -> np.ndarray:
    """Class ids (H, W) of objects that may overlap: crowds lie lowest, small ones on top."""
    masks, instances = load_instances(record)
    labels = np.full((record.height or 0, record.width or 0), BACKGROUND_CLASS, dtype=np.int32)
    areas = masks.sum(axis=(1, 2))
    for index in np.lexsort((-areas, ~instances.is_crowd)):
        labels[masks[index]] = instances.class_ids[index]
    return labels


def present_classes(labels: np.ndarray) -> list[int]:
    """The class ids in a semantic map (H, W), ascending."""
    return [int(label) for label in np.unique(labels) if label >= 0]


def scored_classes(record: Record, labels: np.ndarray) -> list[int]:
    """The class ids that an image is asked for where only classes in it are.

    labels: (H, W), its `load_semantic`.
    """
    present = present_classes(labels)
    return present if record.scored is None else [c for c in present if c in record.scored]


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
    """One object per class that is present, and background where there is such a thing."""
    labels = load_semantic(record)
    classes = np.array(present_classes(labels), dtype=np.int64)
    background = labels == BACKGROUND_CLASS
    labels[background] = classes.max(initial=-1) + 1  # the value of no object
    return LabelMaps(
        _narrow(labels + 1)[None], classes + 1, classes, has_background=bool(background.any())
    )


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
