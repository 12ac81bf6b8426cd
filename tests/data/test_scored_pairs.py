"""Which pairs of image and class are scored: the published protocols, and ours beside them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.data.annotations import load_semantic, present_classes, scored_classes
from frozenseg.data.benchmarks import BENCHMARKS, load_records, scored_pairs
from frozenseg.data.prepare import pascal_voc
from frozenseg.data.prepare.options import PreparationOptions
from frozenseg.evaluation.means import by_family
from frozenseg.files import read_json, write_json
from frozenseg.text.vocabulary import Vocabulary
from tests.data.replicas import coded, save, save_image, write_list


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def voc_map(pixels: dict[int, int]) -> np.ndarray:
    """(130, 170) labels: each class has so many of the pixels that OSLSM's rule looks at, and all
    the pixels between the rows that it looks at are of class 20."""
    labels = np.full((130, 170), 20, np.uint8)
    labels[1::32] = 0
    places = [(y, x) for y in range(1, 130, 32) for x in range(1, 170, 32)]
    for (y, x), label in zip(
        places, [c for c, n in pixels.items() for _ in range(n)], strict=False
    ):
        labels[y, x] = label
    return labels


def write_voc(root: Path, maps: dict[str, np.ndarray]) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    for stem, labels in maps.items():
        save(folder / "JPEGImages" / f"{stem}.jpg", np.zeros((*labels.shape, 3), np.uint8))
        save(folder / "SegmentationClass" / f"{stem}.png", labels, palette=True)
    write_list(folder / "ImageSets" / "Segmentation" / "val.txt", list(maps))
    pascal_voc.prepare(root, "validation", PreparationOptions())


def test_oslsm_asks_for_classes_of_more_than_two_of_the_pixels_it_looks_at(root: Path) -> None:
    """Class 3 has two of them: it is in the picture, not asked for, and counts as background."""
    maps = {"a": voc_map({1: 3, 3: 2, 255: 4, 7: 4}), "b": voc_map({3: 2}), "c": voc_map({5: 9})}
    write_voc(root, maps)
    assert [record.image_id for record in load_records("pascal5i_fold0_val")[0]] == ["a", "b", "c"]
    records, categories = load_records("pascal5i_fold0_val_oslsm")
    assert {str(record.image_id): record.scored for record in records} == {"a": (0,), "c": (4,)}
    labels = load_semantic(records[0])
    assert present_classes(labels) == [0, 2] and scored_classes(records[0], labels) == [0]
    assert len(categories) == 5
    listed = read_json(root / "pascal_voc_d2" / "oslsm_pairs_in_validation.json")
    rule = {
        stem: [c for c in range(1, 21) if (labels == c)[1::32, 1::32].sum() > 2]
        for stem, labels in maps.items()
    }
    assert listed == rule == {"a": [1, 7], "b": [], "c": [5]}


def write_coco(root: Path, images: dict[str, list[tuple[int, tuple[int, int, int, int]]]]) -> None:
    """{file name: [(class 0-79, box as top, bottom, left, right)]}; larger objects lie below."""
    names = Vocabulary.packaged("coco_panoptic").labels[:80]
    content = {
        "images": [
            {"id": n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(images)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    rows = []
    for number, (name, objects) in enumerate(images.items()):
        save_image(root / "coco" / "val2014" / name, 0)
        for class_id, (top, bottom, left, right) in objects:
            mask = np.zeros((48, 64), bool)
            mask[top:bottom, left:right] = True
            rows.append(
                {"id": len(rows) + 1, "image_id": number, "category_id": class_id + 1,
                 "iscrowd": 0, "segmentation": coded(mask), "area": int(mask.sum()),
                 "bbox": [left, top, right - left, bottom - top]}
            )  # fmt: skip
    path = root / "coco" / "annotations" / "instances_val2014.json"
    write_json(path, content | {"annotations": rows})


WHOLE, LEFT, RIGHT = (0, 48, 0, 64), (0, 48, 0, 30), (0, 48, 34, 64)
COCO = {  # fold 0 holds out the classes 0, 4, 8, ...
    "COCO_val2014_000000000009.jpg": [(4, LEFT), (0, RIGHT)],
    "COCO_val2014_000000000002.jpg": [(1, LEFT)],  # none of the fold's
    "COCO_val2014_000000000005.jpg": [(8, WHOLE), (0, LEFT), (1, RIGHT), (12, (0, 48, 30, 34))],
    "COCO_val2014_000000000001.jpg": [(4, WHOLE), (1, LEFT), (2, (0, 48, 30, 64))],  # 4 is covered
}


def pairs_of(name: str) -> list[tuple[str, int]]:
    records, _ = load_records(name)
    return [
        (str(record.image_path)[-6:-4], class_id)
        for record in records
        for class_id in scored_classes(record, load_semantic(record))
    ]


def test_the_first_pairs_are_those_by_file_name_then_class(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(root, COCO)
    everything = [("05", 0), ("05", 3), ("09", 0), ("09", 1)]
    assert sorted(pairs_of("coco20i_fold0_val")) == everything
    assert pairs_of("coco20i_fold0_val_first1000") == everything
    for count in range(1, 4):
        monkeypatch.setattr(scored_pairs, "NUM_PAIRS", count)
        assert pairs_of("coco20i_fold0_val_first1000") == everything[:count]


def test_drawn_pairs_are_of_a_class_then_of_an_image(root: Path) -> None:
    """1,000 draws, the same ones each time; classes are equally likely, not images."""
    write_coco(root, COCO)
    pairs = pairs_of("coco20i_fold0_val_hsnet1000")
    assert len(pairs) == 1000 and pairs == pairs_of("coco20i_fold0_val_hsnet1000")
    assert set(pairs) == {("05", 0), ("05", 3), ("09", 0), ("09", 1)}
    shares = [sum(class_id == c for _, class_id in pairs) / 1000 for c in (0, 1, 3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.06)


def test_rows_of_published_pairs_stand_beside_ours() -> None:
    names = [
        *(f"pascal5i_fold{k}_val{end}" for k in range(4) for end in ("", "_oslsm")),
        *(
            f"coco20i_fold{k}_val{end}"
            for k in range(4)
            for end in ("", "_first1000", "_hsnet1000")
        ),
    ]
    assert set(names) <= set(BENCHMARKS)
    assert {family: len(rows) for family, rows in by_family(names).items()} == dict.fromkeys(
        ("pascal5i", "pascal5i_oslsm", "coco20i", "coco20i_first1000", "coco20i_hsnet1000"), 4
    )
    for name in names:
        row = BENCHMARKS[name]
        assert (row.pairs == "all") == name.endswith("_val")
        assert row.evaluators == (("oracle", "whole") if row.pairs == "all" else ("oracle",))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.lists(st.sampled_from([0, 1, 7, 20, 255]), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_pairs_of_any_map_are_those_of_the_rule(
    height: int, width: int, classes: list[int], seed: int
) -> None:
    labels = np.random.default_rng(seed).choice(np.array(classes, np.uint8), (height, width))
    rule = [c for c in range(1, 21) if (labels == c)[1::32, 1::32].sum() > 2]
    assert pascal_voc.oslsm_pairs(labels) == rule
