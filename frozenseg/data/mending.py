"""Repair the JSON of a data set where this is safe: nothing that was annotated changes.

FrozenSeg reads some things that other programs refuse or silently misread: annotations that are
numbered from 0 or not at all, runs that are not packed, and missing fields that follow from other
fields. The ids of categories and images are kept, because other files refer to them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.coco_json import ImageId, ListedImage, read_categories, read_instance_file
from frozenseg.data.json_fields import flag, image_id, section
from frozenseg.data.label_maps import image_size, read_panoptic_ids
from frozenseg.data.panoptic_json import read_panoptic_entries
from frozenseg.data.readers import coco_name
from frozenseg.data.records import Segments
from frozenseg.data.rle import encode_segmentation, rle_area, rle_box
from frozenseg.errors import UserError
from frozenseg.files import read_json, write_json

Entry = dict[str, Any]


def mend(
    row: Benchmark, root: Path, progress: Callable[[list[Entry]], Iterable[Entry]] = iter
) -> tuple[Path, Counter[str]]:
    """Write a repaired copy of a row's JSON beside it, unless there is nothing to repair.

    Returns the path of the copy and {what was changed: how often}. The JSON itself is never
    written. Raises `UserError` if the row has no JSON, if the JSON has a fault that only its author
    can repair, or if the copy already exists. progress: wraps the list of panoptic annotations.
    """
    source = root / row.annotations
    if not row.annotations:
        raise UserError(f"{root / row.truth}: has no JSON; only a JSON can be repaired")
    target = source.with_name(f"{source.stem}.fixed.json")
    if target.exists():
        raise UserError(f"{target}: already exists; remove it, or use it")
    content, changes = read_json(source), Counter[str]()
    if row.reader == "panoptic":
        sizes = _mend_segments(content, str(source), root / row.labels, changes, progress)
        _mend_sizes(content, str(source), root / row.images, sizes, changes)
    else:
        sizes = _sizes_of_masks(content, str(source))
        _mend_sizes(content, str(source), root / row.images, sizes, changes)
        _mend_objects(content, str(source), changes)
    if changes:
        write_json(target, content)
    return target, changes


def _sizes_of_masks(content: Any, source: str) -> dict[ImageId, tuple[Any, ...]]:
    """Return {image id: (height, width)} as the runs of its objects state it; polygons do not."""
    sizes: dict[ImageId, tuple[Any, ...]] = {}
    for i, entry in enumerate(section(content, "annotations", source)):
        mask = entry.get("segmentation")
        if isinstance(mask, dict) and isinstance(mask.get("size"), list):
            key = image_id(entry, "image_id", f"{source}: annotations[{i}]")
            sizes[key] = tuple(mask["size"])
    return sizes


def _mend_sizes(
    content: Any,
    source: str,
    folder: Path,
    annotated: Mapping[ImageId, tuple[Any, ...]],
    changes: Counter[str],
) -> None:
    """Fill in the sizes that images lack, as read from the image files.

    annotated: the (height, width) of annotations. Many tools annotate a picture as it is stored,
        and not as its EXIF orientation turns it.
    """
    for i, image in enumerate(section(content, "images", source)):
        if image.get("height") is None or image.get("width") is None:
            where = f"{source}: images[{i}]"
            size = image_size(folder / coco_name(image, where))
            as_stored = annotated.get(image_id(image, "id", where)) == size[::-1]
            image["height"], image["width"] = size[::-1] if as_stored else size
            changes["sizes of images were missing"] += 1


def _mend_objects(content: Any, source: str, changes: Counter[str]) -> None:
    """Repair the annotations of an instance JSON."""
    file, entries = read_instance_file(content, source), content["annotations"]
    if empty := len(entries) - len(file.objects):
        changes["objects that enclose nothing were removed"] += empty
    kept = [entries[found.position] for found in file.objects]
    for entry, found in zip(kept, file.objects, strict=True):
        _mend_flag(entry, "iscrowd", found.is_crowd, changes)
        if entry["segmentation"] != found.segmentation:
            what = "polygons that enclose nothing were removed"
            if isinstance(found.segmentation, dict):
                what = "masks were written as packed runs"
            changes[what] += 1
            entry["segmentation"] = found.segmentation
        if found.area is not None and entry.get("bbox") is not None:
            continue
        image: ListedImage = file.images[found.image_id]
        code = encode_segmentation(found.segmentation, image.height, image.width)
        if found.area is None:
            changes["areas were missing or impossible"] += 1
            entry["area"] = rle_area(code)
        if entry.get("bbox") is None:
            changes["boxes were missing"] += 1
            entry["bbox"] = rle_box(code)
    numbers = [entry.get("id") for entry in kept]
    sound = all(type(number) is int and number > 0 for number in numbers)
    if not sound or len(set(numbers)) < len(numbers):
        changes["annotations were renumbered from 1"] += len(kept)
        for number, entry in enumerate(kept, 1):
            entry["id"] = number
    content["annotations"] = kept


def _mend_segments(
    content: Any,
    source: str,
    folder: Path,
    changes: Counter[str],
    progress: Callable[[list[Entry]], Iterable[Entry]],
) -> dict[ImageId, tuple[int, ...]]:
    """Repair the segments of a panoptic JSON by the pixels of its PNGs.

    Returns {image id: (height, width) of its PNG}.
    """
    for i, category in enumerate(section(content, "categories", source)):
        if category.get("isthing") is not None:
            is_thing = flag(category, "isthing", f"{source}: categories[{i}]", True)
            _mend_flag(category, "isthing", is_thing, changes)
    listed = read_panoptic_entries(content, read_categories(content, source), source)
    sizes: dict[ImageId, tuple[int, ...]] = {}
    for annotation in progress(content["annotations"]):
        entry = listed[annotation["image_id"]]
        ids = read_panoptic_ids(folder / entry.file_name)
        sizes[annotation["image_id"]] = ids.shape
        _mend_by_pixels(annotation["segments_info"], entry.segments, ids, changes)
    return sizes


def _mend_by_pixels(
    infos: list[Entry], segments: Segments, ids: np.ndarray, changes: Counter[str]
) -> None:
    """Repair the entries of the segments of one PNG. ids: the ids (H, W) of its pixels."""
    for info, number, crowd in zip(infos, segments.ids, segments.is_crowd, strict=True):
        mask = ids == number
        area = int(mask.sum())
        _mend_flag(info, "iscrowd", bool(crowd), changes)
        if info.get("area") != area:
            changes["areas were missing or did not match the pixels"] += 1
            info["area"] = area
        if info.get("bbox") is None:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if area else (0, 0, 0, 0)
            left, top, right, bottom = map(int, ends)
            changes["boxes were missing"] += 1
            info["bbox"] = [left, top, right - left, bottom - top]


def _mend_flag(entry: Entry, key: str, value: bool, changes: Counter[str]) -> None:
    """Write a flag as 0 or 1."""
    if type(entry.get(key)) is not int:
        changes[f"{key} was missing, or not 0 or 1"] += 1
        entry[key] = int(value)
