"""Read and check the ground truth of detections, an instance JSON, in the form for hotcoco."""

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frozenseg.data.annotations import load_panoptic
from frozenseg.data.coco_json import ImageId, InstanceFile, ListedObject, read_instance_file
from frozenseg.data.json_fields import flag, wholes
from frozenseg.data.records import Categories, Instances, Record, Segments
from frozenseg.data.rle import encode_masks, encode_segmentation, rle_area
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.notes import note

# For every class, hotcoco holds the precision at 101 recalls and 10 IoU thresholds, for 4 object
# sizes and 3 limits on the number of detections.
MOST_CATEGORIES = 20_000

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Truth:
    """The ground truth of detections.

    dataset: images, categories and annotations with the fields that evaluators read; its image ids
        are numbers.
    numbers: {image id of the file: its number in `dataset`}. COCO's ids already are numbers; those
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

    images: the ids of the images that are evaluated; None: all of them.

    Annotations are renumbered from 1, because evaluators misread ids that are 0, missing or
    repeated; no score depends on the ids. Fields that only some files have are passed on if they
    are named in image_fields, category_fields or annotation_fields.

    As in pycocotools, the area that the file states decides whether an object is small, medium or
    large. If it states none, or one that is not above 0 or exceeds that of the image, the area of
    the mask or of the box is used.
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
    """Read the scored images of an instance file; refuse a file with too many categories."""
    file = read_instance_file(content, source, boxes=boxes)
    if len(file.categories) > MOST_CATEGORIES:
        raise UserError(
            f"{source}: has {len(file.categories)} categories, but scores of more than "
            f"{MOST_CATEGORIES} do not fit into memory; list only those that occur"
        )
    if images is None or file.images.keys() <= images:
        return file
    return _only_images(file, images, source)


def _only_images(file: InstanceFile, images: Set[ImageId], source: str) -> InstanceFile:
    """Leave out the images that are not evaluated: all of their objects would count as missed."""
    kept = {key: image for key, image in file.images.items() if key in images}
    note(
        f"{source}: {len(file.images) - len(kept)} of {len(file.images)} images left out, because "
        "they are not evaluated"
    )
    return replace(file, images=kept, objects=[o for o in file.objects if o.image_id in kept])


def load_lvis_truth(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    boxes: bool,
    images: Set[ImageId] | None = None,
) -> Truth:
    """Read an LVIS file as `load_truth` does, with the fields that only LVIS has."""
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
        # hotcoco would ignore detections that match a crowd; the package lvis does not.
        annotation["iscrowd"] = 0
    return truth


def objects_of_records(records: Sequence[Record], categories: Categories) -> dict[str, Any]:
    """Make the content of an instance JSON from the objects of records, or things in their PNGs.

    Image ids are those of the records. All panoptic PNGs are decoded for this.
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
            raise UserError(f"{source}: LVIS has no annotations with 'ignore'; remove them")


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
    """Warn of objects for which the file states an impossible area."""
    stated = [content["annotations"][row.position].get("area") for row in file.objects]
    wrong = sum(
        row.area is None and area is not None
        for row, area in zip(file.objects, stated, strict=True)
    )
    if wrong:
        note(
            f"{named}: {wrong} of {len(stated)} objects state an area that is impossible (not "
            "above 0, or above that of the image): that of the mask or box is used instead"
        )


def _only(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}
