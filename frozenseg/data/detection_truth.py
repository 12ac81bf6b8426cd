"""Read the ground truth of detections: an instance JSON, checked, as hotcoco scores against it."""

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frozenseg.data.annotations import load_panoptic
from frozenseg.data.coco_json import ImageId, InstanceFile, ListedObject, read_instance_file
from frozenseg.data.json_fields import flag, wholes
from frozenseg.data.notes import note
from frozenseg.data.records import Categories, Instances, Record, Segments
from frozenseg.data.rle import encode_masks, encode_segmentation, rle_area
from frozenseg.errors import UserError
from frozenseg.files import read_json

# hotcoco holds the precision of every class at 101 x 10 points of 4 sizes and 3 limits.
MOST_CATEGORIES = 20_000

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Truth:
    """The ground truth of detections.

    dataset: images, categories and annotations with the fields that evaluators read; its image ids
        are numbers.
    numbers: {image id of the file: its number in `dataset`}. COCO's ids are numbers already, those
        of Mask2Former's ADE20K are names.
    sizes: {image id: (height, width)}.
    categories: the categories of the file.
    """

    dataset: dict[str, list[dict[str, Any]]]
    numbers: dict[ImageId, int]
    sizes: dict[ImageId, tuple[int, int]]
    categories: Categories


def load_truth(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    boxes: bool,
    images: Set[ImageId] | None = None,
    image_fields: Sequence[str] = (),
    category_fields: Sequence[str] = (),
    annotation_fields: Sequence[str] = (),
) -> Truth:
    """Read the ground truth of masks, or of boxes, from an instance file or its content.

    images: the ids of those that count, where not all do.

    Annotations are numbered anew from 1: evaluators misread an id that is 0, missing or repeated,
    and no score depends on it. Fields that only some files have are passed on where they are named
    in image_fields, category_fields and annotation_fields.

    The area that a file states decides, as in pycocotools, whether an object is small, medium or
    large, if it is above 0 and at most that of the image. Otherwise, and where there is none, that
    of the mask or of the box does.
    """
    if isinstance(source, Mapping):
        content, named = source, "ground truth"
    else:
        content, named = read_json(source), os.fspath(source)
    file = _scored_file(content, named, boxes, images)
    numbers = {
        key: number if isinstance(key, str) else key
        for number, key in enumerate(file.images, start=1)
    }
    _note_wrong_areas(file, content, named)
    dataset = {
        "images": [
            {
                "id": numbers[image.image_id],
                "height": image.height,
                "width": image.width,
                **_only(image.entry, image_fields),
            }
            for image in file.images.values()
        ],
        "categories": [
            {"id": int(entry["id"]), "name": entry["name"], **_only(entry, category_fields)}
            for entry in file.category_entries
        ],
        "annotations": [
            {
                **_annotation(row, number, numbers[row.image_id], file, boxes),
                **_only(content["annotations"][row.position], annotation_fields),
            }
            for number, row in enumerate(file.objects, start=1)
        ],
    }
    sizes = {key: (image.height, image.width) for key, image in file.images.items()}
    return Truth(dataset, numbers, sizes, file.categories)


def _scored_file(
    content: Mapping[str, Any], source: str, boxes: bool, images: Set[ImageId] | None
) -> InstanceFile:
    """Read what is scored of an instance file, and refuse one of too many categories."""
    file = read_instance_file(content, source, boxes=boxes)
    if len(file.categories) > MOST_CATEGORIES:
        raise UserError(
            f"{source}: {len(file.categories)} categories are more than {MOST_CATEGORIES}, for "
            "which the scores do not fit into memory; list those that occur"
        )
    if images is None or file.images.keys() <= images:
        return file
    return _of_images(file, images, source)


def _of_images(file: InstanceFile, images: Set[ImageId], source: str) -> InstanceFile:
    """Leave out the images that are not evaluated: what is in them cannot be found."""
    kept = {key: image for key, image in file.images.items() if key in images}
    note(
        f"{source}: {len(file.images) - len(kept)} of {len(file.images)} images left out, which "
        "are not among those that are evaluated"
    )
    return replace(file, images=kept, objects=[o for o in file.objects if o.image_id in kept])


def load_lvis_truth(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    boxes: bool,
    images: Set[ImageId] | None = None,
) -> Truth:
    """Read the truth of `load_truth` from an LVIS file, with the fields that only LVIS has."""
    truth = load_truth(
        source,
        boxes=boxes,
        images=images,
        image_fields=LVIS_LISTS,
        category_fields=("frequency",),
        annotation_fields=("ignore",),
    )
    _check_lvis(truth.dataset, "ground truth" if isinstance(source, Mapping) else os.fspath(source))
    for annotation in truth.dataset["annotations"]:
        annotation["iscrowd"] = 0  # hotcoco would excuse matches with crowds, lvis does not
    return truth


def objects_of_records(records: Sequence[Record], categories: Categories) -> dict[str, Any]:
    """Make the content of an instance JSON of records: their objects, or the things of their PNGs.

    Images are numbered as in the records. Panoptic PNGs are decoded for this, all of them.
    """
    annotations: list[dict[str, Any]] = []
    images = []
    for record in records:
        segmentations, class_ids, crowds, (height, width) = _objects(record, categories)
        size = {"height": height, "width": width}
        file_name = os.path.basename(record.image_path)
        images.append({"id": record.image_id, "file_name": file_name, **size})
        annotations += [
            {
                "image_id": record.image_id,
                "category_id": categories.dataset_ids[class_id],
                "segmentation": segmentation,
                "iscrowd": int(crowd),
            }
            for segmentation, class_id, crowd in zip(segmentations, class_ids, crowds, strict=True)
        ]
    listed = zip(categories.dataset_ids, categories.names, categories.is_thing, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name, thing in listed if thing],
    }


def _objects(
    record: Record, categories: Categories
) -> tuple[list[Any], list[int], list[bool], tuple[int, int]]:
    """Return the segmentations, class ids and crowd flags of a record's things, and its size."""
    things = np.array(categories.is_thing, dtype=bool)
    found: Instances | Segments
    if record.instances is not None:
        found, kept = record.instances, np.flatnonzero(things[record.instances.class_ids])
        codes = [record.instances.segmentations[i] for i in kept]
        assert record.height is not None and record.width is not None, "an instance JSON has sizes"
        size = record.height, record.width
    else:
        ids, found = load_panoptic(record)
        kept, size = np.flatnonzero(things[found.class_ids]), (ids.shape[0], ids.shape[1])
        codes = encode_masks(ids == found.ids[kept, None, None])
    return codes, found.class_ids[kept].tolist(), found.is_crowd[kept].tolist(), size


def _check_lvis(dataset: Mapping[str, Any], source: str) -> None:
    """Check the fields that only LVIS has, and turn its lists into whole numbers."""
    for image in dataset["images"]:
        for key in LVIS_LISTS:
            listed = image.get(key)
            if not isinstance(listed, list):
                raise UserError(
                    f"{source}: image {image['id']} has no list {key!r}; is it an LVIS file?"
                )
            where = f"{source}: image {image['id']}"
            image[key] = wholes([(where, [{key: number} for number in listed])], key)
    for category in dataset["categories"]:
        if category.get("frequency") not in ("r", "c", "f"):
            raise UserError(
                f"{source}: category {category['id']} has no 'frequency' of r, c, f; "
                "is it an LVIS file?"
            )
    for i, annotation in enumerate(dataset["annotations"]):
        if flag(annotation, "ignore", f"{source}: object {i}", False):
            raise UserError(f"{source}: annotations with 'ignore' are no part of LVIS; remove them")


def _annotation(
    row: ListedObject, number: int, image: int, file: InstanceFile, boxes: bool
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": row.category_id,
        "iscrowd": int(row.is_crowd),
    }
    area = row.area
    if boxes:
        assert row.box is not None, "boxes were asked for"
        entry["bbox"] = row.box
        area = row.box[2] * row.box[3] if area is None else area
    else:
        entry["segmentation"] = row.segmentation
    if area is None:
        size = file.images[row.image_id]
        area = float(rle_area(encode_segmentation(row.segmentation, size.height, size.width)))
    return {**entry, "area": area}


def _note_wrong_areas(file: InstanceFile, content: Mapping[str, Any], named: str) -> None:
    """Warn of objects whose stated area is impossible."""
    stated = [content["annotations"][row.position].get("area") for row in file.objects]
    wrong = sum(
        row.area is None and area is not None
        for row, area in zip(file.objects, stated, strict=True)
    )
    if wrong:
        note(
            f"{named}: {wrong} of {len(stated)} objects state an area that they cannot have (not "
            "above 0, or above that of the image): their pixels are counted instead"
        )


def _only(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}
