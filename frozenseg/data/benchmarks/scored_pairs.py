"""Which pairs of an image and a class a few-shot benchmark scores: all of them, or published ones.

With oracle presence, a model is queried class by class and scored on pairs of an image and a class
in it. Papers score different pairs of the same images:

- `all`: every pair, which is the choice of this project.
- `oslsm`: the pairs of PASCAL-5i's published lists. The preparation makes the list by the rule of
  OSLSM (arXiv 1709.03410), which leaves out classes that have only a few pixels.
- `first_1000`: the first 1,000 pairs by file name, then class, as Fusioner does for COCO-20i.
- `hsnet_1000`: 1,000 draws of a class and then of an image that has it, as HSNet (arXiv 2104.01538)
  does for COCO-20i; a pair may be drawn twice. HSNet draws from its own lists with numpy's legacy
  generator, we draw with `SEED`: the rule is the same, but the pairs differ.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from frozenseg.data.annotations import load_semantic, present_classes
from frozenseg.data.records import Record
from frozenseg.data.transforms import seeded_generator

NUM_PAIRS = 1000
SEED = 0

Pairs = Callable[[list[Record]], list[Record]]
"""Takes records of `select_classes` and returns those that are scored, with `scored` set."""


def oslsm_pairs(records: list[Record]) -> list[Record]:
    """Query each image only for the classes of its list, even if its annotation has others."""
    return [replace(record, scored=_listed(record)) for record in records]


def first_pairs(records: list[Record]) -> list[Record]:
    """Return the first `NUM_PAIRS` pairs in the order of file names, then of classes."""
    left = NUM_PAIRS
    chosen: list[Record] = []
    for record in sorted(records, key=lambda record: os.path.basename(record.image_path)):
        visible = _visible(record)[:left]
        if visible:
            chosen.append(replace(record, scored=visible))
        left -= len(visible)
        if not left:
            break
    return chosen


def drawn_pairs(records: list[Record]) -> list[Record]:
    """Make `NUM_PAIRS` draws, each of a class and then of an image that contains it."""
    images: dict[int, list[Record]] = {}
    for record in records:
        for class_id in _listed(record):
            images.setdefault(class_id, []).append(record)
    chance = seeded_generator(SEED)
    chosen: list[Record] = []
    while images and len(chosen) < NUM_PAIRS:
        class_id = sorted(images)[int(chance.integers(len(images)))]
        row = int(chance.integers(len(images[class_id])))
        record = images[class_id][row]
        if class_id in _visible(record):
            chosen.append(replace(record, scored=(class_id,)))
            continue
        del images[class_id][row]  # other objects cover the class completely
        if not images[class_id]:
            del images[class_id]
    return chosen


PAIRS: dict[str, Pairs] = {
    "all": list,  # each image is queried for all classes of its annotation
    "oslsm": oslsm_pairs,
    "first_1000": first_pairs,
    "hsnet_1000": drawn_pairs,
}


def _listed(record: Record) -> tuple[int, ...]:
    """Return the selected classes that an image contains."""
    assert record.present is not None, "a record of `select_classes`"
    return record.present


def _visible(record: Record) -> tuple[int, ...]:
    """Return the selected classes that have a pixel: other objects may cover a class completely."""
    return tuple(present_classes(load_semantic(record)))
