"""Select some classes of a dataset, as the folds of the few-shot benchmarks need."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from frozenseg.data.annotations import load_semantic, present_classes
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.files import read_json

Present = Callable[[Record], Collection[int]]
"""Returns the class ids that the image of a record contains."""


def select_classes(
    records: list[Record], categories: Categories, classes: tuple[int, ...], present: Present
) -> tuple[list[Record], Categories]:
    """Keep the images that contain one of `classes`; all other classes become background."""
    kept = []
    for record in records:
        in_image = frozenset(present(record))
        selected = tuple(i for i, class_id in enumerate(classes) if class_id in in_image)
        if selected:
            kept.append(replace(record, classes=classes, present=selected))
    return kept, categories.select(classes)


def training_pairs(records: list[Record]) -> list[Record]:
    """Return one record for every pair of an image and a class in it; `Record.asked` is the class.

    Label maps are read where `Record.present` is None.
    """
    pairs = []
    for record in records:
        present = record.present
        classes = present_classes(load_semantic(record)) if present is None else present
        pairs += [replace(record, asked=class_id) for class_id in classes]
    return pairs


def objects_present(record: Record) -> set[int]:
    """Return the classes of the objects in an instance JSON."""
    assert record.instances is not None, "a record of an instance JSON"
    return set(record.instances.class_ids.tolist())


def listed_present(path: Path, records: list[Record], script: str) -> Present:
    """Look up the classes that a preparation found in each label map.

    path: a JSON file {stem: [class ids]}. script: the arguments of `prepare_dataset` that make it,
    for messages.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run frozenseg prepare_dataset {script}")
    listed: Any = read_json(path)
    stems = {record.image_id for record in records}
    sound = isinstance(listed, dict) and all(map(_is_whole_numbers, listed.values()))
    if not sound or listed.keys() != stems:
        raise UserError(
            f"{path}: does not list the classes of the {len(stems)} label maps that are there; "
            f"run frozenseg prepare_dataset {script} --again"
        )
    return lambda record: listed[record.image_id]


def _is_whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is int for entry in value)
