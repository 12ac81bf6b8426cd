"""The one table of benchmarks, by their published names.

Besides the names of the table, three forms name any dataset by its files:

    coco_panoptic:JSON:PNG_DIR:IMAGE_DIR          COCO panoptic format
    coco_instances:JSON:IMAGE_DIR                 COCO instance format
    label_maps:IMAGE_DIR:LABEL_DIR:CLASSES.txt    PNGs of class ids, and their names

Paths are those of detectron2's datasets, under $DETECTRON2_DATASETS (default: `datasets`).
"""

import os
from pathlib import Path

from frozenseg.data.benchmarks.few_shot_rows import FEW_SHOT_BENCHMARKS
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.rows import TEST_ROWS, TRAINING_ROWS
from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path
from frozenseg.text.vocabulary import Vocabulary

FILES_FORMS = {
    "coco_panoptic": "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR",
    "coco_instances": "coco_instances:JSON:IMAGE_DIR",
    "label_maps": "label_maps:IMAGE_DIR:LABEL_DIR:CLASSES.txt",
}
FILES_FORM = ", ".join(FILES_FORMS.values())

BENCHMARKS: dict[str, Benchmark] = {**TRAINING_ROWS, **TEST_ROWS, **FEW_SHOT_BENCHMARKS}


def register_benchmark(name: str, row: Benchmark) -> None:
    """Add a row to the table, under a name that is not taken."""
    if name in BENCHMARKS or ":" in name:
        raise UserError(f"benchmark {name!r}: the name is taken, or has a colon; choose another")
    BENCHMARKS[name] = row


def data_root() -> Path:
    """Return the folder of all datasets; nothing else reads the environment for it."""
    return user_path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def find_benchmark(name: str) -> Benchmark:
    """Return the row of a published name, or make one from a name of files."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    form, _, paths = name.partition(":")
    if form not in FILES_FORMS:
        raise UserError(
            f"{name}: no such dataset; {nearest(name, list(BENCHMARKS))} "
            f"(or a dataset by its files: {FILES_FORM})"
        )
    parts = paths.split(":")
    if len(parts) != FILES_FORMS[form].count(":") or not all(parts):
        raise UserError(f"{name}: other paths were expected, as in {FILES_FORMS[form]}")
    absolute = [os.path.abspath(user_path(part)) for part in parts]  # not below the root
    return _row_of_files(form, absolute)


def _row_of_files(form: str, paths: list[str]) -> Benchmark:
    if form == "coco_panoptic":
        annotations, labels, images = paths
        tasks: tuple[str, ...] = ("panoptic", "semantic")
        return Benchmark(
            tasks=tasks,
            reader="panoptic",
            annotations=annotations,
            labels=labels,
            images=images,
            evaluators=tasks,
        )
    if form == "coco_instances":
        annotations, images = paths
        tasks = ("instances",)
        return Benchmark(
            tasks=tasks,
            reader="instances",
            annotations=annotations,
            images=images,
            evaluators=tasks,
        )
    images, labels, names = paths
    if not names.endswith(".txt"):
        raise UserError(f"{names}: the list of class names must be a text file (.txt)")
    # The value of unlabelled pixels must be no class of the list.
    ignore = 255 if len(Vocabulary.from_file(names, may_repeat=True)) <= 255 else 65535
    return Benchmark(
        ignore=ignore, vocabulary=names, images=images, labels=labels, evaluators=("semantic",)
    )


def is_data_set(name: str) -> bool:
    """Whether a value names a data set: one of the table, or one by its files."""
    return name in BENCHMARKS or name.partition(":")[0] in FILES_FORMS
