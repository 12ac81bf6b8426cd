"""Read the JSON files of predictions to score: check each entry and group the entries by image."""

from collections.abc import Collection
from typing import Any

from frozenseg.data.coco_json import ImageId, known_category, known_image
from frozenseg.data.json_fields import entries, flag, number, required, unusable
from frozenseg.errors import UserError
from frozenseg.files import read_json


def read_classes(path: str, needs_seen: bool) -> tuple[list[str], list[bool] | None]:
    """Read the class names by label, and whether each was seen in training (None: not given).

    The file is a JSON object {"names": [...], "seen": [...]}. needs_seen: whether a file without
    "seen" is an error.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: an object with 'names' was expected")
    names = required(content, "names", path)
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path}: 'names' must be the class names, in the order of their labels")
    if "seen" not in content and not needs_seen:
        return names, None
    seen = required(content, "seen", path)
    if not isinstance(seen, list) or len(seen) != len(names):
        raise UserError(f"{path}: 'seen' must hold true or false for each of {len(names)} names")
    return names, [flag({"seen": value}, "seen", path, False) for value in seen]


def read_detections(
    content: Any, path: str, image_ids: Collection[ImageId], category_ids: Collection[int]
) -> dict[ImageId, list[dict[str, Any]]]:
    """Return {image id: its results} from the content of a COCO results file, in its order.

    The content may also be a COCO data set; then the results are in its list "annotations".
    """
    by_image: dict[ImageId, list[dict[str, Any]]] = {}
    if isinstance(content, dict) and "annotations" in content:
        content = content["annotations"]
    for i, result in enumerate(entries(content, path)):
        where = f"{path}: entry {i}"
        key = known_image(result, image_ids, where)
        category_id = known_category(result, category_ids, where)
        code = required(result, "segmentation", where)
        if not isinstance(code, dict):
            raise unusable(code, "segmentation", where, "COCO RLE")
        by_image.setdefault(key, []).append(
            {
                "category_id": category_id,
                "score": number(result, "score", where),
                "segmentation": code,
            }
        )
    return by_image


def read_proposals(path: str, image_ids: Collection[ImageId]) -> dict[ImageId, list[Any]]:
    """Read a list of {"image_id", "masks"}; return {image id: its masks}, not yet checked."""
    by_image: dict[ImageId, list[Any]] = {}
    for i, entry in enumerate(entries(read_json(path), path)):
        where = f"{path}: entry {i}"
        key = known_image(entry, image_ids, where)
        if key in by_image:
            raise UserError(f"{where}: image {key!r} occurs twice")
        masks = required(entry, "masks", where)
        if not isinstance(masks, list):
            raise unusable(masks, "masks", where, "a list of COCO RLE")
        by_image[key] = masks
    return by_image
