"""Some classes of a data set alone, as the folds of the few-shot benchmarks want it."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from frozenseg.data.annotations import load_semantic, present_classes
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.files import read_json

Present = Callable[[Record], Collection[int]]
"""The class ids that an image holds."""


def select_classes(
    records: list[Record], categories: Categories, classes: tuple[int, ...], present: Present
) -> tuple[list[Record], Categories]:
    """The images with one of `classes`, which are the only ones left; others are background."""
    kept = []
    for record in records:
        held = frozenset(present(record))
        found = tuple(place for place, class_id in enumerate(classes) if class_id in held)
        if found:
            kept.append(replace(record, classes=classes, present=found))
    return kept, categories.select(classes)


def training_pairs(records: list[Record]) -> list[Record]:
    """Each record once for every class that its image holds, which it is then `asked` for.

    Label maps are read where a record does not know what its image holds.
    """
    return [
        replace(record, asked=class_id)
        for record in records
        for class_id in (
            present_classes(load_semantic(record)) if record.present is None else record.present
        )
    ]


def objects_present(record: Record) -> set[int]:
    """The classes of the objects in an instance JSON."""
    assert record.instances is not None, "a record of an instance JSON"
    return set(record.instances.class_ids.tolist())


def listed_present(path: Path, records: list[Record], script: str) -> Present:
    """The classes that a preparation has found in label maps: {stem: [class ids]}."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run frozenseg prepare_dataset {script}")
    listed: Any = read_json(path)
    stems = {record.image_id for record in records}
    if not isinstance(listed, dict) or listed.keys() != stems:
        raise UserError(
            f"{path}: does not list the {len(stems)} label maps that are there; "
            f"run frozenseg prepare_dataset {script} --again"
        )
    return lambda record: listed[record.image_id]
