"""One table of all benchmarks, by their published names, and how to load them.

Besides the names of the table, three forms name any dataset by its files:

    coco_panoptic:JSON:PNG_DIR:IMAGE_DIR          COCO panoptic format
    coco_instances:JSON:IMAGE_DIR                 COCO instance format
    label_maps:IMAGE_DIR:LABEL_DIR:CLASSES.txt    pictures of class ids; their names

Paths are those of detectron2's datasets, under $DETECTRON2_DATASETS (default: `datasets`).
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from frozenseg.data.benchmark import Benchmark
from frozenseg.data.benchmark_rows import (
    ADE20K_FULL_VAL,
    ADE20K_INSTANCE_VAL,
    ADE20K_SEMANTIC_VAL,
    BDD_PANOPTIC_VAL,
    BDD_SEMANTIC_VAL,
    CITYSCAPES_VAL,
    COCO_VAL_PUBLISHED,
    LVIS_VAL,
    MAPILLARY_VAL,
    PASCAL_20_VAL,
    PASCAL_21_VAL,
    PASCAL_CONTEXT_59_VAL,
    PASCAL_CONTEXT_459_VAL,
    PASCAL_CONTEXT_TRAIN_COUNTS,
    ade20k,
    coco_panoptic,
    coco_stuff,
    small_world,
)
from frozenseg.data.coco_json import read_categories
from frozenseg.data.few_shot_rows import FEW_SHOT_BENCHMARKS
from frozenseg.data.notes import note
from frozenseg.data.readers import (
    cityscapes_name,
    coco_name,
    read_instances,
    read_panoptic,
    read_semantic,
)
from frozenseg.data.records import Categories, Record
from frozenseg.data.scored_pairs import PAIRS
from frozenseg.data.selection import listed_present, objects_present, select_classes
from frozenseg.errors import UserError, nearest
from frozenseg.files import read_json, user_path
from frozenseg.text.joining import join, join_by_order
from frozenseg.text.vocabulary import Vocabulary

FILES_FORMS = {
    "coco_panoptic": "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR",
    "coco_instances": "coco_instances:JSON:IMAGE_DIR",
    "label_maps": "label_maps:IMAGE_DIR:LABEL_DIR:CLASSES.txt",
}
FILES_FORM = ", ".join(FILES_FORMS.values())


BENCHMARKS: dict[str, Benchmark] = {
    "openvocab_coco_2017_train_panoptic_with_sem_seg": coco_panoptic("train2017"),
    "openvocab_coco_2017_val_panoptic_with_sem_seg": coco_panoptic(
        "val2017", published=COCO_VAL_PUBLISHED
    ),
    "coco_2017_train_panoptic": coco_panoptic("train2017", all_tasks=False),
    "coco_2017_val_panoptic": coco_panoptic("val2017", all_tasks=False),
    "coco_2017_val_panoptic_with_sem_seg": coco_panoptic("val2017"),
    "openvocab_coco_2017_train_stuff_sem_seg": coco_stuff("train2017"),
    "openvocab_coco_2017_test_stuff_sem_seg": coco_stuff("val2017"),  # "test" as published
    "openvocab_ade20k_panoptic_train": ade20k("train"),
    "openvocab_ade20k_panoptic_val": ade20k("val"),
    "openvocab_ade20k_sem_seg_val": ADE20K_SEMANTIC_VAL,
    "openvocab_ade20k_instance_val": ADE20K_INSTANCE_VAL,
    "openvocab_ade20k_full_sem_seg_val": ADE20K_FULL_VAL,
    "openvocab_pascal20_sem_seg_val": PASCAL_20_VAL,
    "openvocab_pascal21_sem_seg_val": PASCAL_21_VAL,
    "openvocab_pascal_ctx59_sem_seg_val": PASCAL_CONTEXT_59_VAL,
    "openvocab_pascal_ctx459_sem_seg_val": PASCAL_CONTEXT_459_VAL,
    "openvocab_cityscapes_fine_panoptic_val": CITYSCAPES_VAL,
    "openvocab_mapillary_vistas_panoptic_val": MAPILLARY_VAL,
    "bdd10k_40_panoptic_val": BDD_PANOPTIC_VAL,
    "bdd10k_val_sem_seg": BDD_SEMANTIC_VAL,
    "openvocab_lvis_v1_val": LVIS_VAL,
    "openvocab_ade20k_full_sem_seg_train": ADE20K_FULL_VAL.training_split(
        counts={25_574: ""}, name="training", of="validation"
    ),
    "openvocab_pascal20_sem_seg_train": PASCAL_20_VAL.training_split(
        counts={1464: ""}, name="training", of="validation"
    ),
    "openvocab_pascal21_sem_seg_train": PASCAL_21_VAL.training_split(
        counts={1464: ""}, name="training", of="validation"
    ),
    "openvocab_pascal_ctx59_sem_seg_train": PASCAL_CONTEXT_59_VAL.training_split(
        counts=PASCAL_CONTEXT_TRAIN_COUNTS, name="training", of="validation"
    ),
    "openvocab_pascal_ctx459_sem_seg_train": PASCAL_CONTEXT_459_VAL.training_split(
        counts=PASCAL_CONTEXT_TRAIN_COUNTS, name="training", of="validation"
    ),
    "openvocab_cityscapes_fine_panoptic_train": CITYSCAPES_VAL.training_split(
        counts={2975: ""}, name="train", of="val"
    ),
    "openvocab_mapillary_vistas_panoptic_train": MAPILLARY_VAL.training_split(
        counts={18_000: ""}, name="training", of="validation"
    ),
    "bdd10k_40_panoptic_train": BDD_PANOPTIC_VAL.training_split(
        counts={7000: ""}, name="train", of="val"
    ),
    "bdd10k_train_sem_seg": BDD_SEMANTIC_VAL.training_split(
        counts={7000: ""}, name="train", of="val"
    ),
    "small_world_train": small_world("train", "small_world_seen"),
    "small_world_val": small_world("val", "small_world"),
    **FEW_SHOT_BENCHMARKS,
}


def data_root() -> Path:
    """The folder of all datasets; the one place that reads the environment for it."""
    return user_path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def find_benchmark(name: str) -> Benchmark:
    """The row of a published name, or one made from a name of files."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    kind, _, paths = name.partition(":")
    if kind not in FILES_FORMS:
        raise UserError(
            f"{name}: no such dataset; {nearest(name, list(BENCHMARKS))} "
            f"(or a dataset by its files: {FILES_FORM})"
        )
    parts = paths.split(":")
    if len(parts) != FILES_FORMS[kind].count(":") or not all(parts):
        raise UserError(f"{name}: other paths were expected, as in {FILES_FORMS[kind]}")
    absolute = [os.path.abspath(user_path(part)) for part in parts]  # not below the root
    return _row_of_files(kind, absolute)


def _row_of_files(kind: str, paths: list[str]) -> Benchmark:
    if kind == "coco_panoptic":
        tasks: tuple[str, ...] = ("panoptic", "semantic")
        return Benchmark(
            tasks=tasks,
            reader="panoptic",
            vocabulary="",
            annotations=paths[0],
            labels=paths[1],
            images=paths[2],
            evaluators=tasks,
        )
    if kind == "coco_instances":
        return Benchmark(
            tasks=("instances",),
            reader="instances",
            vocabulary="",
            annotations=paths[0],
            images=paths[1],
            evaluators=("instances",),
        )
    if not paths[2].endswith(".txt"):
        raise UserError(f"{paths[2]}: the list of class names must be a text file (.txt)")
    few = len(Vocabulary.from_file(paths[2], may_repeat=True)) <= 255
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        ignore=255 if few else 65535,  # no class of the list
        vocabulary=paths[2],
        images=paths[0],
        labels=paths[1],
        evaluators=("semantic",),
    )


def is_data_set(name: str) -> bool:
    """Whether a value names a data set: one of the table, or one by its files."""
    return name in BENCHMARKS or name.partition(":")[0] in FILES_FORMS


def load_records(name: str, root: Path | None = None) -> tuple[list[Record], Categories]:
    """The records and categories of a dataset, checked as far as JSON and file names tell.

    root: the data root, by default `data_root()`.
    """
    benchmark, root = find_benchmark(name), data_root() if root is None else root
    row = benchmark.located(root)
    own_list = row.vocabulary if row.vocabulary.endswith(".txt") else ""
    require_in_place(name, (row.annotations, row.images, row.labels, own_list, row.present), root)
    return read_benchmark(benchmark, root)


def require_in_place(name: str, paths: Iterable[str], root: Path) -> None:
    """Check that files and folders of a dataset are there, or say what to do without them.

    paths: below `root`; "" for none.
    """
    absent = [root / path for path in paths if path and not (root / path).exists()]
    if not absent:
        return
    if name not in BENCHMARKS:
        raise UserError(f"{absent[0]}: no such file or folder; correct it in {name}")
    raise UserError(
        f"{absent[0]}: no such file or folder; {name} is looked for below {root} (set "
        "$DETECTRON2_DATASETS to look elsewhere): "
        f"frozenseg check_dataset {name} says what is missing, datasets/README.md where it "
        "comes from"
    )


def read_benchmark(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """The records and categories of one row of the table."""
    return select_benchmark_classes(benchmark, root, *read_whole(benchmark, root))


def select_benchmark_classes(
    benchmark: Benchmark, root: Path, records: list[Record], categories: Categories
) -> tuple[list[Record], Categories]:
    """Of what `read_whole` finds, the classes of the row and the images that hold one of them."""
    if not benchmark.classes:
        return records, categories
    if benchmark.present:
        present = listed_present(root / benchmark.present, records, benchmark.prepared_by)
    else:
        present = objects_present
    if max(benchmark.classes) >= len(categories):
        raise UserError(
            f"{root / (benchmark.annotations or benchmark.labels)}: has {len(categories)} classes, "
            f"number {max(benchmark.classes)} is asked for; is it another data set?"
        )
    kept, chosen = select_classes(records, categories, benchmark.classes, present)
    kept = PAIRS[benchmark.pairs](kept)
    if not kept:
        raise UserError(f"{root / benchmark.images}: no image has one of {', '.join(chosen.names)}")
    return kept, chosen


def read_whole(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """All records and categories of the files of a row, whatever its `classes`."""
    benchmark = benchmark.located(root)
    images, annotations = root / benchmark.images, root / benchmark.annotations
    labels, semantic_labels = root / benchmark.labels, root / benchmark.semantic_labels
    if benchmark.reader == "panoptic":
        with_maps = bool(benchmark.semantic_labels) and semantic_labels.is_dir()
        return read_panoptic(
            annotations,
            labels,
            images,
            semantic_dir=semantic_labels if with_maps else None,
            ignore=benchmark.ignore,
            image_name=cityscapes_name if benchmark.image_names == "cityscapes" else coco_name,
            # Mapillary's JSON has height and width exchanged (mapillary_vistas issue 16)
            image_suffix=".jpg" if benchmark.image_names == "mapillary" else "",
        )
    if benchmark.reader == "instances":
        return read_instances(annotations, images)
    return read_semantic(
        images,
        labels,
        _whole_categories(benchmark, root),
        ignore=benchmark.ignore,
        background=benchmark.background,
    )


def benchmark_categories(benchmark: Benchmark, root: Path) -> Categories:
    """The categories of a row alone, without its records."""
    categories = _whole_categories(benchmark, root)
    return categories.select(benchmark.classes) if benchmark.classes else categories


def _whole_categories(benchmark: Benchmark, root: Path) -> Categories:
    benchmark = benchmark.located(root)
    if benchmark.annotations:
        path = root / benchmark.annotations
        return read_categories(read_json(path), str(path))
    vocabulary = _whole_vocabulary(benchmark, root)
    assert vocabulary is not None, "a row of label maps names its classes"
    names = tuple(vocabulary.labels)
    if not benchmark.prepared_by:
        _check_numbers(vocabulary, benchmark.vocabulary)
    return Categories(names, vocabulary.is_thing, tuple(range(len(names))))


def _check_numbers(vocabulary: Vocabulary, source: str) -> None:
    """Label maps count classes from 0, whatever numbers a list gives them: such as contradict that
    are refused, and those of the field's lists, which count from 1, are told."""
    size, numbers = len(vocabulary), vocabulary.ids
    if numbers in (None, tuple(range(size))):
        return
    if numbers != tuple(range(1, size + 1)):
        raise UserError(
            f"{source}: numbers its {size} classes otherwise than 0 to {size - 1}; label maps hold "
            "these: number the classes so, or leave the numbers out"
        )
    note(f"{source}: counts from 1, label maps from 0: label 0 is {vocabulary.labels[0]!r}")


def benchmark_vocabulary(benchmark: Benchmark, root: Path) -> Vocabulary | None:
    """The class list of a row, None if it has none of its own."""
    vocabulary = _whole_vocabulary(benchmark, root)
    if vocabulary is None or not benchmark.classes:
        return vocabulary
    return vocabulary.select(benchmark.classes)


def _whole_vocabulary(benchmark: Benchmark, root: Path) -> Vocabulary | None:
    if not benchmark.vocabulary:
        return None
    if not benchmark.vocabulary.endswith(".txt"):
        return Vocabulary.packaged(benchmark.vocabulary)
    path = root / benchmark.vocabulary
    if not path.is_file():
        remedy = (
            f"run frozenseg {benchmark.prepared_by}"
            if benchmark.prepared_by
            else ("name the classes in it, one a line")
        )
        raise UserError(f"{path}: no such file; {remedy}")
    # A-847 and PC-459 have classes that share a name.
    return Vocabulary.from_file(path, may_repeat=True)


def class_names(
    benchmark: Benchmark,
    root: Path,
    categories: Categories,
    *,
    listed: Vocabulary | None = None,
    by_order: bool = False,
) -> Vocabulary:
    """The names of a data set's classes, in the order of its class ids: the one function that
    training, evaluation, checks and the adapter ask.

    listed: a list to take in place of the row's own; without either, the names of the annotation.
    by_order: join the list by the order of the ids, whatever the names say.
    """
    annotation = str(root / (benchmark.annotations or benchmark.labels))
    own = benchmark_vocabulary(benchmark, root) if listed is None else None
    if own is not None:
        joined = join(own, categories.names, categories.dataset_ids, annotation, in_order=True)
        return replace(joined, is_thing=categories.is_thing)
    return name_categories(categories, annotation, listed=listed, by_order=by_order)


def name_categories(
    categories: Categories, annotation: str, *, listed: Vocabulary | None, by_order: bool = False
) -> Vocabulary:
    """As `class_names`, for categories of any source. annotation: what they were read from."""
    names, ids = categories.names, categories.dataset_ids
    if listed is None:
        return Vocabulary.of_categories(names, categories.is_thing, ids, annotation)
    joined = (join_by_order if by_order else join)(listed, names, ids, annotation)
    return replace(joined, is_thing=categories.is_thing)
