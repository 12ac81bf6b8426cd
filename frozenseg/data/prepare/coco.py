"""COCO-Stuff's 171 classes, and label maps of COCO's panoptic annotation.

Published for COCO-Stuff: `stuffthingmaps/SPLIT/X.png` with COCO's ids minus 1 (0-181, with gaps)
and 255 for no class.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from frozenseg.data.annotations import VOID_CLASS, load_semantic
from frozenseg.data.benchmarks import find_benchmark, read_benchmark
from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare.labels import LabelConversion, lookup
from frozenseg.data.prepare.options import PreparationOptions, files_by_stem, write_picture
from frozenseg.data.records import Record
from frozenseg.errors import UserError

STUFF_REMEDY = (
    "unpack stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff there"
)
# Ids between 1 and 182 that COCO never used: 10 among those of things (1-90), and 91.
UNUSED = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))
STUFF_IDS = tuple(number for number in range(1, 183) if number not in UNUSED)


def published_stuff(root: Path, split: str) -> dict[str, Path]:
    """Return {stem: published label map} of COCO-Stuff."""
    return files_by_stem(root / "coco" / "stuffthingmaps" / split, ".png", STUFF_REMEDY)


def stuff_class_ids(path: Path) -> np.ndarray:
    """Read class ids 0-170, and 255 where unlabelled."""
    labels = read_labels(path)
    known = {number - 1: i for i, number in enumerate(STUFF_IDS)}
    class_ids = lookup(labels, known, 255)
    if ((class_ids == 255) & (labels != 255)).any():
        raise UserError(f"{path}: holds a label that COCO-Stuff does not have; unpack it again")
    return class_ids


STUFF_LABELS = LabelConversion("coco/stuffthingmaps_detectron2", published_stuff, stuff_class_ids)


def prepare_stuff(root: Path, split: str, options: PreparationOptions) -> None:
    """Write the label maps of COCO-Stuff."""
    STUFF_LABELS.write(root, split, options)


def prepare_semantic(root: Path, split: str, options: PreparationOptions) -> None:
    """Write label maps from the panoptic annotation; crowds keep their class, as in detectron2."""
    name = f"openvocab_coco_2017_{split.removesuffix('2017')}_panoptic_with_sem_seg"
    row = find_benchmark(name)
    target = root / row.semantic_labels
    records, _ = read_benchmark(replace(row, semantic_labels=""), root)
    jobs = [record for record in records if options.must_write(_target(target, record))]
    options.map(functools.partial(_write_semantic, target), jobs, f"{row.semantic_labels}")


def _target(folder: Path, record: Record) -> Path:
    assert record.panoptic_path is not None, "a record of a panoptic JSON"
    return folder / Path(record.panoptic_path).name


def _write_semantic(folder: Path, record: Record) -> None:
    labels = load_semantic(record)
    write_picture(
        _target(folder, record), np.where(labels == VOID_CLASS, 255, labels).astype(np.uint8)
    )
