"""Which pairs of image and class a few-shot benchmark scores: our own choice, and the published.

With oracle presence, a model is queried class by class and scored on pairs of an image and a class
in it. Papers score different pairs of the same images:

- `all`: every pair there is. Ours.
- `oslsm`: those of a list that a preparation makes by the rule of OSLSM (arXiv 1709.03410), which
  leaves out classes of a few pixels. Those of PASCAL-5i's published lists.
- `first_1000`: the first 1,000 pairs by file name, then class. Fusioner's of COCO-20i.
- `hsnet_1000`: 1,000 draws of a class, then of an image that has it; a pair may come twice.
  HSNet's (arXiv 2104.01538) of COCO-20i. Theirs come out of their lists and of numpy's old
  generator, ours from `SEED`: other draws by the same rule.
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


def all_pairs(records: list[Record]) -> list[Record]:
    """Return the records as they are: each is queried for all classes of its annotation."""
    return records


def oslsm_pairs(records: list[Record]) -> list[Record]:
    """Query each image for the classes of its list, whatever else is in its annotation."""
    return [replace(record, scored=_held(record)) for record in records]


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
    """Draw `NUM_PAIRS` times a class, then an image that contains it."""
    images: dict[int, list[Record]] = {}
    for record in records:
        for class_id in _held(record):
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
        del images[class_id][row]  # other objects cover it
        if not images[class_id]:
            del images[class_id]
    return chosen


PAIRS: dict[str, Pairs] = {
    "all": all_pairs,
    "oslsm": oslsm_pairs,
    "first_1000": first_pairs,
    "hsnet_1000": drawn_pairs,
}


def _held(record: Record) -> tuple[int, ...]:
    """Return the selected classes that an image contains."""
    assert record.present is not None, "a record of `select_classes`"
    return record.present


def _visible(record: Record) -> tuple[int, ...]:
    """Return those of them that have a pixel: other objects may cover an object wholly."""
    return tuple(present_classes(load_semantic(record)))
