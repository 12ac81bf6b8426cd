"""The rows of the table of benchmarks, few-shot ones apart.

Paths are those of detectron2's datasets. The numbers are those of FrozenSeg (arXiv 2409.03525,
tables 1-3) and FC-CLIP (arXiv 2308.02487).
"""

from collections.abc import Mapping
from pathlib import Path

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.small_world_files import small_world_files

CONVNEXT, RN50X64 = "FrozenSeg ConvNeXt-L", "FrozenSeg RN50x64"
FC_CONVNEXT, FC_RN50X64 = "FC-CLIP ConvNeXt-L, last iteration", "FC-CLIP RN50x64, last iteration"
FC_RELEASED = "FC-CLIP ConvNeXt-L, as released"


def coco_panoptic(
    split: str,
    *,
    all_tasks: bool = True,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Benchmark:
    """Return the row of a split of COCO's panoptic annotation."""
    tasks = ("panoptic", "semantic", "instances") if all_tasks else ("panoptic",)
    testing = split == "val2017"
    return Benchmark(
        tasks=tasks,
        reader="panoptic",
        vocabulary="coco_panoptic",
        images=f"coco/{split}",
        annotations=f"coco/annotations/panoptic_{split}.json",
        labels=f"coco/panoptic_{split}",
        semantic_labels=f"coco/panoptic_semseg_{split}" if all_tasks else "",
        instances=f"coco/annotations/instances_{split}.json" if all_tasks else "",
        evaluators=tasks if testing else (),
        counts={5000: ""} if testing else {118_287: ""},
        published=published or {},
    )


def coco_stuff(split: str) -> Benchmark:
    """Return the row of a split of COCO-Stuff."""
    testing = split == "val2017"
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary="coco_stuff",
        images=f"coco/{split}",
        labels=f"coco/stuffthingmaps_detectron2/{split}",
        evaluators=("semantic",) if testing else (),
        prepared_by="coco_stuff" + ("" if testing else " --split train2017"),
        counts={5000: ""} if testing else {118_287: ""},
    )


COCO_VAL_PUBLISHED = {
    CONVNEXT: {"PQ": 56.2, "AP": 47.3, "mIoU": 65.5},
    RN50X64: {"PQ": 55.7, "AP": 47.4, "mIoU": 65.4},
    FC_CONVNEXT: {"PQ": 56.4, "AP": 47.4, "mIoU": 65.3},
    FC_RN50X64: {"PQ": 55.3, "AP": 46.5, "mIoU": 64.8},
    FC_RELEASED: {"PQ": 54.4, "AP": 44.6, "mIoU": 63.7},
}

ADE20K_PUBLISHED = {
    CONVNEXT: {"PQ": 25.9, "AP": 16.4, "mIoU": 34.4},
    RN50X64: {"PQ": 23.1, "AP": 13.5, "mIoU": 30.7},
    FC_CONVNEXT: {"PQ": 25.1, "AP": 16.4, "mIoU": 32.8},
    FC_RN50X64: {"PQ": 21.3, "AP": 13.2, "mIoU": 28.7},
    FC_RELEASED: {"PQ": 26.8, "AP": 16.8, "mIoU": 34.1},
}


def ade20k(split: str) -> Benchmark:
    """Return the row of a split of ADE20K with 150 classes."""
    tasks = ("panoptic", "semantic", "instances")
    folder, testing = "training" if split == "train" else "validation", split == "val"
    return Benchmark(
        tasks=tasks,
        reader="panoptic",
        vocabulary="ade20k_150",
        images=f"ADEChallengeData2016/images/{folder}",
        annotations=f"ADEChallengeData2016/ade20k_panoptic_{split}.json",
        labels=f"ADEChallengeData2016/ade20k_panoptic_{split}",
        semantic_labels=f"ADEChallengeData2016/annotations_detectron2/{folder}",
        instances=f"ADEChallengeData2016/ade20k_instance_{split}.json",
        evaluators=tasks if testing else (),
        prepared_by="ade20k" + ("" if testing else " --split train"),
        counts={2000: ""} if testing else {20_210: ""},
        published=ADE20K_PUBLISHED if testing else {},
    )


# The two scores on their own. The names of the 100 things are those of the annotation.
ADE20K_SEMANTIC_VAL = Benchmark(
    tasks=("semantic",),
    reader="semantic",
    vocabulary="ade20k_150",
    images="ADEChallengeData2016/images/validation",
    labels="ADEChallengeData2016/annotations_detectron2/validation",
    evaluators=("semantic",),
    prepared_by="ade20k",
    counts={2000: ""},
    published={model: {"mIoU": scores["mIoU"]} for model, scores in ADE20K_PUBLISHED.items()},
)
ADE20K_INSTANCE_VAL = Benchmark(
    tasks=("instances",),
    reader="instances",
    vocabulary="",
    images="ADEChallengeData2016/images/validation",
    annotations="ADEChallengeData2016/ade20k_instance_val.json",
    evaluators=("instances",),
    prepared_by="ade20k",
    counts={2000: ""},
)


def _label_maps(
    root: str,
    vocabulary: str,
    *,
    labels: str,
    prepared_by: str,
    counts: Mapping[int, str],
    images: str = "images/validation",
    ignore: int = 255,
    short_side: int | None = None,
    published: Mapping[str, Mapping[str, float]],
) -> Benchmark:
    """A validation set of label maps; folders are those below `root`."""
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary=vocabulary,
        images=f"{root}/{images}",
        labels=f"{root}/{labels}",
        ignore=ignore,
        evaluators=("semantic",),
        prepared_by=prepared_by,
        counts=counts,
        short_side=short_side,
        published=published,
    )


ADE20K_FULL_SIDE = 512  # pixels; MaskFormer's preparation shrinks to this shorter side
ADE20K_FULL_VAL = _label_maps(
    "ADE20K_2021_17_01",
    "ADE20K_2021_17_01/classes_847.txt",
    images="images_detectron2/validation",
    labels="annotations_detectron2/validation",
    ignore=65535,  # 16-bit maps
    short_side=ADE20K_FULL_SIDE,
    prepared_by="ade20k_full",
    counts={2000: ""},
    published={
        CONVNEXT: {"mIoU": 14.8, "fwIoU": 51.4},
        RN50X64: {"mIoU": 11.8, "fwIoU": 52.8},
        FC_CONVNEXT: {"mIoU": 14.0, "fwIoU": 48.1},
        FC_RN50X64: {"mIoU": 10.8, "fwIoU": 44.6},
        FC_RELEASED: {"mIoU": 14.8, "fwIoU": 51.3},
    },
)

PASCAL_20_VAL = _label_maps(
    "pascal_voc_d2",
    "pascal_voc_20",
    labels="annotations_pascal20/validation",
    prepared_by="pascal_voc",
    counts={1449: ""},
    published={FC_RELEASED: {"mIoU": 95.4}},
)
PASCAL_21_VAL = _label_maps(
    "pascal_voc_d2",
    "pascal_voc_21",
    labels="annotations_pascal21/validation",
    prepared_by="pascal_voc",
    counts={1449: ""},
    published={
        CONVNEXT: {"mIoU": 82.5, "fwIoU": 92.1},
        RN50X64: {"mIoU": 82.3, "fwIoU": 92.1},
        FC_CONVNEXT: {"mIoU": 83.0, "fwIoU": 92.4},
        FC_RN50X64: {"mIoU": 81.1, "fwIoU": 91.4},
        FC_RELEASED: {"mIoU": 81.8},
    },
)

VOC_2010 = "VOC 2010's list"
PASCAL_CONTEXT_COUNTS = {5105: VOC_2010, 5104: "the published logs"}
PASCAL_CONTEXT_TRAIN_COUNTS = {4998: VOC_2010, 4996: "the Detail API"}
PASCAL_CONTEXT_59_VAL = _label_maps(
    "pascal_ctx_d2",
    "pascal_context_59",
    labels="annotations_ctx59/validation",
    prepared_by="pascal_context",
    counts=PASCAL_CONTEXT_COUNTS,
    published={CONVNEXT: {"mIoU": 58.1, "fwIoU": 68.7}, FC_RELEASED: {"mIoU": 58.4}},
)
PASCAL_CONTEXT_459_VAL = _label_maps(
    "pascal_ctx_d2",
    "pascal_ctx_d2/classes_459.txt",
    labels="annotations_ctx459/validation",
    ignore=65535,  # 16-bit maps
    prepared_by="pascal_context",
    counts=PASCAL_CONTEXT_COUNTS,
    published={
        CONVNEXT: {"mIoU": 19.7, "fwIoU": 60.2},
        RN50X64: {"mIoU": 18.7, "fwIoU": 60.1},
        FC_CONVNEXT: {"mIoU": 17.3, "fwIoU": 56.7},
        FC_RN50X64: {"mIoU": 15.6, "fwIoU": 50.0},
        FC_RELEASED: {"mIoU": 18.2, "fwIoU": 58.2},
    },
)

MAPILLARY_VAL = Benchmark(
    tasks=("panoptic", "semantic"),
    reader="panoptic",
    image_names="mapillary",
    vocabulary="mapillary_vistas",
    images="mapillary_vistas/validation/images",
    annotations="mapillary_vistas/validation/panoptic/panoptic_2018.json",
    labels="mapillary_vistas/validation/panoptic",
    semantic_labels="mapillary_vistas/validation/labels",
    version="v1.2",  # in archives that hold version 2.0 too
    ignore=65,  # unlike all others
    test_size=(1024, 2560),
    evaluators=("panoptic", "semantic"),
    counts={2000: ""},
    published={
        CONVNEXT: {"PQ": 18.5, "mIoU": 27.3},
        RN50X64: {"PQ": 18.1, "mIoU": 27.7},
        FC_CONVNEXT: {"PQ": 18.1, "mIoU": 27.9},
        FC_RN50X64: {"PQ": 18.2, "mIoU": 27.4},
        FC_RELEASED: {"PQ": 18.3, "mIoU": 27.8},
    },
)

# No semantic score: the published one is that of the other row, with 19 classes.
BDD_PANOPTIC_VAL = Benchmark(
    tasks=("panoptic",),
    reader="panoptic",
    vocabulary="bdd100k_panoptic",
    images="bdd100k/images/10k/val",
    annotations="bdd100k/jsons/pan_seg_val_cocofmt.json",
    labels="bdd100k/jsons/pan_seg/masks/val",
    evaluators=("panoptic",),
    prepared_by="bdd100k",
    counts={1000: ""},
    published={
        CONVNEXT: {"PQ": 19.3},
        RN50X64: {"PQ": 12.9},
        FC_CONVNEXT: {"PQ": 17.9},
        FC_RN50X64: {"PQ": 13.8},
    },
)
BDD_SEMANTIC_VAL = _label_maps(
    "bdd100k",
    "bdd100k",
    images="images/10k/val",
    labels="labels/sem_seg/masks/val",
    prepared_by="",
    counts={1000: ""},
    published={
        CONVNEXT: {"mIoU": 52.3},
        RN50X64: {"mIoU": 46.2},
        FC_CONVNEXT: {"mIoU": 49.4},
        FC_RN50X64: {"mIoU": 41.4},
    },
)

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
    prepared_by="cityscapes",
    counts={500: ""},
    published={
        CONVNEXT: {"PQ": 45.8, "AP": 28.4, "mIoU": 56.8},
        RN50X64: {"PQ": 45.2, "AP": 28.9, "mIoU": 56.0},
        FC_CONVNEXT: {"PQ": 44.3, "AP": 27.9, "mIoU": 56.0},
        FC_RN50X64: {"PQ": 42.6, "AP": 27.3, "mIoU": 55.1},
        FC_RELEASED: {"PQ": 44.0, "AP": 26.8, "mIoU": 56.2},
    },
)

LVIS_VAL = Benchmark(
    tasks=("instances",),
    reader="instances",
    vocabulary="",
    images="coco",
    annotations="lvis/lvis_v1_val.json",
    evaluators=("lvis",),
    counts={19_809: ""},
    published={CONVNEXT: {"APr": 25.6}, RN50X64: {"APr": 23.5}, FC_CONVNEXT: {"APr": 25.0}},
)


def small_world(split: str, vocabulary: str) -> Benchmark:
    """Return the row of a split of the small world."""
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
