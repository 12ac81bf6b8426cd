"""Read and check the content of COCO and LVIS JSON: categories, images and objects.

Training, testing, `check_dataset` and the scorers all read JSON through this module and, for the
annotations of COCO panoptic JSON, `panoptic_json`. They therefore accept and refuse the same files,
and leave out the same objects.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from frozenseg.data.images import MAX_PIXELS
from frozenseg.data.json_fields import (
    file_name,
    flag,
    image_id,
    is_number,
    required,
    section,
    unusable,
    whole,
)
from frozenseg.data.records import Categories
from frozenseg.data.rle import checked_segmentation, encode_segmentation, rle_box
from frozenseg.errors import UserError
from frozenseg.notes import note
from frozenseg.text.names import clean, refuse_repeated, spelling

ImageId = int | str


@dataclass(frozen=True)
class ListedImage:
    """An entry of `images`. entry: the JSON object, for fields that only some files have."""

    image_id: ImageId
    height: int
    width: int
    entry: Mapping[str, Any]


class ListedObject(NamedTuple):
    """An entry of `annotations` of an instance JSON.

    segmentation: as `checked_segmentation` returns it; None if boxes were requested and the entry
        has one.
    box: x, y, width, height in pixels; None if only masks were requested and the entry has no box.
    area: the area that the file states, in pixels; None where no object of the image can have it.
    position: the index of the entry in the file.
    """

    image_id: ImageId
    category_id: int
    segmentation: Any
    box: list[float] | None
    area: float | None
    is_crowd: bool
    position: int


@dataclass(frozen=True)
class InstanceFile:
    """The content of a COCO or LVIS instance JSON."""

    images: dict[ImageId, ListedImage]
    categories: Categories
    category_entries: list[dict[str, Any]]
    objects: list[ListedObject]


def read_categories(content: Any, source: str, *, panoptic: bool = False) -> Categories:
    """Read the categories of an annotation file, by ascending id.

    panoptic: whether each category must say if it is a thing; otherwise it is a thing by default.
    """
    rows: dict[int, tuple[str, bool]] = {}
    for i, entry in enumerate(section(content, "categories", source)):
        where = f"{source}: categories[{i}]"
        category_id = whole(entry, "id", where)
        if panoptic:
            required(entry, "isthing", where)
        if category_id in rows:
            raise UserError(f"{where}: category id {category_id} is listed twice; remove one")
        name = clean(entry.get("name"), f"{source}: the name of categories[{i}]")
        rows[category_id] = name, flag(entry, "isthing", where, True)
    if not rows:
        raise UserError(f"{source}: the list of categories is empty; add the classes")
    ids = sorted(rows)
    refuse_repeated(  # classes of one name cannot be distinguished; a model could find only one
        [[rows[i][0]] for i in ids],
        [f"category {i}" for i in ids],
        source,
        "rename one, or leave out the one that no annotation uses",
    )
    return Categories(
        names=tuple(rows[i][0] for i in ids),
        is_thing=tuple(rows[i][1] for i in ids),
        dataset_ids=tuple(ids),
    )


def read_image_entries(content: Any, source: str) -> dict[ImageId, dict[str, Any]]:
    """Read the entries of `images` by id; refuse repeated ids and files."""
    images: dict[ImageId, dict[str, Any]] = {}
    files: dict[str, ImageId] = {}
    for i, entry in enumerate(section(content, "images", source)):
        where = f"{source}: images[{i}]"
        key = image_id(entry, "id", where)
        if key in images:
            raise UserError(f"{where}: image id {key!r} is listed twice; remove one")
        images[key] = entry
        if entry.get("file_name") is not None:
            name = file_name(entry, "file_name", where)
            if files.setdefault(name, key) != key:
                raise UserError(
                    f"{where}: {name} is already listed as image {files[name]!r}; remove one"
                )
    if not images:
        raise UserError(f"{source}: lists no images; is it the right file?")
    if len({type(key) for key in images}) > 1:
        raise UserError(f"{source}: some images have numbers as ids, some names; use one kind")
    return images


def read_images(content: Any, source: str) -> dict[ImageId, ListedImage]:
    """Read the entries of `images` with their sizes by id; refuse impossible sizes too."""
    images: dict[ImageId, ListedImage] = {}
    for i, (key, entry) in enumerate(read_image_entries(content, source).items()):
        where = f"{source}: images[{i}]"
        height, width = (
            whole(entry, side, where, low=1, high=MAX_PIXELS) for side in ("height", "width")
        )
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{where}: {height} x {width} pixels are more than {MAX_PIXELS:,}; scale it down"
            )
        images[key] = ListedImage(key, height, width, entry)
    return images


def read_instance_file(content: Any, source: str, *, boxes: bool = False) -> InstanceFile:
    """Read all objects that enclose a pixel; a warning says how many do not.

    boxes: whether boxes are needed instead of masks. A box that is absent is derived from the
        segmentation; the segmentation of an object that has a box is then not read.
    """
    images, categories = read_images(content, source), read_categories(content, source)
    rows = section(content, "annotations", source)
    objects, cut = [], 0
    for i, entry in enumerate(rows):
        where = f"{source}: annotations[{i}]"
        image = images[known_image(entry, images, where)]
        category_id = known_category(entry, categories.class_ids, where)
        is_crowd = flag(entry, "iscrowd", where, False)
        segmentation, box = None, _box(entry, where)
        if not boxes or box is None:
            given = required(entry, "segmentation", where)
            segmentation = checked_segmentation(given, image.height, image.width, where)
            if segmentation is None:
                continue
            cut += isinstance(segmentation, list) and len(segmentation) < len(given)
        if boxes and box is None:
            box = rle_box(encode_segmentation(segmentation, image.height, image.width))
        area = _plausible_area(entry.get("area"), image)
        objects.append(
            ListedObject(image.image_id, category_id, segmentation, box, area, is_crowd, i)
        )
    if len(objects) < len(rows):
        note(
            f"{source}: {len(rows) - len(objects)} of {len(rows)} objects left out: their "
            "segmentations enclose nothing in the image"
        )
    if cut:
        note(f"{source}: some polygons of {cut} objects left out: they enclose nothing")
    return InstanceFile(images, categories, section(content, "categories", source), objects)


def check_names_agree(
    names: Mapping[ImageId, str], others: Mapping[ImageId, str], source: str, other: str
) -> None:
    """Refuse a file that is listed for one image but has the name of another image.

    names, others: {image id: file name} in `source` and in `other`. A name that only one of them
    has is not compared. A name that is the number of its own image is accepted, even if `other` has
    it for another image; a warning says how many files this concerns.
    """
    owners: dict[str, set[ImageId]] = {}
    for key, name in others.items():
        owners.setdefault(_stem(name), set()).add(key)
    numbered = 0
    for key, name in names.items():
        stem = _stem(name)
        named = owners.get(stem, {key})
        if key in named:
            continue
        numbered += 1
        if (stem.lstrip("0") or "0") != str(key):
            raise UserError(
                f"{source}: lists {name} for image {key!r}, but in {other} that is the name of "
                f"image {next(iter(named))!r}; correct the id or the name"
            )
    if numbered:
        note(
            f"{source}: {numbered} of {len(names)} files have the number of their image as name, "
            f"which in {other} is the name of another image: the number is used"
        )


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def check_categories_agree(
    categories: Categories, others: Categories, source: str, other: str
) -> None:
    """Refuse two files that use the same ids for different classes.

    A name that only one of them has is not compared, because vocabularies add synonyms.
    """
    rows = zip(others.names, others.dataset_ids, strict=True)
    known = {spelling(name): number for name, number in rows}
    for name, number in zip(categories.names, categories.dataset_ids, strict=True):
        if number in others.class_ids and known.get(spelling(name), number) != number:
            raise UserError(
                f"{source}: category {number} is {name!r}, which in {other} is category "
                f"{known[spelling(name)]}; correct the ids"
            )


def unknown_image(
    key: ImageId, images: Iterable[ImageId], where: str, whose: str = "the images"
) -> UserError:
    """Make the error for an id that no entry of `images` has."""
    remedy = "remove it or list the image"
    if not any(type(other) is type(key) for other in images):
        types = ("text", "numbers") if isinstance(key, str) else ("a number", "text")
        remedy = f"it is {types[0]}, but their ids are {types[1]}: use one kind"
    return UserError(f"{where}: image {key!r} is not among {whose}; {remedy}")


def known_image(entry: Mapping[str, Any], images: Collection[ImageId], where: str) -> ImageId:
    """Return the `image_id` of an entry, which must be among those of `images`."""
    key = image_id(entry, "image_id", where)
    if key not in images:
        raise unknown_image(key, images, where)
    return key


def known_category(entry: Mapping[str, Any], categories: Collection[int], where: str) -> int:
    """Return the `category_id` of an entry, which must be among those of `categories`."""
    category_id = whole(entry, "category_id", where)
    if category_id not in categories:
        raise UserError(
            f"{where}: category {category_id} is not among the {len(categories)} categories; "
            "correct it or list the category"
        )
    return category_id


def _box(entry: Mapping[str, Any], where: str) -> list[float] | None:
    values = entry.get("bbox")
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 4:
        raise UserError(f"{where}: 'bbox' must be four numbers: x, y, width, height")
    if not all(map(is_number, values)):
        raise unusable(values, "bbox", where, "four finite numbers")
    box = [float(value) for value in values]
    if min(box[2:]) < 0 or max(map(abs, box)) > 2**31:
        raise UserError(f"{where}: 'bbox' is {values}: x, y, width, height in pixels were expected")
    return box


def _plausible_area(area: Any, image: ListedImage) -> float | None:
    """Return the area that a file states, or None if no object of the image can have it."""
    if not is_number(area) or not 0 < area <= image.height * image.width:
        return None
    return float(area)
