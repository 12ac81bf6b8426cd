"""Is a benchmark in place and whole, and are its labels what the metrics take them for?

Wrong preparation shows in no error, only in scores near 0: labels shifted by one, another value
for "unlabelled", half of the images. What can be wrong is named here before a model runs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frozenseg.data.annotations import VOID_CLASS, load_panoptic, load_semantic
from frozenseg.data.benchmarks import Benchmark, asked_for, benchmark_vocabulary, read_whole
from frozenseg.data.images import read_image
from frozenseg.data.label_maps import read_labels
from frozenseg.data.prepare import CONVERSIONS
from frozenseg.data.prepare.labels import LabelConversion
from frozenseg.data.readers import cityscapes_file
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP

OTHER_NAMES = 0.2  # share of classes whose name in an annotation is no synonym in our list
AGREEMENT = 0.5  # of two annotations of one image; real ones differ on the borders of objects


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. wrong: whether it has to be put right before a run."""

    text: str
    wrong: bool = False
    missing: bool = False


def missing_parts(benchmark: Benchmark, root: Path) -> list[Finding]:
    """The files and folders of a row that are not there."""
    own_list = benchmark.vocabulary if benchmark.vocabulary.endswith(".txt") else ""
    # COCO's and Mapillary's label maps can be derived; ADE20K's hold more than its objects do
    maps = benchmark.semantic_labels if benchmark.prepared_by else ""
    return [
        *_absent(root, benchmark.images, "no images"),
        *_absent(root, benchmark.annotations, "no annotation"),
        *_absent(root, benchmark.labels, "no labels"),
        *_absent(root, maps, "no label maps"),
        *_absent(root, own_list, "no class list"),
        *_absent(root, benchmark.present, "no list of the classes in each image"),
        *_missing_instances(benchmark, root),
    ]


def _missing_instances(benchmark: Benchmark, root: Path) -> list[Finding]:
    return _absent(root, benchmark.instances, "no instance annotation, so no AP")


def _absent(root: Path, path: str, what: str) -> list[Finding]:
    if not path or (root / path).exists():
        return []
    return [Finding(f"{root / path}: not there: {what}", wrong=True, missing=True)]


def check(benchmark: Benchmark, root: Path, *, sample: int = 20) -> Iterator[Finding]:
    """All findings, one after the other. sample: images that are decoded, 0 for all of them."""
    missing = missing_parts(benchmark, root)
    yield from missing
    if missing != _missing_instances(benchmark, root):
        return
    try:
        whole = read_whole(benchmark, root)
        records, categories = asked_for(benchmark, root, *whole)
    except UserError as error:
        yield Finding(str(error), wrong=True)
        return
    yield _count(benchmark, len(whole[0]))
    if benchmark.classes:
        yield Finding(f"{len(records)} of these images have a class that is asked for")
    yield _classes(benchmark, root, categories)
    chosen = _spread(records, sample)
    yield from _decoded(benchmark, root, chosen)
    if not missing:
        yield from _instances(benchmark, root, records, categories)


def _count(benchmark: Benchmark, found: int) -> Finding:
    if not benchmark.counts or found in benchmark.counts:
        return Finding(f"{found} images with annotation")
    return Finding(
        f"{found} images with annotation, but the published set has {benchmark.counts[0]}: "
        "copy or prepare the rest",
        wrong=True,
    )


def _classes(benchmark: Benchmark, root: Path, categories: Categories) -> Finding:
    vocabulary = benchmark_vocabulary(benchmark, root)
    if vocabulary is None:
        return Finding(f"{len(categories)} classes, named by the annotation")
    if len(vocabulary) != len(categories):
        text = f"the annotation has {len(categories)} classes, the class list {len(vocabulary)}"
        return Finding(text, wrong=True)
    strangers = [
        f"{name!r} for {names[0]!r}"
        for name, names in zip(categories.names, vocabulary.names, strict=True)
        if _words(name).isdisjoint(_words(*names))
    ]
    if len(strangers) > OTHER_NAMES * len(categories):
        return Finding(
            f"the annotation names {len(strangers)} of {len(categories)} classes otherwise than "
            f"the class list, {strangers[0]} first: it has other classes or another order",
            wrong=True,
        )
    return Finding(f"{len(categories)} classes, in the order of their list")


def _words(*names: str) -> set[str]:
    return {word for name in names for word in re.findall(r"[a-z]+", name.lower())}


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """`count` records from the first to the last."""
    if not count or count >= len(records):
        return list(records)
    places = np.linspace(0, len(records) - 1, count).round().astype(int)
    return [records[place] for place in places]


def _decoded(benchmark: Benchmark, root: Path, records: list[Record]) -> Iterator[Finding]:
    """Every problem of the sample, each kind once."""
    sources = _published_maps(benchmark, root)
    seen: set[str] = set()
    for record in records:
        for kind, text in _problems(record, sources):
            if kind not in seen:
                seen.add(kind)
                yield Finding(text, wrong=True)
    if not seen:
        compared = ", label maps compared with the published ones" if sources else ""
        yield Finding(f"{len(records)} images and annotations decoded{compared}")


@dataclass(frozen=True)
class _Published:
    """The files that the label maps of a row were made from, where they are still there."""

    conversion: LabelConversion
    files: dict[str, Path]


def _published_maps(benchmark: Benchmark, root: Path) -> _Published | None:
    folder = benchmark.labels if benchmark.reader == "semantic" else benchmark.semantic_labels
    target, split = str(Path(folder).parent), Path(folder).name
    for conversion in CONVERSIONS:
        if conversion.target == target:
            try:
                return _Published(conversion, conversion.sources(root, split))
            except UserError:
                return None
    return None


def _problems(record: Record, sources: _Published | None) -> Iterator[tuple[str, str]]:
    """(kind, message) of what is wrong with one image."""
    try:
        size = read_image(record.image_path).shape[:2]
        if record.height is not None and size != (record.height, record.width):
            yield (
                "image size",
                f"{record.image_path}: is {size[0]} x {size[1]} (height x width), its annotation "
                f"says {record.height} x {record.width}",
            )
        classes = None
        if record.panoptic_path is not None:
            ids, segments = load_panoptic(record)
            if ids.shape != size:
                yield "size", f"{record.panoptic_path}: is of another size than its image"
                return
            absent = np.setdiff1d(segments.ids, ids)
            if absent.size:
                yield (
                    "segments",
                    f"{record.panoptic_path}: has no pixel of segment {absent[0]}, which the "
                    "JSON lists; picture and JSON do not belong together",
                )
            classes = _classes_of(ids, segments.ids, segments.class_ids)
        if record.instances is not None:
            load_semantic(record)
        if record.semantic_path is not None:
            labels = read_labels(record.semantic_path)
            if labels.shape != size:
                yield "size", f"{record.semantic_path}: is of another size than its image"
                return
            problem = _label_problem(record, labels.astype(np.int64), classes, sources)
            if problem:
                yield "labels", f"{record.semantic_path}: {problem}"
    except UserError as error:
        yield "unreadable", str(error)


def _classes_of(ids: np.ndarray, segment_ids: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """(H, W) class ids of panoptic ids, `VOID_CLASS` where there is none."""
    order = np.argsort(segment_ids)
    known = np.concatenate([[0], segment_ids[order]])
    values = np.concatenate([[VOID_CLASS], class_ids[order]])
    return values[np.searchsorted(known, ids)]


def _label_problem(
    record: Record,
    labels: np.ndarray,
    classes: np.ndarray | None,
    sources: _Published | None,
) -> str:
    """What is wrong with a label map, "" if nothing is."""
    path = sources.files.get(Path(str(record.semantic_path)).stem) if sources else None
    if sources and path is not None and path.is_file():
        return _beside_source(labels, sources.conversion.convert(path).astype(np.int64), record)
    ignore, num_classes = record.semantic_ignore, record.num_classes
    special = (labels == ignore) | (labels == record.semantic_background)
    outside = np.unique(labels[((labels < 0) | (labels >= num_classes)) & ~special])
    if classes is not None:
        both = (classes != VOID_CLASS) & (labels != ignore)
        agree = {step: _share(labels[both] == classes[both] + step) for step in (0, 1, -1)}
        if max(agree[1], agree[-1]) > agree[0]:
            return "labels are shifted by one beside the panoptic annotation; prepare them again"
        if both.any() and agree[0] < AGREEMENT and not outside.size:
            return f"agrees with the panoptic annotation on {agree[0]:.0%} of the pixels only"
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


def _beside_source(labels: np.ndarray, expected: np.ndarray, record: Record) -> str:
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


def _instances(
    benchmark: Benchmark, root: Path, records: list[Record], categories: Categories
) -> Iterator[Finding]:
    """The annotation that AP needs, read as its metric reads it."""
    try:
        if "lvis" in benchmark.evaluators:
            LvisAP(ground_truth=root / benchmark.annotations)
            yield Finding("LVIS annotation: frequencies and lists of absent classes are there")
        elif "cityscapes" in benchmark.evaluators:
            yield _cityscapes_instances(root / benchmark.instances, records)
        elif "instances" in benchmark.tasks:
            path = root / (benchmark.instances or benchmark.annotations)
            metric = InstanceAP(ground_truth=path)
            yield _beside_records(path, set(metric.sizes), metric.category_ids, records, categories)
    except UserError as error:
        yield Finding(str(error), wrong=True)


def _beside_records(
    path: Path,
    image_ids: set[int | str],
    category_ids: set[int],
    records: list[Record],
    categories: Categories,
) -> Finding:
    things = {i for i, t in zip(categories.dataset_ids, categories.is_thing, strict=True) if t}
    if category_ids != things:
        return Finding(
            f"{path}: has {len(category_ids)} classes, not the {len(things)} that are things in "
            "the panoptic annotation; make both again",
            wrong=True,
        )
    absent = {record.image_id for record in records} - image_ids
    if absent:
        return Finding(
            f"{path}: lacks {len(absent)} of {len(records)} images of the panoptic annotation; "
            "make both again",
            wrong=True,
        )
    return Finding(f"instance annotation of {len(image_ids)} images, {len(category_ids)} classes")


def _cityscapes_instances(folder: Path, records: list[Record]) -> Finding:
    paths = [folder / cityscapes_file(r.image_id, "gtFine_instanceIds") for r in records]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        text = f"{absent[0]}: no such file ({len(absent)} of {len(paths)}); AP needs them"
        return Finding(text, wrong=True)
    return Finding(f"{len(paths)} instance pictures")
