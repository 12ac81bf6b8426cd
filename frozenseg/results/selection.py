"""Select segments and instances by score and by class, and list segments as objects."""

from collections.abc import Iterable
from dataclasses import replace
from numbers import Real

import numpy as np

from frozenseg.errors import UserValueError, nearest
from frozenseg.structures import InstanceResult, PanopticResult, Segment
from frozenseg.text.names import shown, spelling
from frozenseg.text.vocabulary import Source, Vocabulary

# The default score threshold of results, as in other tools; benchmarks are scored without it.
THRESHOLD = 0.25


def checked_threshold(threshold: float) -> float:
    """Return a score threshold as a float; raise `UserError` unless it is a number from 0 to 1."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise UserValueError(f"threshold {shown(threshold)}: must be a number from 0 to 1")
    if not 0 <= threshold <= 1:
        raise UserValueError(f"threshold {shown(threshold)}: must lie in 0-1")
    return float(threshold)


def classes_named(vocabulary: Vocabulary, names: Source) -> set[int]:
    """Return the ids of the classes that have one of these names.

    Names are compared by `spelling`. Raises `UserError` for a name that no class has.
    """
    known = {spelling(name) for name in vocabulary.flat_names}
    wanted = Vocabulary.parse(names).flat_names
    if unknown := [name for name in wanted if spelling(name) not in known]:
        hint = nearest(unknown[0], vocabulary.flat_names)
        raise UserValueError(f"names: {shown(unknown[0])} is not in the vocabulary; {hint}")
    spellings = {spelling(name) for name in wanted}
    groups = enumerate(vocabulary.names)
    return {index for index, group in groups if not spellings.isdisjoint(map(spelling, group))}


def keep_segments(found: PanopticResult, kept: Iterable[Segment]) -> PanopticResult:
    """Return only the segments `kept`; the pixels of all others become 0.

    The segments are numbered from 1 again, except in a video, where the numbers are identities.
    """
    segments = list(kept)
    if len(segments) == len(found.segments):
        return found
    tracked = any(segment.track_id is not None for segment in segments)
    numbered = [
        segment if tracked else replace(segment, id=number)
        for number, segment in enumerate(segments, 1)
    ]
    numbers = np.zeros(int(found.ids.max(initial=0)) + 1, dtype=np.int32)
    numbers[[segment.id for segment in segments]] = [segment.id for segment in numbered]
    return PanopticResult(numbers[found.ids], numbered)


def keep_instances(found: InstanceResult, kept: np.ndarray) -> InstanceResult:
    """Return only the instances where `kept`, (N,) bool, is true."""
    if kept.all():
        return found
    return InstanceResult(
        boxes=found.boxes[kept],
        masks=found.masks[kept],
        scores=found.scores[kept],
        class_ids=found.class_ids[kept],
        names=[found.names[index] for index in np.flatnonzero(kept)],
    )


def has_pixels(found: InstanceResult) -> np.ndarray:
    """Return (N,) bool, whether each instance has a non-empty mask and a score above 0."""
    return (found.boxes[:, 2] > found.boxes[:, 0]) & (found.scores > 0)


def segments_as_instances(found: PanopticResult) -> InstanceResult:
    """List the segments of a panoptic result, things and stuff, as N objects with masks."""
    segments = found.segments
    numbers = np.array([segment.id for segment in segments], dtype=np.int32)
    return InstanceResult(
        boxes=np.array([segment.box for segment in segments], dtype=np.float32).reshape(-1, 4),
        masks=found.ids == numbers[:, None, None],
        scores=np.array([segment.score for segment in segments], dtype=np.float32),
        class_ids=np.array([segment.class_id for segment in segments], dtype=np.int64),
        names=[segment.name for segment in segments],
    )
