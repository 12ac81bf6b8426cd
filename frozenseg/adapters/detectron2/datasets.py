"""Registers our benchmarks in detectron2's catalogs, and reads the classes of any data set there.

A class id is a position in `stuff_classes`, which names all classes, including things. In addition,
`thing_classes` numbers the things. All of detectron2's evaluators can thus be used: semantic scores
and stuff segments refer to class ids, instances and thing segments to numbers of things.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from frozenseg.build.vocabulary import (
    build_training_vocabulary,
    build_vocabulary,
    joins_by_order,
    listed_vocabulary,
)
from frozenseg.data.benchmarks import (
    BENCHMARKS,
    Benchmark,
    benchmark_categories,
    data_root,
    find_benchmark,
    is_data_set,
    name_categories,
    read_benchmark,
)
from frozenseg.data.records import Categories, Record
from frozenseg.data.rle import encode_segmentation, rle_box
from frozenseg.drawing.palette import class_colors
from frozenseg.errors import UserError
from frozenseg.text.names import spelling
from frozenseg.text.vocabulary import Vocabulary

# The tasks of a benchmark -> `evaluator_type` in detectron2's metadata. detectron2's own tools
# score "sem_seg", "coco_panoptic_seg", "coco" and "lvis"; those of Mask2Former also score the
# types of Cityscapes and Mapillary Vistas.
EVALUATOR_TYPES = {
    ("panoptic", "semantic", "instances"): "coco_panoptic_seg",
    ("panoptic", "semantic", "cityscapes"): "cityscapes_panoptic_seg",
    ("panoptic", "semantic"): "mapillary_vistas_panoptic_seg",
    ("panoptic",): "panoptic_seg",
    ("semantic",): "sem_seg",
    ("instances",): "coco",
    ("lvis",): "lvis",
}
# For panoptic ids of the form class * divisor + number; ours are listed with the segments instead.
LABEL_DIVISOR = 1000


@dataclass(frozen=True)
class HostClasses:
    """The classes of a data set in detectron2's catalog.

    categories: the classes, by class id. thing_ids: {class id: number among the things}.
    """

    categories: Categories
    thing_ids: dict[int, int]

    def class_id(self, number: int, is_thing: bool) -> int:
        """Return the class id of a class that detectron2 numbers `number`."""
        return self._class_ids[number] if is_thing else number

    @cached_property
    def _class_ids(self) -> dict[int, int]:
        return {number: class_id for class_id, number in self.thing_ids.items()}

    def host_id(self, class_id: int) -> int:
        """Return detectron2's number of a class."""
        return self.thing_ids.get(class_id, class_id)


class BenchmarkMetadata(Metadata):
    """Metadata of a row of our table; the annotation files are read when they are first needed."""

    CLASSES = (
        "thing_classes",
        "stuff_classes",
        "thing_colors",
        "stuff_colors",
        "thing_dataset_id_to_contiguous_id",
        "stuff_dataset_id_to_contiguous_id",
    )

    def __getattr__(self, key: str) -> Any:
        if key in self.CLASSES and "read_classes" in self.__dict__:
            self.__dict__.update(class_metadata(self.__dict__.pop("read_classes")()))
            return self.__dict__[key]
        return super().__getattr__(key)

    def as_dict(self) -> dict[str, Any]:
        """Return all metadata as a dict, including those that are read from annotation files."""
        self.get("stuff_classes")
        return super().as_dict()


def register_datasets(root: Path | None = None) -> None:
    """Register every row of our table under its published name, except folds and mosaics.

    Names that are already registered (COCO's, by detectron2 itself) are left unchanged.
    root: the data root; by default, `data_root()`.
    """
    for name, row in BENCHMARKS.items():
        if evaluator_type(row):
            register_dataset(name, root)


def register_dataset(name: str, root: Path | None = None) -> None:
    """Register a row of our table, or a data set that is named by its files or a YAML file."""
    if name in DatasetCatalog:
        return
    root = data_root() if root is None else root
    benchmark = find_benchmark(name)
    if not evaluator_type(benchmark):
        raise UserError(f"{name}: detectron2 has no evaluator for it; use frozenseg evaluate")
    DatasetCatalog.register(name, partial(load_dicts, name, benchmark, root))
    MetadataCatalog[name] = BenchmarkMetadata(name=name)
    MetadataCatalog[name].__dict__.update(
        **_paths(benchmark, root),
        evaluator_type=evaluator_type(benchmark),
        ignore_label=benchmark.ignore,
        label_divisor=LABEL_DIVISOR,
        read_classes=partial(benchmark_categories, benchmark, root),
    )


def evaluator_type(benchmark: Benchmark) -> str:
    """Return detectron2's `evaluator_type` of a benchmark.

    It is "" for folds, which score only some classes, and for mosaics, whose rules detectron2 does
    not have.
    """
    tasks = tuple(task for task in benchmark.evaluators or benchmark.tasks if task != "video")
    tasks = scored_tasks(benchmark, tasks)
    few_shot = bool(benchmark.classes) or benchmark.background >= 0
    return "" if few_shot else EVALUATOR_TYPES.get(tasks, "")


def scored_tasks(benchmark: Benchmark, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out "instances" if detectron2 cannot score it, i.e. if the objects would have to be
    derived from a panoptic annotation."""
    if benchmark.reader == "panoptic" and not benchmark.instances:
        return tuple(task for task in tasks if task != "instances")
    return tasks


def ensure_registered(names: tuple[str, ...]) -> None:
    """Register the data sets that are named by their files; raise `UserError` for unknown names."""
    for name in names:
        if name not in DatasetCatalog:
            register_dataset(name)


def _paths(benchmark: Benchmark, root: Path) -> dict[str, str]:
    """Return the paths of a benchmark's files, under detectron2's names for them."""
    benchmark = benchmark.located(root)
    paths = {"image_root": benchmark.images}
    if benchmark.reader == "panoptic":
        paths |= {"panoptic_json": benchmark.annotations, "panoptic_root": benchmark.labels}
        if benchmark.semantic_labels:
            paths["sem_seg_root"] = benchmark.semantic_labels
    elif benchmark.reader == "semantic":
        paths["sem_seg_root"] = benchmark.labels
    elif benchmark.annotations:
        paths["json_file"] = benchmark.annotations
    if benchmark.instances:
        key = "gt_dir" if "cityscapes" in benchmark.evaluators else "json_file"
        paths[key] = benchmark.instances
    return {key: str(root / path) for key, path in paths.items()}


def class_metadata(categories: Categories) -> dict[str, Any]:
    """Return the entries of `BenchmarkMetadata.CLASSES`."""
    is_thing = np.array(categories.is_thing, dtype=bool)
    colors = class_colors(np.arange(len(categories)), is_thing).tolist()
    things = np.flatnonzero(is_thing).tolist()
    ids = categories.dataset_ids
    return {
        "thing_classes": [categories.names[class_id] for class_id in things],
        "stuff_classes": list(categories.names),
        "thing_colors": [colors[class_id] for class_id in things],
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": {ids[c]: number for number, c in enumerate(things)},
        "stuff_dataset_id_to_contiguous_id": {ids[c]: c for c in range(len(ids))},
    }


def host_classes(name: str) -> HostClasses:
    """Return the classes of a data set in the catalog, ours or not, from its metadata.

    Without `stuff_classes`, the classes are `thing_classes`, all of them things. Otherwise the
    things are found by the maps of data set ids if the metadata have both, else by equal names.
    """
    metadata = MetadataCatalog.get(name)
    things, stuff = metadata.get("thing_classes") or [], metadata.get("stuff_classes") or []
    if not things and not stuff:
        raise UserError(f"{name}: its metadata name no classes (thing_classes, stuff_classes)")
    thing_map = metadata.get("thing_dataset_id_to_contiguous_id")
    if not stuff:
        ids = _by_number(thing_map, len(things))
        every = {number: number for number in range(len(things))}
        return HostClasses(Categories(tuple(things), (True,) * len(things), ids), every)
    stuff_map = metadata.get("stuff_dataset_id_to_contiguous_id")
    if thing_map and stuff_map and things == stuff:  # detectron2's COCO has one numbering
        stuff_map = thing_map | stuff_map
    ids = _by_number(stuff_map, len(stuff))
    if thing_map is None or stuff_map is None:
        numbers = {spelling(label): number for number, label in enumerate(things)}
        names = [spelling(label) for label in stuff]
        thing_ids = {c: numbers[label] for c, label in enumerate(names) if label in numbers}
    else:
        if not set(thing_map) <= set(stuff_map):
            raise UserError(
                f"{name}: its stuff_classes leave out the things (as for Panoptic FPN); give a "
                "name whose stuff_classes are all classes"
            )
        thing_ids = {c: thing_map[ids[c]] for c in range(len(stuff)) if ids[c] in thing_map}
    is_thing = tuple(class_id in thing_ids for class_id in range(len(stuff)))
    return HostClasses(Categories(tuple(stuff), is_thing, ids), thing_ids)


def _by_number(ids: dict[int, int] | None, count: int) -> tuple[int, ...]:
    """Return the data set ids in the order of their contiguous numbers."""
    if ids is None:
        return tuple(range(count))
    return tuple(sorted(ids, key=lambda dataset_id: ids[dataset_id]))


def load_dicts(name: str, benchmark: Benchmark, root: Path) -> list[dict[str, Any]]:
    """Return the records of a row in detectron2's format."""
    records, categories = read_benchmark(benchmark, root)
    things = np.flatnonzero(categories.is_thing).tolist()
    classes = HostClasses(categories, {class_id: number for number, class_id in enumerate(things)})
    return [_dict_of(record, classes, name) for record in records]


def _dict_of(record: Record, classes: HostClasses, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file_name": record.image_path,
        "image_id": record.image_id,
        "dataset_name": name,
    }
    if record.height is not None:
        entry |= {"height": record.height, "width": record.width}
    if record.semantic_path is not None:
        entry["sem_seg_file_name"] = record.semantic_path
    if record.segments is not None:
        rows = zip(
            record.segments.ids.tolist(),
            record.segments.class_ids.tolist(),
            record.segments.is_crowd.tolist(),
            strict=True,
        )
        entry["pan_seg_file_name"] = record.panoptic_path
        entry["segments_info"] = [
            {
                "id": number,
                "category_id": classes.host_id(class_id),
                "isthing": class_id in classes.thing_ids,
                "iscrowd": int(crowd),
            }
            for number, class_id, crowd in rows
        ]
    if record.instances is not None:
        entry["annotations"] = _annotations(record, classes)
    return entry


def _annotations(record: Record, classes: HostClasses) -> list[dict[str, Any]]:
    instances = record.instances
    assert instances is not None and record.height and record.width
    codes = [
        encode_segmentation(entry, record.height, record.width) for entry in instances.segmentations
    ]
    return [
        {
            "category_id": classes.host_id(int(class_id)),
            "segmentation": shape,
            "bbox": rle_box(code),
            "bbox_mode": BoxMode.XYWH_ABS,
            "iscrowd": int(crowd),
        }
        for shape, code, class_id, crowd in zip(
            instances.segmentations, codes, instances.class_ids, instances.is_crowd, strict=True
        )
    ]


def table_row(name: str) -> Benchmark | None:
    """Return the row of our table, or of a user's files, that has this name; None for data sets
    that others have registered."""
    return find_benchmark(name) if is_data_set(name) else None


def vocabulary_of(config: CfgNode, name: str, categories: Categories) -> Vocabulary:
    """Return the names of a data set's classes, by class id.

    For data sets that others have registered, they come from the list that the configuration names,
    else from the metadata, in which commas separate synonyms.
    """
    if table_row(name) is not None:
        return build_vocabulary(config, name, categories)
    metadata = f"the metadata of {name}"
    listed = listed_vocabulary(config, name)
    if listed is None:
        return Vocabulary.of_categories(
            categories.names,
            categories.is_thing,
            categories.dataset_ids,
            metadata,
            synonyms=True,
        )
    return name_categories(categories, metadata, listed=listed, by_order=joins_by_order(config))


def training_vocabulary_of(config: CfgNode) -> Vocabulary:
    """Return the seen classes, even if others have registered the data set of DATASETS.TRAIN."""
    names = config.DATASETS.TRAIN
    if config.DATASETS.TRAIN_VOCABULARY or not names or table_row(names[0]) is not None:
        return build_training_vocabulary(config)
    return vocabulary_of(config, names[0], host_classes(names[0]).categories)
