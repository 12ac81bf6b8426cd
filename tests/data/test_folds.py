"""The folds of PASCAL-5i and COCO-20i."""

import pytest

from frozenseg.data.benchmarks.folds import FOLDED, NUM_FOLDS, fold_classes
from frozenseg.text.vocabulary import Vocabulary


@pytest.mark.parametrize("name", FOLDED)
def test_folds_share_out_all_classes(name: str) -> None:
    folds = [fold_classes(name, fold) for fold in range(NUM_FOLDS)]
    assert [len(fold) for fold in folds] == [FOLDED[name] // 4] * 4
    assert sorted(sum(folds, ())) == list(range(FOLDED[name]))


def test_pascal_in_blocks_and_coco_in_turns() -> None:
    assert fold_classes("pascal5i", 1) == (5, 6, 7, 8, 9)
    assert fold_classes("coco20i", 1)[:3] == (1, 5, 9)
    coco = Vocabulary.packaged("coco_panoptic")  # its first 80 classes are COCO's things
    assert all(coco.is_thing[:80])
    first = [coco.labels[index] for index in fold_classes("coco20i", 0)[:3]]
    assert first == ["person", "airplane", "boat"]
