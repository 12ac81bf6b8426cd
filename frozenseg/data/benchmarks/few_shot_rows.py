"""The rows of the few-shot benchmarks: folds of VOC and COCO, FSS-1000, and mosaics.

A row of a fold names the classes it asks for; what else is labelled is background, and images
without any of these classes are left out. In training they are those outside the fold, at test
those of the fold, all of them unseen. `_val` scores all pairs of an image and a class in it; the
rows of `PUBLISHED_PAIRS` score those of published protocols. The numbers are those of the papers,
as each counted. Images of VOC and COCO are tested at their original size, as Fusioner does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from frozenseg.data.benchmarks.folds import FOLDED, NUM_FOLDS, TRANSFER, fold_classes
from frozenseg.data.benchmarks.row import ORIGINAL_SIZE, Benchmark, PairsName

FUSIONER_RN101, FUSIONER_VIT_L = "Fusioner RN101", "Fusioner ViT-L/14"
LSEG_RN101, LSEG_VIT_L = "LSeg RN101", "LSeg ViT-L/16"

# {model: mIoU of folds 0-3}, None where it is not known; Tab. 2 and Tab. 5 of Fusioner
PASCAL_5I_PUBLISHED = {
    FUSIONER_RN101: (46.8, 56.0, 42.2, 40.7),
    FUSIONER_VIT_L: (61.9, 70.0, 51.2, 52.7),
    LSEG_RN101: (52.8, 53.8, 44.4, 38.5),
    LSEG_VIT_L: (61.3, 63.6, 43.1, 41.0),
}
COCO_20I_PUBLISHED = {
    FUSIONER_RN101: (26.7, 34.1, 26.3, 23.4),
    FUSIONER_VIT_L: (31.7, 35.7, 34.9, 31.8),
    LSEG_RN101: (22.1, 25.1, 24.9, 21.5),
    LSEG_VIT_L: (28.1, 27.5, 30.0, 23.2),
}
TRANSFER_PUBLISHED = {
    FUSIONER_RN101: (31.0, 53.7, 41.7, 51.3),
    FUSIONER_VIT_L: (39.9, 70.7, 47.8, 67.6),
    LSEG_RN101: (24.6, None, 34.7, 35.9),
}
# {benchmark: {the `pairs` of a row beside `_val`: models whose published numbers were made so}}
PUBLISHED_PAIRS: dict[str, dict[PairsName, tuple[str, ...]]] = {
    "pascal5i": {"oslsm": (FUSIONER_RN101, FUSIONER_VIT_L)},
    "coco20i": {"first_1000": (FUSIONER_RN101, FUSIONER_VIT_L), "hsnet_1000": ()},
}
# PASCAL-5i's training images: ours are the first; a copy of other label maps may have others.
TRAINING_LISTS = {
    10_582: "Fusioner's lists",
    10_092: "HSNet's lists",
    5953: "PFENet's lists",
}
FEW_SHOT = ("oracle", "whole")  # both protocols, see `frozenseg.evaluation.tasks`
MOSAICS = ("mosaic", "oracle")
FSS_LABELS = {"ignore": 65535, "background": 65534}  # 16-bit maps, 1,000 classes in all


def _published(
    table: Mapping[str, tuple[float | None, ...]], fold: int
) -> dict[str, dict[str, float]]:
    values = {model: folds[fold] for model, folds in table.items()}
    return {
        model: {"oracle mIoU" if model.startswith("Fusioner") else "mIoU": value}
        for model, value in values.items()
        if value is not None
    }


def _voc(split: str, classes: tuple[int, ...], **of_row: object) -> Benchmark:
    """The label maps of VOC with background; classes: among the 20, from 0."""
    testing = split == "validation"
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary="pascal_voc_21",
        images=f"pascal_voc_d2/images/{split}",
        labels=f"pascal_voc_d2/annotations_pascal21/{split}",
        present=f"pascal_voc_d2/classes_in_{split}.json",
        classes=tuple(number + 1 for number in classes),
        test_size=ORIGINAL_SIZE,
        prepared_by="pascal_voc" + ("" if testing else f" --split {split}"),
        counts={1449: ""} if testing else TRAINING_LISTS,
        **of_row,  # type: ignore[arg-type]
    )


def _coco(split: str, classes: tuple[int, ...], **of_row: object) -> Benchmark:
    """The objects of COCO 2014, as the published folds have it; classes: among the 80, from 0."""
    return Benchmark(
        tasks=("semantic",),
        reader="instances",
        vocabulary="coco_panoptic",  # begins with the 80 things
        images=f"coco/{split}2014",
        annotations=f"coco/annotations/instances_{split}2014.json",
        classes=classes,
        test_size=ORIGINAL_SIZE,
        counts={40_504: ""} if split == "val" else {82_783: ""},
        **of_row,  # type: ignore[arg-type]
    )


def _others(benchmark: str, fold: int) -> tuple[int, ...]:
    held_out = fold_classes(benchmark, fold)
    return tuple(i for i in range(FOLDED[benchmark]) if i not in held_out)


def _folds() -> Iterator[tuple[str, Benchmark]]:
    makers = {"pascal5i": _voc, "coco20i": _coco}
    published = {"pascal5i": PASCAL_5I_PUBLISHED, "coco20i": COCO_20I_PUBLISHED}
    splits = {"pascal5i": ("training_aug", "validation"), "coco20i": ("train", "val")}
    for family, make in makers.items():
        train_split, val_split = splits[family]
        for fold in range(NUM_FOLDS):
            train, val = f"{family}_fold{fold}_train", f"{family}_fold{fold}_val"
            yield (
                train,
                make(train_split, _others(family, fold), trained_on=train, evaluators=FEW_SHOT),
            )
            row = make(
                val_split,
                fold_classes(family, fold),
                trained_on=train,
                family=family,
                evaluators=FEW_SHOT,
                published=_published(published[family], fold),
            )
            yield val, row
            for pairs, models in PUBLISHED_PAIRS[family].items():
                yield f"{val}_{pairs.replace('_', '')}", _with_pairs(row, pairs, models)


def _with_pairs(row: Benchmark, pairs: PairsName, models: tuple[str, ...]) -> Benchmark:
    """The row with other pairs. Only oracle presence knows them; numbers of `models` are theirs."""
    listed = "pascal_voc_d2/oslsm_pairs_in_validation.json" if pairs == "oslsm" else row.present
    return replace(
        row,
        pairs=pairs,
        present=listed,
        family=f"{row.family}_{pairs.replace('_', '')}",
        evaluators=("oracle",),
        published={model: row.published[model] for model in models},
    )


def _transfers() -> Iterator[tuple[str, Benchmark]]:
    for fold, classes in enumerate(TRANSFER):
        yield (
            f"coco20i_fold{fold}_to_pascal_val",
            _voc(
                "validation",
                classes,
                trained_on=f"coco20i_fold{fold}_train",
                family="coco20i_to_pascal",
                evaluators=FEW_SHOT,
                published=_published(TRANSFER_PUBLISHED, fold),
            ),
        )


def _fss1000(split: str, count: int) -> Benchmark:
    script = "fss1000" + ("" if split == "test" else f" --split {split}")
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary=f"fss1000_d2/classes_{split}.txt",
        images=f"fss1000_d2/images/{split}",
        labels=f"fss1000_d2/annotations/{split}",
        evaluators=FEW_SHOT,
        test_size=(224, 224),
        prepared_by=script,
        counts={count: ""},
        **FSS_LABELS,  # type: ignore[arg-type]
    )


FSS_MOSAICS = Benchmark(
    tasks=("semantic",),
    reader="semantic",
    vocabulary="fss1000_d2/classes_test.txt",
    images="mosaic4/fss1000/images",
    labels="mosaic4/fss1000/annotations",
    test_size=(448, 448),
    evaluators=MOSAICS,
    prepared_by="mosaic4",
    counts={1000: ""},
    **FSS_LABELS,  # type: ignore[arg-type]
)


def _small_world_mosaics(split: str) -> Benchmark:
    return Benchmark(
        tasks=("semantic",),
        reader="semantic",
        vocabulary="small_world",
        images=f"mosaic4/{split}/images",
        labels=f"mosaic4/{split}/annotations",
        background=254,
        test_size=(192, 384),
        trained_on="small_world_train",
        evaluators=MOSAICS,
        prepared_by=f"mosaic4 --split {split}",
        counts={200: ""},
    )


FEW_SHOT_BENCHMARKS: dict[str, Benchmark] = {
    **dict(_folds()),
    **dict(_transfers()),
    "fss1000_train": _fss1000("train", 5200),
    "fss1000_val": _fss1000("val", 2400),
    "fss1000_test": _fss1000("test", 2400),
    "fss1000_mosaic4": FSS_MOSAICS,
    "small_world_mosaic4": _small_world_mosaics("small_world"),
    "small_world_mosaic4_seen": _small_world_mosaics("small_world_seen"),
}
