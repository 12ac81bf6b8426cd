"""Annotation files -> records. Nothing is decoded here; all that needs no pixels is checked here.

Formats: COCO panoptic (arXiv 1801.00868), folders of label maps, COCO and LVIS instance JSON.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from frozenseg.data.checks import (
    class_id_of,
    file_names,
    images_by_id,
    naming,
    read_annotations,
    read_categories,
    require_files,
)
from frozenseg.data.records import Categories, Instances, Record, Segments
from frozenseg.data.shapes import checked_shape
from frozenseg.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
LARGEST_PANOPTIC_ID = 256**3 - 1

logger = logging.getLogger(__name__)


def coco_name(image: Mapping[str, Any]) -> str:
    """Where an image lies below its folder. LVIS names it by the end of `coco_url` alone."""
    if "file_name" in image:
        return str(image["file_name"])
    return "/".join(urlsplit(image["coco_url"]).path.split("/")[-2:])


def cityscapes_name(image: Mapping[str, Any]) -> str:
    """The `file_name` that Cityscapes' own script writes exists nowhere; the id is reliable."""
    return cityscapes_file(image["id"], "leftImg8bit")


def cityscapes_file(image_id: int | str, kind: str) -> str:
    """`ulm/ulm_000000_000019_leftImg8bit.png` of the id `ulm_000000_000019` and the kind."""
    return f"{str(image_id).split('_')[0]}/{image_id}_{kind}.png"


def read_panoptic(
    json_path: Path,
    png_dir: Path,
    image_dir: Path,
    *,
    semantic_dir: Path | None = None,
    ignore: int = 255,
    image_name: Callable[[Mapping[str, Any]], str] = coco_name,
    image_suffix: str = "",
) -> tuple[list[Record], Categories]:
    """The records of a COCO panoptic dataset, in the order of its annotations.

    semantic_dir: label maps of class ids (`ignore` where unlabelled), one PNG per image; without it
    `load_semantic` derives the same maps from the panoptic ones. image_name: the path below
    `image_dir` of an entry of `images`. image_suffix: set where nothing in those entries can be
    relied on: the image then has the stem of its PNG, and its size is not known before it is read.
    """
    content = read_annotations(json_path, "images", "annotations", "categories")
    categories = read_categories(content, json_path)
    images = images_by_id(content, json_path)
    records: dict[int | str, Record] = {}
    for position, annotation in enumerate(content["annotations"]):
        name = f"annotations[{position}]"
        with naming(json_path, name):
            image_id, png_name = annotation["image_id"], annotation["file_name"]
            image = _image_of(image_id, images, json_path, name)
            segments = _segments(annotation["segments_info"], categories, json_path, name)
            semantic = None if semantic_dir is None else semantic_dir / Path(png_name).name
            file_name = Path(png_name).stem + image_suffix if image_suffix else image_name(image)
            record = Record(
                image_id=image_id,
                image_path=os.path.join(image_dir, file_name),
                height=None if image_suffix else image["height"],
                width=None if image_suffix else image["width"],
                num_classes=len(categories),
                panoptic_path=os.path.join(png_dir, png_name),
                segments=segments,
                semantic_path=None if semantic is None else str(semantic),
                semantic_ignore=ignore,
            )
        if image_id in records:
            raise UserError(f"{json_path}: {name} is the second of image {image_id!r}; remove it")
        records[image_id] = record
    if len(records) < len(images):
        logger.warning(
            "%s: %d of %d images have no annotation and are left out",
            json_path,
            len(images) - len(records),
            len(images),
        )
    warn_of_crowded_stuff(_crowded_stuff(list(records.values()), categories), json_path)
    return _checked(list(records.values()), json_path), categories


def _crowded_stuff(records: list[Record], categories: Categories) -> int:
    """How many segments of stuff are marked as crowds."""
    is_thing = np.array(categories.is_thing, dtype=bool)
    segments = [record.segments for record in records if record.segments is not None]
    return sum(int((found.is_crowd & ~is_thing[found.class_ids]).sum()) for found in segments)


def warn_of_crowded_stuff(marked: int, source: str | Path) -> None:
    """Stuff has no single objects, yet BDD100K's toolkit marks some of it as crowds. The mark keeps
    its meaning, as in panopticapi: such a segment is not trained on and never missed."""
    if marked:
        logger.warning(
            "%s: %d segments of stuff are marked as crowds; they are not trained on and never "
            "missed (set their iscrowd to 0 if that is not meant)",
            source,
            marked,
        )


def read_semantic(
    image_dir: Path,
    label_dir: Path,
    categories: Categories,
    *,
    ignore: int = 255,
    background: int = -1,
) -> tuple[list[Record], Categories]:
    """The records of a folder of images and a folder of label maps with the same stems.

    A label map holds class ids (positions in `categories`), `ignore` where it is unlabelled, as
    detectron2's preparation scripts write them, and `background` where it is labelled as none of
    the classes. Images without a label map are left out.
    """
    images = _by_stem(image_dir, IMAGE_SUFFIXES, "images")
    labels = _by_stem(label_dir, LABEL_SUFFIXES, "label maps")
    orphans = sorted(labels.keys() - images.keys())
    if orphans:
        raise UserError(
            f"{labels[orphans[0]]}: no image {orphans[0]}.* in {image_dir}; {len(orphans)} of "
            f"{len(labels)} label maps have no image: copy the images there"
        )
    if not labels:
        raise UserError(f"{label_dir}: holds no label maps ({', '.join(LABEL_SUFFIXES)})")
    records = [
        Record(
            image_id=stem,
            image_path=images[stem],
            height=None,
            width=None,
            num_classes=len(categories),
            semantic_path=labels[stem],
            semantic_ignore=ignore,
            semantic_background=background,
        )
        for stem in sorted(labels)
    ]
    return records, categories


def read_instances(json_path: Path, image_dir: Path) -> tuple[list[Record], Categories]:
    """The records of a COCO or LVIS instance JSON, in the order of its images.

    Images without objects are kept: detections on them count as errors. LVIS names its files only
    by the end of `coco_url` (`train2017/000000000001.jpg`): there `image_dir` is the folder above.
    """
    content = read_annotations(json_path, "images", "annotations", "categories")
    categories = read_categories(content, json_path)
    images = images_by_id(content, json_path)
    found: dict[int | str, list[tuple[Any, int, bool]]] = {image_id: [] for image_id in images}
    for position, annotation in enumerate(content["annotations"]):
        name = f"annotations[{position}]"
        with naming(json_path, name):
            image = _image_of(annotation["image_id"], images, json_path, name)
            category = class_id_of(annotation["category_id"], categories, json_path, name)
            shape = checked_shape(annotation["segmentation"], image["height"], image["width"])
            crowd = bool(annotation.get("iscrowd", 0))
            if shape:
                found[image["id"]].append((shape, category, crowd))
    records = []
    for position, (image_id, image) in enumerate(images.items()):
        with naming(json_path, f"images[{position}]"):
            records.append(
                Record(
                    image_id=image_id,
                    image_path=os.path.join(image_dir, coco_name(image)),
                    height=image["height"],
                    width=image["width"],
                    num_classes=len(categories),
                    instances=_instances(found[image_id]),
                )
            )
    return _checked(records, json_path), categories


def _image_of(
    image_id: int | str, images: dict[int | str, dict[str, Any]], path: Path, entry: str
) -> dict[str, Any]:
    image = images.get(image_id)
    if image is None:
        raise UserError(
            f"{path}: {entry} is of image {image_id!r}, which is not among the file's images; "
            "remove it or list the image"
        )
    return image


def _segments(
    infos: list[dict[str, Any]], categories: Categories, path: Path, entry: str
) -> Segments:
    ids = [info["id"] for info in infos]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: {entry} lists a segment id twice; remove one")
    if ids and not (min(ids) >= 1 and max(ids) <= LARGEST_PANOPTIC_ID):
        raise UserError(
            f"{path}: {entry} has a segment id outside 1-{LARGEST_PANOPTIC_ID}, which no PNG holds"
        )
    class_ids = [class_id_of(info["category_id"], categories, path, entry) for info in infos]
    return Segments(
        ids=np.array(ids, dtype=np.int32),
        class_ids=np.array(class_ids, dtype=np.int32),
        is_crowd=np.array([info.get("iscrowd", 0) for info in infos], dtype=bool),
    )


def _instances(rows: list[tuple[Any, int, bool]]) -> Instances:
    return Instances(
        shapes=[shape for shape, _, _ in rows],
        class_ids=np.array([class_id for _, class_id, _ in rows], dtype=np.int32),
        is_crowd=np.array([crowd for _, _, crowd in rows], dtype=bool),
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, str]:
    names = file_names(folder, what)
    visible = (name for name in sorted(names) if not name.startswith("."))  # not a killed run's
    wanted = [name for name in visible if name.lower().endswith(suffixes)]
    return {os.path.splitext(name)[0]: os.path.join(folder, name) for name in wanted}


def _checked(records: list[Record], source: Path) -> list[Record]:
    """The records, when every file they name is there."""
    if not records:
        raise UserError(f"{source}: lists no annotations; is it the right file?")
    require_files([record.image_path for record in records], "images", source)
    maps = [record.panoptic_path for record in records if record.panoptic_path]
    require_files(maps, "panoptic PNGs", source)
    labels = [record.semantic_path for record in records if record.semantic_path]
    require_files(labels, "label maps", source)
    return records
