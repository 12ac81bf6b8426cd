"""Read annotation files as records; everything is checked that can be checked without any pixels.

Formats: COCO panoptic (arXiv 1801.00868), folders of label maps, COCO and LVIS instance JSON. No
image and no label map is decoded.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from frozenseg.data.coco_json import (
    ImageId,
    ListedObject,
    check_names_agree,
    read_categories,
    read_images,
    read_instance_file,
)
from frozenseg.data.folders import files_by_stem, require_files
from frozenseg.data.image_files import image_suffixes
from frozenseg.data.json_fields import file_name, text
from frozenseg.data.label_maps import LABEL_SUFFIXES
from frozenseg.data.panoptic_json import check_images_listed, read_panoptic_entries
from frozenseg.data.records import Categories, Instances, Record
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.notes import note


def coco_name(image: Mapping[str, Any], where: str) -> str:
    """Return the path of an image below the image folder; in LVIS it is the end of `coco_url`."""
    if image.get("file_name") is not None or image.get("coco_url") is None:
        return file_name(image, "file_name", where)
    path = "/".join(urlsplit(text(image, "coco_url", where)).path.split("/")[-2:])
    return file_name({"coco_url": path}, "coco_url", where)


def cityscapes_name(image: Mapping[str, Any], where: str) -> str:
    """Return the path that follows from the id; no file has the `file_name` of the JSON."""
    return cityscapes_file(image["id"], "leftImg8bit")


def cityscapes_file(image_id: int | str, file_type: str) -> str:
    """Return e.g. `ulm/ulm_000000_000019_leftImg8bit.png` for the id `ulm_000000_000019`."""
    return f"{str(image_id).split('_')[0]}/{image_id}_{file_type}.png"


def read_panoptic(
    json_path: Path,
    png_dir: Path,
    image_dir: Path,
    *,
    semantic_dir: Path | None = None,
    ignore: int = 255,
    image_name: Callable[[Mapping[str, Any], str], str] = coco_name,
    image_suffix: str = "",
    needs_flags: bool = True,
) -> tuple[list[Record], Categories]:
    """Read the records of a COCO panoptic dataset, in the order of its annotations.

    semantic_dir: folder of label maps, one PNG per image; without it `load_semantic` derives the
        same maps from the panoptic PNGs.
    ignore: the value of unlabelled pixels in these label maps.
    image_name: a function that returns the path below `image_dir` for an entry of `images`.
    image_suffix: the suffix of the images where the entries of `images` cannot be relied on. Each
        image then has the stem of its PNG, and its size is unknown until it is read.
    needs_flags: whether each category must say if it is a thing.
    """
    content, source = read_json(json_path), str(json_path)
    categories = read_categories(content, source, panoptic=needs_flags)
    if semantic_dir is not None:
        _check_ignore(ignore, categories, semantic_dir)
    images = read_images(content, source)
    entries = read_panoptic_entries(content, categories, source)
    pngs = {key: entry.file_name for key, entry in entries.items()}
    if image_suffix:
        image_names = {key: Path(png).stem + image_suffix for key, png in pngs.items()}
    else:
        image_names = {
            key: image_name(image.entry, f"{source}: images[{position}]")
            for position, (key, image) in enumerate(images.items())
        }
    check_images_listed(entries, images, source)
    check_names_agree(pngs, image_names, source, "its list of images")
    without = len(images) - len(entries)
    if without:
        note(f"{source}: {without} of {len(images)} images have no annotation and are left out")
    records = [
        Record(
            image_id=key,
            image_path=os.path.join(image_dir, image_names[key]),
            height=None if image_suffix else images[key].height,
            width=None if image_suffix else images[key].width,
            num_classes=len(categories),
            panoptic_path=os.path.join(png_dir, pngs[key]),
            segments=entry.segments,
            semantic_path=str(semantic_dir / Path(pngs[key]).name) if semantic_dir else None,
            semantic_ignore=ignore,
        )
        for key, entry in entries.items()
    ]
    return _checked(records, json_path), categories


def read_semantic(
    image_dir: Path,
    label_dir: Path,
    categories: Categories,
    *,
    ignore: int = 255,
    background: int = -1,
) -> tuple[list[Record], Categories]:
    """Read the records of a folder of images and a folder of label maps with the same stems.

    A label map, as detectron2's preparation scripts write it, holds class ids (positions in
    `categories`) and `ignore` where it is unlabelled; it may also hold `background` where it is
    labelled as none of the classes. Images without a label map are left out, and a warning states
    their number.
    """
    _check_ignore(ignore, categories, label_dir)
    images = files_by_stem(image_dir, tuple(image_suffixes()), "images")
    labels = files_by_stem(label_dir, LABEL_SUFFIXES, "label maps")
    orphans = sorted(labels.keys() - images.keys())
    if orphans:
        raise UserError(
            f"{labels[orphans[0]]}: no image {orphans[0]}.* in {image_dir}; {len(orphans)} of "
            f"{len(labels)} label maps have no image: copy the images there"
        )
    if not labels:
        suffixes = ", ".join(LABEL_SUFFIXES)
        raise UserError(f"{label_dir}: holds no label maps ({suffixes}); copy them there")
    if len(labels) < len(images):
        note(
            f"{image_dir}: {len(images) - len(labels)} of {len(images)} images have no label map "
            f"in {label_dir} and are left out"
        )
    records = [
        Record(
            image_id=stem,
            image_path=str(images[stem]),
            height=None,
            width=None,
            num_classes=len(categories),
            semantic_path=str(labels[stem]),
            semantic_ignore=ignore,
            semantic_background=background,
        )
        for stem in sorted(labels)
    ]
    return records, categories


def _check_ignore(ignore: int, categories: Categories, label_dir: Path) -> None:
    """Refuse a value of unlabelled pixels that is a class id; the class would vanish unnoticed."""
    if 0 <= ignore < len(categories):
        raise UserError(
            f"{label_dir}: {ignore} cannot mark unlabelled pixels (ignore), because it is the id "
            f"of a class (0-{len(categories) - 1}); choose a value that no class has"
        )


def read_instances(json_path: Path, image_dir: Path) -> tuple[list[Record], Categories]:
    """Read the records of a COCO or LVIS instance JSON, in the order of its images.

    Images without objects are kept, because detections in them count as errors. LVIS gives the path
    of an image below `image_dir` only as the end of `coco_url` (`train2017/000000000001.jpg`).
    """
    return instance_records(read_json(json_path), json_path, image_dir)


def instance_records(content: Any, path: Path, image_dir: Path) -> tuple[list[Record], Categories]:
    """Make records as `read_instances` does, from content that is already read.

    path: the file or folder of the annotation, for messages.
    """
    source = str(path)
    file = read_instance_file(content, source)
    objects: dict[ImageId, list[ListedObject]] = {key: [] for key in file.images}
    for row in file.objects:
        objects[row.image_id].append(row)
    records = [
        Record(
            image_id=key,
            image_path=os.path.join(
                image_dir, coco_name(image.entry, f"{source}: images[{position}]")
            ),
            height=image.height,
            width=image.width,
            num_classes=len(file.categories),
            instances=_instances(objects[key], file.categories),
        )
        for position, (key, image) in enumerate(file.images.items())
    ]
    return _checked(records, path), file.categories


def _instances(rows: list[ListedObject], categories: Categories) -> Instances:
    class_ids = [categories.class_ids[row.category_id] for row in rows]
    return Instances(
        segmentations=[row.segmentation for row in rows],
        class_ids=np.array(class_ids, dtype=np.int32),
        is_crowd=np.array([row.is_crowd for row in rows], dtype=bool),
    )


def _checked(records: list[Record], source: Path) -> list[Record]:
    """Return the records; raise `UserError` unless every file that they name exists."""
    if not records:
        raise UserError(f"{source}: lists no annotations; is it the right file?")
    for field, what in (
        ("image_path", "images"),
        ("panoptic_path", "panoptic PNGs"),
        ("semantic_path", "label maps"),
    ):
        paths = [getattr(record, field) for record in records]
        require_files([path for path in paths if path], what, source)
    return records
