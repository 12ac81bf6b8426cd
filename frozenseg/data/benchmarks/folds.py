"""The folds of the few-shot benchmarks: which classes are held out of training and tested.

PASCAL-5i (Shaban et al., arXiv 1709.03410) and COCO-20i (Nguyen and Todorovic, arXiv 1909.13140),
in the order of classes that HSNet (arXiv 2104.01538), LSeg and Fusioner use.
"""

NUM_FOLDS = 4
FOLDED = {"pascal5i": 20, "coco20i": 80}
"""The benchmarks that have folds, and their number of classes without background."""
TRANSFER = ((0, 3, 8, 10, 11, 14), (1, 5, 12, 17), (2, 6, 15, 16, 18, 19), (4, 7, 9, 13))
"""For each fold of COCO-20i, the class ids (from 0) of VOC whose COCO class it holds out."""


def fold_classes(benchmark: str, fold: int) -> tuple[int, ...]:
    """Return the class ids, from 0, that fold 0-3 of "pascal5i" or "coco20i" holds out.

    PASCAL-5i holds out blocks of five in the order of VOC's list (aeroplane ... tvmonitor), and
    COCO-20i every fourth of COCO's 80 things in the order of their ids (person, bicycle, ...).
    """
    count = FOLDED[benchmark]
    if benchmark == "pascal5i":
        size = count // NUM_FOLDS
        return tuple(range(fold * size, (fold + 1) * size))
    return tuple(range(fold, count, NUM_FOLDS))
