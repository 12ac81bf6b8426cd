"""The rows of the table of benchmarks, except the few-shot ones.

Paths are those of detectron2's datasets. The published numbers are those of FrozenSeg (arXiv
2409.03525, tables 1-3) and FC-CLIP (arXiv 2308.02487).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.small_world_files import small_world_files

CONVNEXT, RN50X64 = "FrozenSeg ConvNeXt-L", "FrozenSeg RN50x64"
FC_CONVNEXT, FC_RN50X64 = "FC-CLIP ConvNeXt-L, last iteration", "FC-CLIP RN50x64, last iteration"
FC_RELEASED = "FC-CLIP ConvNeXt-L, as released"
MODELS = (CONVNEXT, RN50X64, FC_CONVNEXT, FC_RN50X64, FC_RELEASED)

SEMANTIC, INSTANCES = ("semantic",), ("instances",)
ALL_TASKS = ("panoptic", "semantic", "instances")


def _published(**metrics: tuple[float | None, ...]) -> dict[str, dict[str, float]]:
    """Return {model: {metric: per cent}}.

    metrics: the numbers of each metric in the order of `MODELS`; None: no paper prints this number.
    """
    published: dict[str, dict[str, float]] = {}
    for metric, numbers in metrics.items():
        for model, number in zip(MODELS, numbers, strict=True):
            if number is not None:
                published.setdefault(model, {})[metric] = number
    return published


def _coco(split: str, **fields: Any) -> Benchmark:
    """Return a row of a split of COCO 2017."""
    count = 5000 if split == "val2017" else 118_287
    return Benchmark(images=f"coco/{split}", counts={count: ""}, **fields)


def _coco_panoptic(split: str, *, all_tasks: bool = True, **fields: Any) -> Benchmark:
    """Return a row of COCO's panoptic annotation."""
    tasks = ALL_TASKS if all_tasks else ("panoptic",)
    if all_tasks:
        fields |= {
            "semantic_labels": f"coco/panoptic_semseg_{split}",
            "instances": f"coco/annotations/instances_{split}.json",
        }
    return _coco(
        split,
        tasks=tasks,
        reader="panoptic",
        vocabulary="coco_panoptic",
        annotations=f"coco/annotations/panoptic_{split}.json",
        labels=f"coco/panoptic_{split}",
        evaluators=tasks if split == "val2017" else (),
        **fields,
    )


def _coco_stuff(split: str, **fields: Any) -> Benchmark:
    """Return a row of COCO-Stuff."""
    labels = f"coco/stuffthingmaps_detectron2/{split}"
    return _coco(split, vocabulary="coco_stuff", labels=labels, **fields)


def _label_maps(root: str, vocabulary: str, labels: str, **fields: Any) -> Benchmark:
    """Return the row of a validation set of label maps, whose folders lie below `root`."""
    images = f"{root}/{fields.pop('images', 'images/validation')}"
    labels = f"{root}/{labels}"
    return Benchmark(
        vocabulary=vocabulary, images=images, labels=labels, evaluators=SEMANTIC, **fields
    )


def _small_world(split: str, vocabulary: str, evaluators: tuple[str, ...] = ALL_TASKS) -> Benchmark:
    """Return the row of a split of the small world."""
    files = small_world_files(Path("small_world"), split)._asdict().items()
    paths: dict[str, Any] = {field: str(path) for field, path in files if field != "settings"}
    return Benchmark(
        tasks=ALL_TASKS,
        reader="panoptic",
        vocabulary=vocabulary,
        test_size=(192, 384),
        evaluators=evaluators,
        **paths,
    )


ADE20K_FULL_SIDE = 512  # pixels; MaskFormer's preparation shrinks to this shorter side

_ADE20K_VAL = Benchmark(
    tasks=ALL_TASKS,
    reader="panoptic",
    vocabulary="ade20k_150",
    images="ADEChallengeData2016/images/validation",
    annotations="ADEChallengeData2016/ade20k_panoptic_val.json",
    labels="ADEChallengeData2016/ade20k_panoptic_val",
    semantic_labels="ADEChallengeData2016/annotations_detectron2/validation",
    instances="ADEChallengeData2016/ade20k_instance_val.json",
    evaluators=ALL_TASKS,
    prepared_by="ade20k",
    counts={2000: ""},
    published=_published(
        PQ=(25.9, 23.1, 25.1, 21.3, 26.8),
        AP=(16.4, 13.5, 16.4, 13.2, 16.8),
        mIoU=(34.4, 30.7, 32.8, 28.7, 34.1),
    ),
)
_VOC_COUNTS = {1449: ""}
_CONTEXT_COUNTS = {5105: "VOC 2010's list", 5104: "the published logs"}
_CONTEXT_TRAINING_COUNTS = {4998: "VOC 2010's list", 4996: "the Detail API"}

TEST_ROWS: dict[str, Benchmark] = {
    "openvocab_coco_2017_val_panoptic_with_sem_seg": _coco_panoptic(
        "val2017",
        published=_published(
            PQ=(56.2, 55.7, 56.4, 55.3, 54.4),
            AP=(47.3, 47.4, 47.4, 46.5, 44.6),
            mIoU=(65.5, 65.4, 65.3, 64.8, 63.7),
        ),
    ),
    "coco_2017_val_panoptic": _coco_panoptic("val2017", all_tasks=False),
    "coco_2017_val_panoptic_with_sem_seg": _coco_panoptic("val2017"),
    "openvocab_coco_2017_test_stuff_sem_seg": _coco_stuff(  # "test" as published
        "val2017", evaluators=SEMANTIC, prepared_by="coco_stuff"
    ),
    "openvocab_ade20k_panoptic_val": _ADE20K_VAL,
    # The semantic and the instance score of ADE20K on their own. The names of the 100 things are
    # those of the annotation.
    "openvocab_ade20k_sem_seg_val": _label_maps(
        "ADEChallengeData2016",
        "ade20k_150",
        "annotations_detectron2/validation",
        prepared_by="ade20k",
        counts={2000: ""},
        published={model: {"mIoU": row["mIoU"]} for model, row in _ADE20K_VAL.published.items()},
    ),
    "openvocab_ade20k_instance_val": Benchmark(
        tasks=INSTANCES,
        reader="instances",
        images=_ADE20K_VAL.images,
        annotations=_ADE20K_VAL.instances,
        evaluators=INSTANCES,
        prepared_by="ade20k",
        counts={2000: ""},
    ),
    "openvocab_ade20k_full_sem_seg_val": _label_maps(
        "ADE20K_2021_17_01",
        "ADE20K_2021_17_01/classes_847.txt",
        "annotations_detectron2/validation",
        images="images_detectron2/validation",
        ignore=65535,  # 16-bit maps
        short_side=ADE20K_FULL_SIDE,
        prepared_by="ade20k_full",
        counts={2000: ""},
        published=_published(
            mIoU=(14.8, 11.8, 14.0, 10.8, 14.8), fwIoU=(51.4, 52.8, 48.1, 44.6, 51.3)
        ),
    ),
    "openvocab_pascal20_sem_seg_val": _label_maps(
        "pascal_voc_d2",
        "pascal_voc_20",
        "annotations_pascal20/validation",
        prepared_by="pascal_voc",
        counts=_VOC_COUNTS,
        published=_published(mIoU=(None, None, None, None, 95.4)),
    ),
    "openvocab_pascal21_sem_seg_val": _label_maps(
        "pascal_voc_d2",
        "pascal_voc_21",
        "annotations_pascal21/validation",
        prepared_by="pascal_voc",
        counts=_VOC_COUNTS,
        published=_published(
            mIoU=(82.5, 82.3, 83.0, 81.1, 81.8), fwIoU=(92.1, 92.1, 92.4, 91.4, None)
        ),
    ),
    "openvocab_pascal_ctx59_sem_seg_val": _label_maps(
        "pascal_ctx_d2",
        "pascal_context_59",
        "annotations_ctx59/validation",
        prepared_by="pascal_context",
        counts=_CONTEXT_COUNTS,
        published=_published(
            mIoU=(58.1, None, None, None, 58.4), fwIoU=(68.7, None, None, None, None)
        ),
    ),
    "openvocab_pascal_ctx459_sem_seg_val": _label_maps(
        "pascal_ctx_d2",
        "pascal_ctx_d2/classes_459.txt",
        "annotations_ctx459/validation",
        ignore=65535,  # 16-bit maps
        prepared_by="pascal_context",
        counts=_CONTEXT_COUNTS,
        published=_published(
            mIoU=(19.7, 18.7, 17.3, 15.6, 18.2), fwIoU=(60.2, 60.1, 56.7, 50.0, 58.2)
        ),
    ),
    "openvocab_cityscapes_fine_panoptic_val": Benchmark(
        tasks=ALL_TASKS,
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
        published=_published(
            PQ=(45.8, 45.2, 44.3, 42.6, 44.0),
            AP=(28.4, 28.9, 27.9, 27.3, 26.8),
            mIoU=(56.8, 56.0, 56.0, 55.1, 56.2),
        ),
    ),
    "openvocab_mapillary_vistas_panoptic_val": Benchmark(
        tasks=("panoptic", "semantic"),
        reader="panoptic",
        image_names="mapillary",
        vocabulary="mapillary_vistas",
        images="mapillary_vistas/validation/images",
        annotations="mapillary_vistas/validation/panoptic/panoptic_2018.json",
        labels="mapillary_vistas/validation/panoptic",
        semantic_labels="mapillary_vistas/validation/labels",
        version="v1.2",  # in archives that hold version 2.0 too
        ignore=65,  # elsewhere it is the largest value of the data type
        test_size=(1024, 2560),
        evaluators=("panoptic", "semantic"),
        counts={2000: ""},
        published=_published(
            PQ=(18.5, 18.1, 18.1, 18.2, 18.3), mIoU=(27.3, 27.7, 27.9, 27.4, 27.8)
        ),
    ),
    # This row has no semantic score: the published one is that of the next row, with 19 classes.
    "bdd10k_40_panoptic_val": Benchmark(
        tasks=("panoptic",),
        reader="panoptic",
        vocabulary="bdd100k_panoptic",
        images="bdd100k/images/10k/val",
        annotations="bdd100k/jsons/pan_seg_val_cocofmt.json",
        labels="bdd100k/jsons/pan_seg/masks/val",
        evaluators=("panoptic",),
        prepared_by="bdd100k",
        counts={1000: ""},
        published=_published(PQ=(19.3, 12.9, 17.9, 13.8, None)),
    ),
    "bdd10k_val_sem_seg": _label_maps(
        "bdd100k",
        "bdd100k",
        "labels/sem_seg/masks/val",
        images="images/10k/val",
        counts={1000: ""},
        published=_published(mIoU=(52.3, 46.2, 49.4, 41.4, None)),
    ),
    "openvocab_lvis_v1_val": Benchmark(
        tasks=INSTANCES,
        reader="instances",
        images="coco",
        annotations="lvis/lvis_v1_val.json",
        evaluators=("lvis",),
        counts={19_809: ""},
        published=_published(APr=(25.6, 23.5, 25.0, None, None)),
    ),
    "small_world_val": _small_world("val", "small_world"),
    "small_world_video_val": _small_world(
        "video_val", "small_world", evaluators=("video", *ALL_TASKS)
    ),
}
# {test row: the split of its preparation that makes the training set, its number of images}
TRAINING_SETS: dict[str, tuple[str, Mapping[int, str]]] = {
    "openvocab_ade20k_panoptic_val": ("train", {20_210: ""}),
    "openvocab_ade20k_full_sem_seg_val": ("training", {25_574: ""}),
    "openvocab_pascal20_sem_seg_val": ("training", {1464: ""}),
    "openvocab_pascal21_sem_seg_val": ("training", {1464: ""}),
    "openvocab_pascal_ctx59_sem_seg_val": ("training", _CONTEXT_TRAINING_COUNTS),
    "openvocab_pascal_ctx459_sem_seg_val": ("training", _CONTEXT_TRAINING_COUNTS),
    "openvocab_cityscapes_fine_panoptic_val": ("train", {2975: ""}),
    "openvocab_mapillary_vistas_panoptic_val": ("training", {18_000: ""}),
    "bdd10k_40_panoptic_val": ("train", {7000: ""}),
    "bdd10k_val_sem_seg": ("train", {7000: ""}),
}
TRAINING_ROWS: dict[str, Benchmark] = {
    "openvocab_coco_2017_train_panoptic_with_sem_seg": _coco_panoptic("train2017"),
    "coco_2017_train_panoptic": _coco_panoptic("train2017", all_tasks=False),
    "openvocab_coco_2017_train_stuff_sem_seg": _coco_stuff(
        "train2017", prepared_by="coco_stuff --split train2017"
    ),
    **{
        name.replace("_val", "_train"): TEST_ROWS[name].training_set(split, counts)
        for name, (split, counts) in TRAINING_SETS.items()
    },
    "small_world_train": _small_world("train", "small_world_seen"),
}
