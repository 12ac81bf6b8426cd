"""COCO instance files: read, checked, and brought to a form evaluators agree on."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_util

from frozenseg.data.checks import refuse_equal_names
from frozenseg.errors import UserError
from frozenseg.evaluation.rle import check_rles
from frozenseg.files import read_json

NUMBER = (int, float)


def load_ground_truth(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    with_masks: bool,
    keep: Sequence[str] = (),
    named: str = "",
) -> dict[str, Any]:
    """{"images", "categories", "annotations"} of a COCO instance file (or its content), checked.

    Only what evaluators read is passed on, with the fields `keep` of images and categories:
    hotcoco refuses a file for a wrong type in fields that play no part. Annotations are numbered
    anew from 1: an id of 0, a missing or a doubled one is taken for something else, and no score
    depends on them. Missing areas come from the masks, or from the boxes if `with_masks` is
    False. named: what to call content in messages, where it came from a file.
    """
    named = named or ("ground truth" if isinstance(source, Mapping) else os.fspath(source))
    dataset = source if isinstance(source, Mapping) else read_json(source)
    images = index_by_id(section(dataset, "images", named), f"{named}: images")
    categories = index_by_id(section(dataset, "categories", named), f"{named}: categories")
    refuse_equal_names(category_names(categories), named)
    for i, image in enumerate(images.values()):
        for side in ("height", "width"):
            if not 0 < field(image, side, int, f"{named}: images[{i}]") < 2**31:
                raise UserError(
                    f"{named}: images[{i}]: {side!r} is {image[side]}, no size in pixels"
                )
    annotations = [
        _annotation(entry, i + 1, images, categories, with_masks, f"{named}: annotations[{i}]")
        for i, entry in enumerate(section(dataset, "annotations", named))
    ]
    if with_masks:
        _check_masks(annotations, images, named)
    return {
        "images": [_only(image, ("id", "height", "width", *keep)) for image in images.values()],
        "categories": [
            {**_only(category, ("id", *keep)), "name": str(category.get("name") or category["id"])}
            for category in categories.values()
        ],
        "annotations": annotations,
    }


def category_names(categories: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """The names by id, of the categories that have one."""
    return {i: c["name"] for i, c in categories.items() if isinstance(c.get("name"), str)}


def number_images(dataset: Any) -> tuple[Any, dict[str, int]]:
    """The dataset with numbers for names of images, and {name: number}.

    Mask2Former's files of ADE20K have names as ids, hotcoco wants numbers. Where any id is no name
    the dataset comes back as it is.
    """
    images = dataset.get("images") if isinstance(dataset, Mapping) else None
    rows = images if isinstance(images, list) else []
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    texts = [name for name in names if isinstance(name, str)]
    annotations = dataset.get("annotations") if rows else None
    if len(set(texts)) < len(rows) or not rows or not isinstance(annotations, list):
        return dataset, {}
    numbers = {name: number for number, name in enumerate(texts, start=1)}
    return {
        **dataset,
        "images": [{**row, "id": numbers[row["id"]]} for row in rows],
        "annotations": [
            {**row, "image_id": numbers.get(str(row.get("image_id")), row.get("image_id"))}
            if isinstance(row, dict)
            else row
            for row in annotations
        ],
    }, numbers


def section(dataset: Any, key: str, source: str) -> list[dict[str, Any]]:
    """The list of objects under `key` of a JSON object."""
    if not isinstance(dataset, Mapping) or not isinstance(dataset.get(key), list):
        raise UserError(f"{source}: has no list {key!r}; a COCO file was expected")
    return entries(dataset[key], f"{source}: {key}")


def entries(value: Any, source: str) -> list[dict[str, Any]]:
    """`value` if it is a list of JSON objects."""
    if not isinstance(value, list):
        raise UserError(f"{source}: a list was expected, found {type(value).__name__}")
    for i, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise UserError(f"{source}[{i}]: an object was expected, found {type(entry).__name__}")
    return value


def index_by_id(found: Sequence[dict[str, Any]], source: str) -> dict[int, dict[str, Any]]:
    """{id: entry} in the given order; an id must be a whole number and occur once."""
    by_id: dict[int, dict[str, Any]] = {}
    for i, entry in enumerate(found):
        number = field(entry, "id", int, f"{source}[{i}]")
        if not 0 <= number < 2**63:
            raise UserError(f"{source}[{i}]: id {number} is no id; use 0 to 2**63 - 1")
        if number in by_id:
            raise UserError(f"{source}[{i}]: id {number} occurs twice")
        by_id[number] = entry
    return by_id


def field(entry: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], source: str) -> Any:
    """`entry[key]`, which must be there and of one of `kinds` (true and NaN are no numbers)."""
    if key not in entry:
        raise UserError(f"{source}: has no {key!r}")
    value = entry[key]
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, kinds) or isinstance(value, bool) or not finite:
        raise UserError(f"{source}: {key!r} is {str(value)[:40]!r}, which cannot be used")
    return value


def _only(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


def _are_numbers(values: list[Any]) -> bool:
    return all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, NUMBER) and abs(value) < 2**31


def _annotation(
    entry: Mapping[str, Any],
    number: int,
    images: Mapping[int, Mapping[str, Any]],
    categories: Mapping[int, Mapping[str, Any]],
    with_masks: bool,
    where: str,
) -> dict[str, Any]:
    """A copy of `entry` that has all the fields evaluators read."""
    image = images.get(field(entry, "image_id", int, where))
    if image is None:
        raise UserError(f"{where}: image {entry['image_id']} is not among the images")
    if field(entry, "category_id", int, where) not in categories:
        raise UserError(f"{where}: category {entry['category_id']} is not among the categories")
    kept = ("image_id", "category_id", "area", "bbox", "segmentation", "ignore")
    annotation = {**_only(entry, kept), "id": number}
    annotation["iscrowd"] = int(bool(entry.get("iscrowd", 0)))
    if with_masks:
        _check_segmentation(entry.get("segmentation"), where)
    if "bbox" in entry or not with_masks:
        box = field(entry, "bbox", list, where)
        if len(box) != 4 or not _are_numbers(box):
            raise UserError(f"{where}: 'bbox' must be four numbers: x, y, width, height")
    if "area" not in entry:
        size = (image["height"], image["width"])
        annotation["area"] = _area(annotation, size, with_masks, where)
    field(annotation, "area", NUMBER, where)
    return annotation


def _check_masks(
    annotations: Sequence[dict[str, Any]], images: Mapping[int, Mapping[str, Any]], named: str
) -> None:
    """Bring all run-length codes to one form; UserError for what is neither code nor polygons."""
    coded = [i for i, entry in enumerate(annotations) if isinstance(entry["segmentation"], dict)]
    sizes = [images[annotations[i]["image_id"]] for i in coded]
    codes = check_rles(
        [annotations[i]["segmentation"] for i in coded],
        [(image["height"], image["width"]) for image in sizes],
        lambda i: f"{named}: annotations[{coded[i]}]",
    )
    for i, code in zip(coded, codes, strict=True):
        annotations[i]["segmentation"] = code


def _check_segmentation(value: Any, where: str) -> None:
    if isinstance(value, dict):
        return
    polygons = value if isinstance(value, list) else []
    sound = all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and _are_numbers(polygon)
        for polygon in polygons
    )
    if not polygons or not sound:
        raise UserError(f"{where}: 'segmentation' is neither COCO RLE nor polygons of x, y pairs")


def _area(
    annotation: Mapping[str, Any], size: tuple[int, int], with_masks: bool, where: str
) -> float:
    """Pixels of the mask, or width x height of the box."""
    if not with_masks:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    found = annotation["segmentation"]
    if isinstance(found, dict):
        code = check_rles([found], [size], lambda _: where)[0]
    else:
        code = mask_util.merge(mask_util.frPyObjects(found, *size))
    return float(mask_util.area(code))
