"""The content of COCO, LVIS and COCO panoptic JSON, checked once for all who read it.

The readers of training and testing, `check_dataset` and the scorers start from what is returned
here, so that they take and refuse the same files, and leave out the same objects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from frozenseg.data.images import MAX_PIXELS
from frozenseg.data.json_fields import (
    entries,
    file_name,
    flag,
    image_id,
    is_number,
    required,
    section,
    unusable,
    whole,
)
from frozenseg.data.notes import note
from frozenseg.data.records import Categories, Segments
from frozenseg.data.shapes import checked_shape, encode_shape
from frozenseg.errors import UserError
from frozenseg.text.names import clean, refuse_repeated

LARGEST_PANOPTIC_ID = 256**3 - 1

ImageId = int | str


@dataclass(frozen=True)
class ListedImage:
    """An entry of `images`. entry: as the file has it, for the fields that not all files have."""

    image_id: ImageId
    height: int
    width: int
    entry: Mapping[str, Any]


class ListedObject(NamedTuple):
    """An entry of `annotations` of an instance JSON.

    shape: as `checked_shape` gives it; box: x, y, width, height in pixels. One of them may be None,
    that which was not asked for. area: as the file states it, where that can be true;
    else None. position: of the entry in the file.
    """

    image_id: ImageId
    category_id: int
    shape: Any
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


@dataclass(frozen=True)
class PanopticEntry:
    """The segments of one image. areas: what the file says of them, None where it says nothing."""

    file_name: str
    segments: Segments
    areas: list[Any] = field(default_factory=list)


def read_categories(content: Any, source: str, *, panoptic: bool = False) -> Categories:
    """The categories of an annotation file by ascending id.

    panoptic: each must say whether it is a thing; else all are things that do not say otherwise.
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
    refuse_repeated(  # nothing tells them apart, and a model can find one alone
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


def read_images(content: Any, source: str) -> dict[ImageId, ListedImage]:
    """The image entries by id; sizes are possible, and no id and no file is listed twice."""
    images: dict[ImageId, ListedImage] = {}
    files: dict[str, ImageId] = {}
    for i, entry in enumerate(section(content, "images", source)):
        where = f"{source}: images[{i}]"
        number_or_name = image_id(entry, "id", where)
        height, width = (
            whole(entry, side, where, low=1, high=MAX_PIXELS) for side in ("height", "width")
        )
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{where}: {height} x {width} pixels are more than {MAX_PIXELS:,}; scale it down"
            )
        if number_or_name in images:
            raise UserError(f"{where}: image id {number_or_name!r} is listed twice; remove one")
        if entry.get("file_name") is not None:
            name = file_name(entry, "file_name", where)
            if name in files:
                raise UserError(
                    f"{where}: {name} is image {files[name]!r} already; one file has one id"
                )
            files[name] = number_or_name
        images[number_or_name] = ListedImage(number_or_name, height, width, entry)
    if not images:
        raise UserError(f"{source}: lists no images; is it the right file?")
    if len({type(key) for key in images}) > 1:
        raise UserError(f"{source}: some images have numbers as ids, some names; use one kind")
    return images


def read_instance_file(content: Any, source: str, *, boxes: bool = False) -> InstanceFile:
    """All objects that enclose something; how many do not is said.

    boxes: take `bbox`, as box AP does, and `segmentation` where there is none; else masks alone.
    """
    images, categories = read_images(content, source), read_categories(content, source)
    rows = section(content, "annotations", source)
    objects, cut = [], 0
    for i, entry in enumerate(rows):
        where = f"{source}: annotations[{i}]"
        image = _image_of(entry, images, where)
        category_id = _category_of(entry, categories, where)
        is_crowd = flag(entry, "iscrowd", where, False)
        shape, box = None, _box(entry, where)
        if not boxes or box is None:
            given = required(entry, "segmentation", where)
            shape = checked_shape(given, image.height, image.width, where)
            if shape is None:
                continue
            cut += isinstance(shape, list) and len(shape) < len(given)
        if boxes and box is None:
            box = mask_util.toBbox(encode_shape(shape, image.height, image.width)).tolist()
        area = _plausible_area(entry.get("area"), image)
        objects.append(ListedObject(image.image_id, category_id, shape, box, area, is_crowd, i))
    if len(objects) < len(rows):
        note(
            f"{source}: {len(rows) - len(objects)} of {len(rows)} objects left out: their "
            "segmentations enclose nothing in the image"
        )
    if cut:
        note(f"{source}: of {cut} objects some polygons are left out: they enclose nothing")
    return InstanceFile(images, categories, section(content, "categories", source), objects)


def read_panoptic_entries(
    content: Any, categories: Categories, source: str
) -> dict[ImageId, PanopticEntry]:
    """The annotations of a panoptic JSON by image, in the order of the file."""
    found: dict[ImageId, PanopticEntry] = {}
    for i, entry in enumerate(section(content, "annotations", source)):
        where = f"{source}: annotations[{i}]"
        if "segments_info" not in entry and "segmentation" in entry:
            raise UserError(
                f"{where}: is an object of an instance JSON; as a data set that is "
                "coco_instances:JSON:IMAGE_DIR"
            )
        key = image_id(entry, "image_id", where)
        if key in found:
            raise UserError(f"{where} is the second of image {key!r}; remove it")
        infos = entries(required(entry, "segments_info", where), f"{where}: segments_info")
        found[key] = PanopticEntry(
            file_name=file_name(entry, "file_name", where),
            segments=_segments(infos, categories, f"{where} (image {key})"),
            areas=[info.get("area") for info in infos],
        )
    _say_crowded_stuff(found, categories, source)
    return found


def _say_crowded_stuff(
    found: Mapping[ImageId, PanopticEntry], categories: Categories, source: str
) -> None:
    """Stuff has no single objects, yet BDD100K's toolkit marks some of it as crowds. The mark keeps
    its meaning, as in panopticapi: such a segment is not trained on and never missed."""
    is_thing = np.array(categories.is_thing, dtype=bool)
    segments = [entry.segments for entry in found.values()]
    marked = sum(int((row.is_crowd & ~is_thing[row.class_ids]).sum()) for row in segments)
    if marked:
        note(
            f"{source}: {marked} segments of stuff are marked as crowds; they are not trained on "
            "and never missed (set their iscrowd to 0 if that is not meant)"
        )


def check_images_listed(
    found: Mapping[ImageId, PanopticEntry], images: Mapping[ImageId, ListedImage], source: str
) -> None:
    """Refuse annotations of images that the file does not list."""
    for position, key in enumerate(found):
        if key not in images:
            raise unknown_image(key, images, f"{source}: annotations[{position}]")


def check_names_agree(
    names: Mapping[ImageId, str], others: Mapping[ImageId, str], source: str, other: str
) -> None:
    """Refuse a file that is listed for one image but has the name of another one.

    names, others: of the files that belong to images, in `source` and in `other`. Names that occur
    on one side alone say nothing, and a name that is the number of its image is right.
    """
    owners: dict[str, set[ImageId]] = {}
    for key, name in others.items():
        owners.setdefault(PurePath(name).stem, set()).add(key)
    for key, name in names.items():
        stem = PurePath(name).stem
        named = owners.get(stem, {key})
        if key not in named and stem.lstrip("0") != str(key):
            raise UserError(
                f"{source}: lists {name} for image {key!r}, but by {other} that is the name of "
                f"image {next(iter(named))!r}; correct the id or the name"
            )


def unknown_image(key: ImageId, images: Iterable[ImageId], where: str) -> UserError:
    """The error for an id that no entry of `images` has."""
    kind = "" if any(type(other) is type(key) for other in images) else f" ({type(key).__name__})"
    return UserError(
        f"{where}: image {key!r}{kind} is not among the images; remove it or list the image"
    )


def _image_of(
    entry: Mapping[str, Any], images: Mapping[ImageId, ListedImage], where: str
) -> ListedImage:
    key = image_id(entry, "image_id", where)
    image = images.get(key)
    if image is None:
        raise unknown_image(key, images, where)
    return image


def _category_of(entry: Mapping[str, Any], categories: Categories, where: str) -> int:
    category_id = whole(entry, "category_id", where)
    if category_id not in categories.class_ids:
        raise UserError(
            f"{where}: category {category_id} is not among the {len(categories)} categories; "
            "correct it or list the category"
        )
    return category_id


def _segments(infos: list[dict[str, Any]], categories: Categories, where: str) -> Segments:
    ids = [whole(info, "id", where, 1, LARGEST_PANOPTIC_ID) for info in infos]
    if len(set(ids)) < len(ids):
        raise UserError(f"{where}: lists a segment id twice; remove one")
    known = categories.class_ids
    class_ids = [known[_category_of(info, categories, where)] for info in infos]
    crowds = [flag(info, "iscrowd", where, False) for info in infos]
    return Segments(
        ids=np.array(ids, dtype=np.int32),
        class_ids=np.array(class_ids, dtype=np.int32),
        is_crowd=np.array(crowds, dtype=bool),
    )


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
    """The area that a file states, if an object in the image can have it."""
    if not is_number(area) or not 0 < area <= image.height * image.width:
        return None
    return float(area)
