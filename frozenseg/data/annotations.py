"""Read the ground truth of one record as arrays, for training and for evaluators."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frozenseg.data.images import read_image
from frozenseg.data.label_maps import image_size, read_labels, read_panoptic_ids
from frozenseg.data.records import Record, Segments
from frozenseg.data.rle import (
    decode_masks,
    decode_segmentations,
    encode_segmentation,
    rle_area,
)
from frozenseg.errors import UserError
from frozenseg.notes import note

# In semantic ground truth, VOID_CLASS marks pixels that are unlabelled and not scored.
# BACKGROUND_CLASS marks pixels that are labelled as none of the queried classes, so that every
# class that is predicted there is an error.
VOID_CLASS, BACKGROUND_CLASS = -1, -2


@dataclass
class LabelMaps:
    """The annotation of one image as maps that can be flipped, scaled and cropped cheaply.

    With L = 1 the mask of object n is `maps[0] == values[n]`; objects that may overlap have one map
    each (L = N). In both cases `np.asarray(maps) == values[:, None, None]` gives the (N, H, W)
    masks.

    maps: L maps (H, W) of unsigned integers, 0 where unlabelled; an array, or a collection that
        makes one map after the other, because all maps of a large picture together need gigabytes.
    values: (N,) the value of each object in its map.
    class_ids: (N,) the class of each object.
    has_background: whether pixels that are neither 0 nor part of an object are labelled as none of
        the classes; otherwise they count as unlabelled.
    crowds: maps (H, W) of crowd regions, not 0 inside, that are no part of `maps`.
    """

    maps: Collection[np.ndarray]
    values: np.ndarray
    class_ids: np.ndarray
    has_background: bool = False
    crowds: Collection[np.ndarray] = ()


def load_image(record: Record) -> np.ndarray:
    """Read the image of a record, (H, W, 3) uint8 RGB, in the orientation of its annotation."""
    return read_image(record.image_path, annotated_size(record))


def annotated_size(record: Record) -> tuple[int, int] | None:
    """Return the (height, width) that the annotation states, else the size of its label map."""
    path = record.panoptic_path or record.semantic_path
    return _stated_size(record) or (None if path is None else image_size(path))


def _stated_size(record: Record) -> tuple[int, int] | None:
    if record.height is None or record.width is None:
        return None
    return record.height, record.width


def load_panoptic(record: Record) -> tuple[np.ndarray, Segments]:
    """Read the panoptic ids (H, W) int32 of a record, 0 where void, and their segments."""
    ids, segments, _ = _panoptic(record)
    return ids, segments


def load_semantic(record: Record) -> np.ndarray:
    """Read the class ids (H, W) int32 of a record, `VOID_CLASS` where unlabelled.

    Without a label map they are derived from the panoptic annotation, crowd regions included, as in
    the `panoptic_semseg_*` folders of detectron2's preparation of COCO; or from the objects, where
    smaller objects cover larger ones and pixels without an object are `BACKGROUND_CLASS`. Classes
    that are not among `record.classes` become `BACKGROUND_CLASS` too.
    """
    labels = _source_classes(record)
    if record.classes is None:
        return labels
    new_ids = np.full(record.num_classes, BACKGROUND_CLASS, dtype=np.int32)
    new_ids[list(record.classes)] = np.arange(len(record.classes))
    return np.where(labels < 0, labels, new_ids[np.maximum(labels, 0)])


def _source_classes(record: Record) -> np.ndarray:
    """Read a semantic map as `load_semantic` does, before classes are selected."""
    if record.semantic_path is None and record.panoptic_path is None:
        return _painted(record)
    if record.semantic_path is None:
        _, segments, positions = _panoptic(record)
        return np.concatenate([[VOID_CLASS], segments.class_ids]).astype(np.int32)[positions]
    labels = read_labels(record.semantic_path, _stated_size(record)).astype(np.int64)
    void = labels == record.semantic_ignore
    # A background value of -1 means that the map has no background.
    background = (labels == record.semantic_background) & (labels >= 0)
    outside = (labels < 0) | (labels >= record.num_classes)
    unknown = labels[outside & ~void & ~background]
    if unknown.size:
        raise UserError(
            f"{record.semantic_path}: holds class id {unknown[0]}, but there are "
            f"{record.num_classes} classes (0-{record.num_classes - 1}) and "
            f"{record.semantic_ignore} for unlabelled; correct it"
        )
    labels[void] = VOID_CLASS
    labels[background] = BACKGROUND_CLASS
    return labels.astype(np.int32)


def _painted(record: Record) -> np.ndarray:
    """Paint objects that may overlap into a map (H, W) of class ids.

    Crowd regions lie below all other objects, and small objects above large ones.
    """
    instances, size = record.instances, _stated_size(record)
    assert instances is not None and size is not None, "a record of an instance JSON"
    codes = [encode_segmentation(entry, *size) for entry in instances.segmentations]
    areas = np.array([rle_area(code) for code in codes], dtype=np.int64)
    labels = np.full(size, BACKGROUND_CLASS, dtype=np.int32)
    for index in np.lexsort((-areas, ~instances.is_crowd)):
        # One mask after the other: all masks of a large picture together need gigabytes.
        labels[decode_masks([codes[index]], size)[0]] = instances.class_ids[index]
    return labels


def present_classes(labels: np.ndarray) -> list[int]:
    """List the class ids that occur in a semantic map (H, W), ascending."""
    return [int(label) for label in np.unique(labels) if label >= 0]


def scored_classes(record: Record, labels: np.ndarray) -> list[int]:
    """List the class ids that an image is queried with under oracle presence.

    labels: the semantic map (H, W) of the image, from `load_semantic`.
    """
    present = present_classes(labels)
    return present if record.scored is None else [c for c in present if c in record.scored]


def panoptic_labels(record: Record) -> LabelMaps:
    """Make one object of each segment, thing or stuff; crowd regions count as unlabelled."""
    _, segments, positions = _panoptic(record)
    kept = np.flatnonzero(~segments.is_crowd)
    # The data type must also hold the values of listed segments that have no pixel.
    return LabelMaps(_narrow(positions, len(segments))[None], kept + 1, segments.class_ids[kept])


def semantic_labels(record: Record) -> LabelMaps:
    """Make one object of each class that is present; pixels of no class are background."""
    labels = load_semantic(record)
    classes = np.array(present_classes(labels), dtype=np.int64)
    background = labels == BACKGROUND_CLASS
    no_object = int(classes.max(initial=-1)) + 1
    labels[background] = no_object
    return LabelMaps(
        _narrow(labels + 1, no_object + 1)[None],
        classes + 1,
        classes,
        has_background=bool(background.any()),
    )


@dataclass(frozen=True)
class _Planes(Sequence[np.ndarray]):
    """A map (height, width) uint8 for each object, which is decoded when it is accessed."""

    segmentations: list[Any]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.segmentations)

    def __getitem__(self, index: Any) -> Any:
        one = [self.segmentations[index]]
        return decode_segmentations(one, self.height, self.width)[0].view(np.uint8)


def instance_labels(record: Record) -> LabelMaps:
    """Make one object of each instance, in its own map; crowd regions count as unlabelled."""
    instances, height, width = record.instances, record.height, record.width
    assert instances is not None and height and width, "a record of an instance JSON"
    kept = ~instances.is_crowd
    objects, crowds = (
        _Planes([instances.segmentations[index] for index in np.flatnonzero(rows)], height, width)
        for rows in (kept, ~kept)
    )
    values = np.ones(len(objects), dtype=np.int64)
    return LabelMaps(objects, values, instances.class_ids[kept], crowds=crowds)


LABELS: dict[str, Callable[[Record], LabelMaps]] = {
    "panoptic": panoptic_labels,
    "semantic": semantic_labels,
    "instances": instance_labels,
}


def has_objects(record: Record, targets: str) -> bool:
    """Tell whether the annotation of an image has an object to train on or to score."""
    listed = record.segments if targets == "panoptic" else record.instances
    if targets != "semantic" and listed is not None and listed.is_crowd.all():
        return False  # also for an empty list, so that nothing is decoded
    labels = LABELS[targets](record)
    return any(np.isin(labels.values, plane).any() for plane in labels.maps)


def require_objects(records: list[Record], targets: str, name: str) -> None:
    """Raise `UserError` if no image of a data set has an object; warn of crowds and empty images.

    Annotations are decoded only up to the first image with an object. name: the data set, for
    messages.
    """
    _note_crowds_and_empty_images(records, targets, name)
    if not any(has_objects(record, targets) for record in records):
        raise UserError(
            f"{name}: none of its {len(records)} images has an object that has a pixel in its "
            "annotation and is not a crowd region; nothing would be found: correct the annotation"
        )


def _note_crowds_and_empty_images(records: list[Record], targets: str, name: str) -> None:
    listed = [record.segments if targets == "panoptic" else record.instances for record in records]
    rows = [row for row in listed if row is not None]
    if targets == "semantic" or not rows:
        return
    crowds = sum(int(row.is_crowd.sum()) for row in rows)
    empty = sum(bool(row.is_crowd.all()) for row in rows)
    if crowds:
        total = sum(len(row) for row in rows)
        note(f"{name}: {crowds} of {total} objects are crowd regions, which count as unlabelled")
    if empty:
        note(f"{name}: {empty} of {len(rows)} images have no object")


def _panoptic(record: Record) -> tuple[np.ndarray, Segments, np.ndarray]:
    """Read ids (H, W), segments, and positions (H, W): 0 where void, n + 1 in segment n."""
    path, segments = record.panoptic_path, record.segments
    assert path is not None and segments is not None, "a record of a panoptic JSON"
    ids = read_panoptic_ids(path, _stated_size(record))
    order = np.argsort(segments.ids)
    known = np.concatenate([[0], segments.ids[order]])
    ranks = np.searchsorted(known, ids)
    ranks[ranks == len(known)] = 0  # ids above all known ones; the next line finds them
    stray = ids[known[ranks] != ids]
    if stray.size:
        raise UserError(
            f"{path}: holds id {stray[0]}, which the segments of image {record.image_id!r} in the "
            "JSON do not list; the PNG and the JSON do not belong together (ids are colours, "
            "R + 256 G + 256^2 B)"
        )
    return ids, segments, np.concatenate([[0], order + 1])[ranks]


def _narrow(labels: np.ndarray, largest: int) -> np.ndarray:
    """Convert labels 0-`largest` to the smallest unsigned type, to speed up the transforms."""
    return labels.astype(np.min_scalar_type(largest))
