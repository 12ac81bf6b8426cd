"""Decode some images and annotations and check that they hold what the metrics assume.

Each kind of fault is reported once. Variants that are not faults are counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from frozenseg.data import annotations
from frozenseg.data.annotations import VOID_CLASS, load_image
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.images import open_image, orientation
from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare import CONVERSIONS
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError

# The smallest share of pixels on which two annotations of one image must agree; real annotations
# differ at the borders of objects.
AGREEMENT = 0.5
# The keys of `Comparison.notes`: variants that are not faults.
COVERED = (
    "segments of stuff are listed without a pixel, as in files of Mask2Former and FC-CLIP where "
    "objects cover them; they count as missed, as in panopticapi"
)
ORIGINAL, SHRUNK = "images larger than published", "images shrunk as published"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    text: one line. wrong: whether it must be corrected before a run. missing: whether a file or
    folder is missing.
    """

    text: str
    wrong: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Source:
    """The published files that the label maps of a row were made from, by stem."""

    conversion: LabelConversion
    files: dict[str, Path]


@dataclass(frozen=True)
class Comparison:
    """What decoded images are compared with. notes: counts of variants that are not faults."""

    benchmark: Benchmark
    is_thing: np.ndarray
    source: Source | None
    notes: Counter[str] = field(default_factory=Counter)


def decoded(
    benchmark: Benchmark, root: Path, records: list[Record], categories: Categories
) -> Iterator[Finding]:
    """Yield the faults of the records, each kind once, and the counts of other variants."""
    things = np.array(categories.is_thing, dtype=bool)
    sample = Comparison(benchmark, things, _source(benchmark, root))
    seen: set[str] = set()
    for record in records:
        for fault, text in _problems(record, sample):
            if fault not in seen:
                seen.add(fault)
                yield Finding(text, wrong=True)
    if sample.notes[COVERED]:
        yield Finding(f"{sample.notes[COVERED]} {COVERED}")
    if benchmark.short_side is not None:
        yield _sizes(benchmark.short_side, sample.notes)
    if not seen:
        compared = ", label maps compared with the published ones" if sample.source else ""
        what = "images" if benchmark.reader == "images" else "images and annotations"
        yield Finding(f"{len(records)} {what} decoded{compared}")
    yield from _turns(records)


def _turns(records: list[Record]) -> Iterator[Finding]:
    """Count the pictures that are stored turned, and how many may be annotated as stored."""
    to_turn, unknown = 0, 0
    for record in records:
        try:
            with open_image(record.image_path) as image:
                turn, size = orientation(image), (image.height, image.width)
            if turn == 1:
                continue
            to_turn += 1
            alike = turn < 5 or size[0] == size[1]  # before and after the turn
            unknown += alike and annotations.annotated_size(record) == size
        except UserError:
            continue  # `_problems` reports it
    if to_turn:
        yield Finding(
            f"{to_turn} of {len(records)} pictures are stored turned (EXIF orientation). For "
            f"{unknown} of them the size does not show whether the annotation is of the upright "
            "picture: they are turned upright"
        )


def _sizes(short_side: int, notes: Counter[str]) -> Finding:
    """Say whether images and label maps have the published or their original size."""
    if notes[ORIGINAL] and notes[SHRUNK]:
        return Finding(
            f"{notes[ORIGINAL]} images are in their original size, {notes[SHRUNK]} are shrunk to a "
            f"shorter side of {short_side}: prepare all of them in the same way",
            wrong=True,
        )
    if notes[ORIGINAL]:
        return Finding(
            f"images are in their original size, {notes[ORIGINAL]} of them larger than published: "
            f"published numbers are for images shrunk to a shorter side of {short_side}"
        )
    return Finding(f"no image has a shorter side above {short_side}, as published")


def _source(benchmark: Benchmark, root: Path) -> Source | None:
    folder = benchmark.labels if benchmark.reader == "semantic" else benchmark.semantic_labels
    target, split = str(Path(folder).parent), Path(folder).name
    for conversion in CONVERSIONS:
        if conversion.target == target:
            try:
                return Source(conversion, conversion.sources(root, split))
            except UserError:  # the files that the label maps were made from need not be there
                return None
    return None


def _problems(record: Record, sample: Comparison) -> Iterator[tuple[str, str]]:
    """Yield (kind, message) of each fault of one image."""
    try:
        size = load_image(record).shape[:2]
        if record.height is not None and size != (record.height, record.width):
            yield (
                "image size",
                f"{record.image_path}: is {size[0]} x {size[1]} (height x width), its annotation "
                f"says {record.height} x {record.width}",
            )
        classes = None
        if record.panoptic_path is not None:
            sized = replace(record, height=size[0], width=size[1])
            ids, segments = annotations.load_panoptic(sized)
            absent, is_thing = ~np.isin(segments.ids, ids), sample.is_thing[segments.class_ids]
            sample.notes[COVERED] += int((absent & ~is_thing).sum())
            if (absent & is_thing).any():
                yield (
                    "segments",
                    f"{record.panoptic_path}: has no pixel of segment "
                    f"{segments.ids[absent & is_thing][0]}, which the JSON lists; the PNG and the "
                    "JSON do not belong together",
                )
            classes = _classes_of(ids, segments.ids, segments.class_ids)
        if record.instances is not None:
            annotations.load_semantic(record)
        if record.semantic_path is not None:
            labels = read_labels(record.semantic_path, size)
            problem = _label_problem(record, labels.astype(np.int64), classes, sample)
            if problem:
                yield "labels", f"{record.semantic_path}: {problem}"
    except UserError as error:
        yield "unreadable", str(error)


def _classes_of(ids: np.ndarray, segment_ids: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Map panoptic ids (H, W) to class ids, `VOID_CLASS` where there is none."""
    order = np.argsort(segment_ids)
    known = np.concatenate([[0], segment_ids[order]])
    values = np.concatenate([[VOID_CLASS], class_ids[order]])
    return values[np.searchsorted(known, ids)]


def _label_problem(
    record: Record, labels: np.ndarray, classes: np.ndarray | None, sample: Comparison
) -> str:
    """Describe what is wrong with a label map; "" if nothing is."""
    source = sample.source
    path = source.files.get(Path(str(record.semantic_path)).stem) if source else None
    if source and path is not None and path.is_file():
        expected = _expected(source.conversion, path, labels.shape, sample.notes)
        return _difference_to_source(labels, expected.astype(np.int64), record)
    short_side = sample.benchmark.short_side
    if short_side is not None and min(labels.shape) > short_side:
        sample.notes[ORIGINAL] += 1
    ignore, num_classes = record.semantic_ignore, record.num_classes
    # A background value of -1 means that the map has no background.
    background = (labels == record.semantic_background) & (labels >= 0)
    special = (labels == ignore) | background
    outside = np.unique(labels[((labels < 0) | (labels >= num_classes)) & ~special])
    if classes is not None:
        both = (classes != VOID_CLASS) & (labels != ignore)
        agree = {step: _share(labels[both] == classes[both] + step) for step in (0, 1, -1)}
        if max(agree[1], agree[-1]) > agree[0]:
            return "labels are shifted by one against the panoptic annotation; prepare them again"
        if both.any() and agree[0] < AGREEMENT and not outside.size:
            return f"agrees with the panoptic annotation on only {agree[0]:.0%} of the pixels"
    if not outside.size:
        return ""
    if outside.tolist() == [num_classes] and not (labels == ignore).any():
        return (
            f"holds label {num_classes}, classes are 0-{num_classes - 1}: labels are shifted by "
            "one; prepare them again"
        )
    return (
        f"holds {outside[-1]}, which is no class (0-{num_classes - 1}) and not the value of "
        f"unlabelled pixels, {ignore}; prepare it again"
    )


def _expected(
    conversion: LabelConversion, path: Path, size: tuple[int, ...], notes: Counter[str]
) -> np.ndarray:
    """Convert the published file again, in the original or the shrunk size, whichever `size` is."""
    expected = conversion.convert(path)
    if conversion.full_size is None:
        return expected
    full_size = conversion.full_size(path)
    if full_size.shape == expected.shape:
        return expected
    original = full_size.shape == size
    notes[ORIGINAL if original else SHRUNK] += 1
    return full_size if original else expected


def _difference_to_source(labels: np.ndarray, expected: np.ndarray, record: Record) -> str:
    """Describe how a label map differs from the converted published file; "" if it does not."""
    if labels.shape != expected.shape:
        return "is of another size than the published label map"
    ignore = record.semantic_ignore
    valid = expected != ignore
    of_class = valid & (expected != record.semantic_background)
    if of_class.any():
        for step in (1, -1):
            if (labels[of_class] == expected[of_class] + step).all():
                return (
                    f"labels are shifted by one: {expected[of_class][0]} is stored as "
                    f"{labels[of_class][0]}; prepare them again"
                )
    if valid.any():
        wrong = 1 - _share(labels[valid] == expected[valid])
        if wrong:
            return f"differs from the published label map on {wrong:.0%} of its labelled pixels"
    stray = np.unique(labels[~valid & (labels != ignore)])
    if stray.size:
        return f"unlabelled pixels hold {stray[0]}, {ignore} was expected; prepare it again"
    return ""


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
