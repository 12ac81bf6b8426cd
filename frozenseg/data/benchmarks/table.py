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
from frozenseg.data.benchmarks.rows import (
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
from frozenseg.errors import UserError, nearest
from frozenseg.files import user_path
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
    if form == "coco_instances":
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
