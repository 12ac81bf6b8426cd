"""One table of all benchmarks, by their published names, and how to load them.

Besides the names of the table, `coco_panoptic:JSON:PNG_DIR:IMAGE_DIR` names any dataset in COCO
panoptic format by its files, e.g. `coco_panoptic:my/val.json:my/val_png:my/images`.

Paths are those of detectron2's datasets, under $DETECTRON2_DATASETS (default: `datasets`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from frozenseg.data.checks import read_annotations, read_categories
from frozenseg.data.readers import (
    cityscapes_name,
    coco_name,
    read_instances,
    read_panoptic,
    read_semantic,
)
from frozenseg.data.records import Categories, Record
from frozenseg.data.small_world.export import small_world_files
from frozenseg.errors import UserError, nearest

FILES_PREFIX = "coco_panoptic:"
FILES_FORM = "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One dataset split. Paths are relative to the data root.

    tasks: what its annotation can train and test. reader: the format of its annotation.
    image_names: whose way of naming image files.
    vocabulary: the class list of its names (`data/vocabularies`), "" for the category names as they
    stand. images: folder. annotations: JSON file; for the reader "semantic", whose label maps name
    no classes, a JSON with `categories` alone. labels: folder of panoptic PNGs or label maps.
    semantic_labels: folder of label maps beside panoptic ones; where it is absent they are derived.
    instances: JSON file for AP, for Cityscapes the folder of its label pictures. ignore: value of
    unlabelled pixels in label maps. test_size: shorter side and limit of the longer one.
    evaluators: modules of `frozenseg.evaluation` that score it. published: {model: {metric: per
    cent}}, PAPERS 1.4.
    """

    tasks: tuple[str, ...]
    reader: Literal["panoptic", "semantic", "instances"]
    vocabulary: str
    images: str
    annotations: str
    labels: str = ""
    semantic_labels: str = ""
    instances: str = ""
    image_names: Literal["coco", "cityscapes"] = "coco"
    ignore: int = 255
    test_size: tuple[int, int] = (800, 1333)
    evaluators: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def _coco_panoptic(split: str, vocabulary: str, *, all_tasks: bool = True) -> Benchmark:
    tasks = ("panoptic", "semantic", "instances") if all_tasks else ("panoptic",)
    testing = split == "val2017"
    return Benchmark(
        tasks=tasks,
        reader="panoptic",
        vocabulary=vocabulary,
        images=f"coco/{split}",
        annotations=f"coco/annotations/panoptic_{split}.json",
        labels=f"coco/panoptic_{split}",
        semantic_labels=f"coco/panoptic_semseg_{split}" if all_tasks else "",
        instances=f"coco/annotations/instances_{split}.json" if all_tasks else "",
        evaluators=tasks if testing else (),
        published=COCO_VAL_PUBLISHED if testing and vocabulary else {},
    )


COCO_VAL_PUBLISHED = {
    "FrozenSeg ConvNeXt-L": {"PQ": 56.2, "AP": 47.3, "mIoU": 65.5},
    "FrozenSeg RN50x64": {"PQ": 55.7, "AP": 47.4, "mIoU": 65.4},
    "FC-CLIP ConvNeXt-L, last iteration": {"PQ": 56.4, "AP": 47.4, "mIoU": 65.3},
    "FC-CLIP RN50x64, last iteration": {"PQ": 55.3, "AP": 46.5, "mIoU": 64.8},
    "FC-CLIP ConvNeXt-L, as released": {"PQ": 54.4, "AP": 44.6, "mIoU": 63.7},
}

CITYSCAPES_VAL = Benchmark(
    tasks=("panoptic", "semantic", "instances"),
    reader="panoptic",
    image_names="cityscapes",
    vocabulary="cityscapes",
    images="cityscapes/leftImg8bit/val",
    annotations="cityscapes/gtFine/cityscapes_panoptic_val.json",
    labels="cityscapes/gtFine/cityscapes_panoptic_val",
    instances="cityscapes/gtFine/val",
    test_size=(1024, 2560),
    evaluators=("panoptic", "semantic", "cityscapes"),
)

LVIS_VAL = Benchmark(
    tasks=("instances",),
    reader="instances",
    vocabulary="",
    images="coco",
    annotations="lvis/lvis_v1_val.json",
    evaluators=("lvis",),
)


def _small_world(split: str, vocabulary: str) -> Benchmark:
    files = small_world_files(Path("small_world"), split)
    tasks = ("panoptic", "semantic", "instances")
    return Benchmark(
        tasks=tasks,
        reader="panoptic",
        vocabulary=vocabulary,
        images=str(files.images),
        annotations=str(files.annotations),
        labels=str(files.labels),
        semantic_labels=str(files.semantic_labels),
        instances=str(files.instances),
        test_size=(192, 384),
        evaluators=tasks,
    )


BENCHMARKS: dict[str, Benchmark] = {
    "openvocab_coco_2017_train_panoptic_with_sem_seg": _coco_panoptic("train2017", "coco_panoptic"),
    "openvocab_coco_2017_val_panoptic_with_sem_seg": _coco_panoptic("val2017", "coco_panoptic"),
    "coco_2017_train_panoptic": _coco_panoptic("train2017", "", all_tasks=False),
    "coco_2017_val_panoptic": _coco_panoptic("val2017", "", all_tasks=False),
    "coco_2017_val_panoptic_with_sem_seg": _coco_panoptic("val2017", ""),
    "openvocab_cityscapes_fine_panoptic_val": CITYSCAPES_VAL,
    "openvocab_lvis_v1_val": LVIS_VAL,
    "small_world_train": _small_world("train", "small_world_seen"),
    "small_world_val": _small_world("val", "small_world"),
}


def data_root() -> Path:
    """The folder of all datasets; the one place that reads the environment for it."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def find_benchmark(name: str) -> Benchmark:
    """The row of a published name, or one made from a `coco_panoptic:...` name."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if not name.startswith(FILES_PREFIX):
        raise UserError(
            f"{name}: no such dataset; {nearest(name, list(BENCHMARKS))} "
            f"(or a dataset by its files: {FILES_FORM})"
        )
    parts = name.removeprefix(FILES_PREFIX).split(":")
    if len(parts) != 3 or not all(parts):
        raise UserError(f"{name}: three paths were expected, as in {FILES_FORM}")
    annotations, labels, images = (os.path.abspath(part) for part in parts)  # not below the root
    return Benchmark(
        tasks=("panoptic", "semantic"),
        reader="panoptic",
        vocabulary="",
        images=images,
        annotations=annotations,
        labels=labels,
        evaluators=("panoptic", "semantic"),
    )


def load_records(name: str, root: Path | None = None) -> tuple[list[Record], Categories]:
    """The records and categories of a dataset, checked as far as JSON and file names tell.

    root: the data root, by default `data_root()`.
    """
    return read_benchmark(find_benchmark(name), data_root() if root is None else root)


def read_benchmark(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """The records and categories of one row of the table."""
    images, annotations = root / benchmark.images, root / benchmark.annotations
    labels, semantic_labels = root / benchmark.labels, root / benchmark.semantic_labels
    if benchmark.reader == "panoptic":
        with_maps = bool(benchmark.semantic_labels) and semantic_labels.is_dir()
        return read_panoptic(
            annotations,
            labels,
            images,
            semantic_dir=semantic_labels if with_maps else None,
            image_name=cityscapes_name if benchmark.image_names == "cityscapes" else coco_name,
        )
    if benchmark.reader == "instances":
        return read_instances(annotations, images)
    categories = read_categories(read_annotations(annotations, "categories"), annotations)
    return read_semantic(images, labels, categories, ignore=benchmark.ignore)
