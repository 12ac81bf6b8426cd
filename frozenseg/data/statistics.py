"""Count what a data set holds, without reading any image or label map."""

from collections.abc import Sequence

import numpy as np

from frozenseg.data.records import Record


def class_counts(records: Sequence[Record], num_classes: int) -> tuple[str, np.ndarray] | None:
    """Return what was counted, "objects" or "images", and how many there are of each class (K,).

    Returns None where only label maps hold the classes. Crowd regions are not counted.
    """
    if all(record.present is not None for record in records):
        ids = [np.array(record.present, dtype=int) for record in records]
        return "images", np.bincount(np.concatenate(ids), minlength=num_classes)
    listed = [r.instances if r.segments is None else r.segments for r in records]
    if any(objects is None for objects in listed):
        return None
    ids = [objects.class_ids[~objects.is_crowd] for objects in listed if objects is not None]
    return "objects", np.bincount(np.concatenate(ids), minlength=num_classes)


def counts_line(records: Sequence[Record], names: Sequence[str]) -> str:
    """Say how many objects or images there are of each class, the most frequent class first."""
    counted = class_counts(records, len(names))
    if counted is None:
        return "the frequency of each class is known only from the label maps, which are not read"
    what, counts = counted
    order = np.argsort(-counts, kind="stable")
    frequent = ", ".join(f"{names[i]} {counts[i]}" for i in order if counts[i])
    absent = ", ".join(names[i] for i in order if not counts[i])
    return f"{what} by class: {frequent}" + (f"; none of: {absent}" if absent else "")
