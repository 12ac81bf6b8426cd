"""The rows of the few-shot benchmarks: folds of VOC and COCO, FSS-1000, and mosaics.

The row of a fold selects classes: all other labelled pixels become background, and images without
any of these classes are left out. A training row selects the classes outside the fold, a test row
those of the fold, which are all unseen. Rows that end in `_val` score all pairs of an image and a
class in it; the rows of `PUBLISHED_PAIRS` score the pairs of published protocols. The published
numbers are those of the papers, each by its own protocol. Images of VOC and COCO are tested at
their original size, as in Fusioner.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from frozenseg.data.benchmarks.folds import FOLDED, NUM_FOLDS, TRANSFER, fold_classes
from frozenseg.data.benchmarks.row import ORIGINAL_SIZE, Benchmark, PairsName

FUSIONER_RN101, FUSIONER_VIT_L = "Fusioner RN101", "Fusioner ViT-L/14"
LSEG_RN101, LSEG_VIT_L = "LSeg RN101", "LSeg ViT-L/16"

# {model: mIoU of folds 0-3}; None: not known. Tables 2 and 5 of Fusioner.
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
# {benchmark: {`pairs` of a row besides `_val`: models whose published numbers use these pairs}}
PUBLISHED_PAIRS: dict[str, dict[PairsName, tuple[str, ...]]] = {
    "pascal5i": {"oslsm": (FUSIONER_RN101, FUSIONER_VIT_L)},
    "coco20i": {"first_1000": (FUSIONER_RN101, FUSIONER_VIT_L), "hsnet_1000": ()},
}
# The number of PASCAL-5i's training images: our preparation makes the first; copies with other
# label maps may have another.
TRAINING_LISTS = {10_582: "Fusioner's lists", 10_092: "HSNet's lists", 5953: "PFENet's lists"}
FEW_SHOT = ("oracle", "whole")  # both protocols, see `frozenseg.evaluation.tasks`
MOSAICS = ("mosaic", "oracle")


def _published(
    table: Mapping[str, tuple[float | None, ...]], fold: int
) -> dict[str, dict[str, float]]:
    return {
        model: {"oracle mIoU" if model.startswith("Fusioner") else "mIoU": value}
        for model, folds in table.items()
        if (value := folds[fold]) is not None
    }


def _voc(split: str, classes: tuple[int, ...], **fields: Any) -> Benchmark:
    """Return a row of VOC's label maps with background. classes: ids among the 20, from 0."""
    testing = split == "validation"
    return Benchmark(
        vocabulary="pascal_voc_21",
        images=f"pascal_voc_d2/images/{split}",
        labels=f"pascal_voc_d2/annotations_pascal21/{split}",
        present=f"pascal_voc_d2/classes_in_{split}.json",
        classes=tuple(number + 1 for number in classes),
        test_size=ORIGINAL_SIZE,
        evaluators=FEW_SHOT,
        prepared_by="pascal_voc" if testing else f"pascal_voc --split {split}",
        counts={1449: ""} if testing else TRAINING_LISTS,
        **fields,
    )


def _coco(split: str, classes: tuple[int, ...], **fields: Any) -> Benchmark:
    """Return a row of COCO 2014, as in the published folds. classes: ids among the 80, from 0."""
    return Benchmark(
        reader="instances",
        vocabulary="coco_panoptic",  # begins with the 80 things
        images=f"coco/{split}2014",
        annotations=f"coco/annotations/instances_{split}2014.json",
        classes=classes,
        test_size=ORIGINAL_SIZE,
        evaluators=FEW_SHOT,
        counts={40_504: ""} if split == "val" else {82_783: ""},
        **fields,
    )


def _folds() -> Iterator[tuple[str, Benchmark]]:
    for family, make, splits, published in (
        ("pascal5i", _voc, ("training_aug", "validation"), PASCAL_5I_PUBLISHED),
        ("coco20i", _coco, ("train", "val"), COCO_20I_PUBLISHED),
    ):
        for fold in range(NUM_FOLDS):
            train, val = f"{family}_fold{fold}_train", f"{family}_fold{fold}_val"
            held_out = fold_classes(family, fold)
            others = tuple(i for i in range(FOLDED[family]) if i not in held_out)
            yield train, make(splits[0], others, trained_on=train)
            numbers = _published(published, fold)
            row = make(splits[1], held_out, trained_on=train, family=family, published=numbers)
            yield val, row
            for pairs, models in PUBLISHED_PAIRS[family].items():
                yield f"{val}_{pairs.replace('_', '')}", _with_pairs(row, pairs, models)


def _with_pairs(row: Benchmark, pairs: PairsName, models: tuple[str, ...]) -> Benchmark:
    """Return the row with other pairs, which only the evaluation with oracle presence uses.

    models: the models whose published numbers were measured on these pairs.
    """
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
        row = _voc(
            "validation",
            classes,
            trained_on=f"coco20i_fold{fold}_train",
            family="coco20i_to_pascal",
            published=_published(TRANSFER_PUBLISHED, fold),
        )
        yield f"coco20i_fold{fold}_to_pascal_val", row


def _fss(split: str, folder: str, count: int, **fields: Any) -> Benchmark:
    """Return a row of FSS-1000, whose 16-bit label maps hold 1,000 classes in all."""
    return Benchmark(
        vocabulary=f"fss1000_d2/classes_{split}.txt",
        images=folder.format("images"),
        labels=folder.format("annotations"),
        ignore=65535,
        background=65534,
        counts={count: ""},
        **fields,
    )


def _fss1000(split: str, count: int) -> Benchmark:
    script = "fss1000" if split == "test" else f"fss1000 --split {split}"
    folder = f"fss1000_d2/{{}}/{split}"
    return _fss(split, folder, count, evaluators=FEW_SHOT, test_size=(224, 224), prepared_by=script)


def _small_world_mosaics(split: str) -> Benchmark:
    return Benchmark(
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
    "fss1000_mosaic4": _fss(
        "test",
        "mosaic4/fss1000/{}",
        1000,
        test_size=(448, 448),
        evaluators=MOSAICS,
        prepared_by="mosaic4",
    ),
    "small_world_mosaic4": _small_world_mosaics("small_world"),
    "small_world_mosaic4_seen": _small_world_mosaics("small_world_seen"),
}
