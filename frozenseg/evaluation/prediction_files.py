"""The JSON files that are scored: read, checked entry by entry, and ordered by image."""

from collections.abc import Collection
from typing import Any

from frozenseg.errors import UserError
from frozenseg.evaluation.ground_truth import NUMBER, entries, field, section
from frozenseg.files import read_json


def read_classes(path: str, needs_seen: bool) -> tuple[list[str], list[bool] | None]:
    """Class names by label, and which of them were seen in training, of {"names", "seen"}."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: an object with 'names' was expected")
    names = field(content, "names", list, path)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: 'names' must be the class names, in the order of their labels")
    if "seen" not in content and not needs_seen:
        return names, None
    seen = field(content, "seen", list, path)
    if len(seen) != len(names) or not all(flag in (True, False) for flag in seen):
        raise UserError(f"{path}: 'seen' must hold true or false for each of {len(names)} names")
    return names, [bool(flag) for flag in seen]


def panoptic_annotations(
    content: Any, category_ids: Collection[int], source: str
) -> dict[int | str, dict[str, Any]]:
    """{image id: annotation}, checked as far as it goes without the PNGs."""
    by_image: dict[int | str, dict[str, Any]] = {}
    for i, annotation in enumerate(section(content, "annotations", source)):
        where = f"{source}: annotations[{i}]"
        image_id = field(annotation, "image_id", (int, str), where)
        if image_id in by_image:
            raise UserError(f"{where}: image {image_id} occurs twice")
        field(annotation, "file_name", str, where)
        segments = field(annotation, "segments_info", list, where)
        for segment in entries(segments, f"{where} (image {image_id}): segments_info"):
            named = f"{where} (image {image_id}): segment {segment.get('id')}"
            field(segment, "id", int, named)
            if field(segment, "category_id", int, named) not in category_ids:
                raise UserError(
                    f"{named}: category {segment['category_id']} is not among the categories"
                )
            if "area" in segment and not 0 <= field(segment, "area", NUMBER, named) < 2**48:
                raise UserError(f"{named}: 'area' is {segment['area']}, no number of pixels")
        by_image[image_id] = annotation
    return by_image


def read_detections(
    path: str, image_ids: Collection[int], category_ids: Collection[int]
) -> dict[int, list[dict[str, Any]]]:
    """{image id: its results} of a COCO results file, in the order of the file."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for i, result in enumerate(entries(read_json(path), path)):
        where = f"{path}: entry {i}"
        image_id = field(result, "image_id", int, where)
        if image_id not in image_ids:
            raise UserError(f"{where}: image {image_id} is not among those of the ground truth")
        if field(result, "category_id", int, where) not in category_ids:
            raise UserError(
                f"{where}: category {result['category_id']} is not among the categories"
            )
        field(result, "score", NUMBER, where)
        field(result, "segmentation", dict, where)
        by_image.setdefault(image_id, []).append(result)
    return by_image


def read_proposals(path: str, image_ids: Collection[int]) -> dict[int, list[Any]]:
    """{image id: its masks} of a list of {"image_id", "masks"}."""
    by_image: dict[int, list[Any]] = {}
    for i, entry in enumerate(entries(read_json(path), path)):
        image_id = field(entry, "image_id", int, f"{path}: entry {i}")
        if image_id not in image_ids:
            raise UserError(f"{path}: entry {i}: image {image_id} is not among the images")
        if image_id in by_image:
            raise UserError(f"{path}: entry {i}: image {image_id} occurs twice")
        by_image[image_id] = field(entry, "masks", list, f"{path}: entry {i}")
    return by_image
