"""Read and check the annotations of COCO panoptic JSON (arXiv 1801.00868)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frozenseg.data.coco_json import ImageId, ListedImage, known_category, unknown_image
from frozenseg.data.json_fields import (
    Groups,
    entries,
    file_name,
    flags,
    image_id,
    required,
    section,
    wholes,
)
from frozenseg.data.records import Categories, Segments
from frozenseg.errors import UserError
from frozenseg.notes import note

LARGEST_PANOPTIC_ID = 256**3 - 1


@dataclass(frozen=True)
class PanopticEntry:
    """The PNG and the segments of one image.

    areas: for each segment the area that the file states, or None if it states none.
    """

    file_name: str
    segments: Segments
    areas: list[Any] = field(default_factory=list)


def read_panoptic_entries(
    content: Any, categories: Categories, source: str
) -> dict[ImageId, PanopticEntry]:
    """Read the annotations of a panoptic JSON by image, in the order of the file."""
    names: dict[ImageId, str] = {}
    groups: list[tuple[str, list[dict[str, Any]]]] = []
    owners: dict[str, ImageId] = {}
    for i, entry in enumerate(section(content, "annotations", source)):
        where = f"{source}: annotations[{i}]"
        if "segments_info" not in entry and "segmentation" in entry:
            raise UserError(
                f"{where}: is an object of an instance JSON; name the data set "
                "coco_instances:JSON:IMAGE_DIR"
            )
        key = image_id(entry, "image_id", where)
        if key in names:
            raise UserError(f"{where} is the second annotation of image {key!r}; remove it")
        name = file_name(entry, "file_name", where)
        if owners.setdefault(name, key) != key:
            raise UserError(
                f"{where}: {name} is that of image {owners[name]!r} already; one image has one PNG"
            )
        infos = entries(required(entry, "segments_info", where), f"{where}: segments_info")
        names[key] = name
        groups.append((f"{where} (image {key})", infos))
    segments = _segments(groups, categories)
    panoptic_entries = {
        key: PanopticEntry(name, listed, [info.get("area") for info in infos])
        for (key, name), listed, (_, infos) in zip(names.items(), segments, groups, strict=True)
    }
    _note_crowded_stuff(segments, categories, source)
    return panoptic_entries


def _note_crowded_stuff(segments: list[Segments], categories: Categories, source: str) -> None:
    """Warn of stuff that is marked as a crowd, as BDD100K's toolkit does.

    The mark keeps its meaning, as in panopticapi: the segment is not trained on and never counts as
    missed.
    """
    crowds = np.concatenate([np.zeros(0, int), *(row.class_ids[row.is_crowd] for row in segments)])
    marked = int((~np.array(categories.is_thing, dtype=bool)[crowds]).sum())
    if marked:
        note(
            f"{source}: {marked} segments of stuff are marked as crowds; they are not trained on "
            "and never count as missed (set their iscrowd to 0 if this is not intended)"
        )


def check_images_listed(
    entries_by_image: Mapping[ImageId, PanopticEntry],
    images: Mapping[ImageId, ListedImage],
    source: str,
) -> None:
    """Refuse annotations of images that the file does not list."""
    for position, key in enumerate(entries_by_image):
        if key not in images:
            raise unknown_image(key, images, f"{source}: annotations[{position}]")


def _segments(groups: Groups, categories: Categories) -> list[Segments]:
    """Read the segments of each image, as views of arrays that hold the segments of all images."""
    ids = wholes(groups, "id", 1, LARGEST_PANOPTIC_ID)
    category_ids = wholes(groups, "category_id")
    crowds = np.array(flags(groups, "iscrowd", False), dtype=bool)
    known = categories.class_ids
    if not known.keys() >= set(category_ids):
        for where, rows in groups:
            for row in rows:
                known_category(row, known, where)
    numbers = np.array(ids, dtype=np.int32)
    class_ids = np.array([known[category_id] for category_id in category_ids], dtype=np.int32)
    segments, start = [], 0
    for where, rows in groups:
        end = start + len(rows)
        if len(set(ids[start:end])) < len(rows):
            raise UserError(f"{where}: lists a segment id twice; remove one")
        segments.append(Segments(numbers[start:end], class_ids[start:end], crowds[start:end]))
        start = end
    return segments
