"""Make the files that a row in the table of benchmarks names, from the published files.

Every preparation can be stopped and started again: a file is written completely or not at all, and
an existing file is not made again. The same published files always give the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from frozenseg.data.prepare import (
    ade20k,
    ade20k_full,
    bdd100k,
    cityscapes,
    coco,
    fss1000,
    mosaic4,
    pascal_context,
    pascal_voc,
)
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.prepare.options import PreparationOptions


@dataclass(frozen=True)
class Preparation:
    """How a data set is prepared: a line for --help, and the splits that `prepare` accepts."""

    summary: str
    splits: tuple[str, ...]
    prepare: Callable[[Path, str, PreparationOptions], None]


PREPARATIONS = {
    "ade20k": Preparation(
        "ADE20K-150: label maps, panoptic and instance annotation", ("val", "train"), ade20k.prepare
    ),
    "ade20k_full": Preparation(
        "ADE20K with 847 classes", ("validation", "training"), ade20k_full.prepare
    ),
    "pascal_voc": Preparation(
        "PASCAL VOC, 20 and 21 classes, and the images of PASCAL-5i",
        ("validation", "training", "training_aug"),
        pascal_voc.prepare,
    ),
    "pascal_context": Preparation(
        "PASCAL Context, 59 and 459 classes", ("validation", "training"), pascal_context.prepare
    ),
    "cityscapes": Preparation(
        "Cityscapes: train ids and panoptic annotation", ("val", "train"), cityscapes.prepare
    ),
    "bdd100k": Preparation("BDD100K: panoptic annotation", ("val", "train"), bdd100k.prepare),
    "coco_stuff": Preparation(
        "COCO-Stuff, 171 classes", ("val2017", "train2017"), coco.prepare_stuff
    ),
    "coco_semantic": Preparation(
        "COCO: label maps from the panoptic annotation (optional: without them they are derived)",
        ("val2017", "train2017"),
        coco.prepare_semantic,
    ),
    "fss1000": Preparation("FSS-1000: label maps", tuple(fss1000.LISTS), fss1000.prepare),
    "mosaic4": Preparation(
        "Mosaic-4, our own protocol: 2 x 2 mosaics of FSS-1000, or of the small world",
        tuple(mosaic4.SOURCES),
        mosaic4.prepare,
    ),
}

CONVERSIONS: tuple[LabelConversion, ...] = (
    ade20k.LABELS,
    ade20k_full.LABELS,
    pascal_voc.LABELS_20,
    pascal_voc.LABELS_21,
    pascal_context.LABELS_59,
    pascal_context.LABELS_459,
    coco.STUFF_LABELS,
    fss1000.LABELS,
)
