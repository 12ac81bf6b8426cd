"""Check that a benchmark is complete and that its labels mean what the metrics assume.

A wrong preparation raises no error and only shows in scores near 0: labels shifted by one, another
value for "unlabelled", half of the images. These checks name the fault before a model runs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from frozenseg.data.annotations import require_objects
from frozenseg.data.benchmarks import class_names, read_all_classes, select_benchmark_classes
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.coco_json import check_categories_agree
from frozenseg.data.detection_truth import Truth, load_lvis_truth, load_truth
from frozenseg.data.readers import cityscapes_file
from frozenseg.data.records import Categories, Record
from frozenseg.data.sample_checks import Finding, decoded
from frozenseg.errors import UserError

NO_AP = "no instance annotation, so no AP"


def missing_parts(benchmark: Benchmark, root: Path) -> list[Finding]:
    """List the files and folders of a row that are missing."""
    benchmark = benchmark.located(root)
    # COCO's and Mapillary's label maps can be derived from the panoptic annotation; ADE20K's
    # cannot, because they label more than its objects.
    maps = benchmark.semantic_labels if benchmark.prepared_by else ""
    parts = (
        (benchmark.images, "no images"),
        *((source, "no images") for source in benchmark.image_sources),
        (benchmark.annotations, "no annotation"),
        (benchmark.labels, "no labels"),
        (maps, "no label maps"),
        (benchmark.own_list, "no class list"),
        (benchmark.present, "no list of the classes in each image"),
        (benchmark.instances, NO_AP),
    )
    return [
        Finding(f"{root / path}: missing: {what}", wrong=True, missing=True)
        for path, what in parts
        if path and not (root / path).exists()
    ]


def check(benchmark: Benchmark, root: Path, *, sample: int = 20) -> Iterator[Finding]:
    """Check a row and yield the findings. sample: how many images are decoded; 0: all of them."""
    benchmark = benchmark.located(root)
    missing = missing_parts(benchmark, root)
    yield from missing
    if any(not finding.text.endswith(NO_AP) for finding in missing):
        return
    try:
        all_records, all_categories = read_all_classes(benchmark, root)
        records, categories = select_benchmark_classes(benchmark, root, all_records, all_categories)
    except UserError as error:
        yield Finding(str(error), wrong=True)
        return
    if benchmark.reader == "images":
        yield Finding(f"{len(all_records)} images, without annotation")
        yield Finding(class_names(benchmark, root, categories).summary())
        yield from decoded(benchmark, root, _spread(records, sample), categories)
        return
    yield _count(benchmark, len(all_records))
    try:
        require_objects(records, benchmark.targets, str(root / benchmark.truth))
    except UserError as error:
        yield Finding(str(error), wrong=True)
    if benchmark.classes:
        yield _selected(benchmark, records)
    try:
        yield Finding(class_names(benchmark, root, categories).summary())
    except UserError as error:
        yield Finding(str(error), wrong=True)
    yield from decoded(benchmark, root, _spread(records, sample), categories)
    if not missing:
        yield from _instances(benchmark, root, records, categories)


def _count(benchmark: Benchmark, count: int) -> Finding:
    text = f"{count} images with annotation"
    if benchmark.counts and count not in benchmark.counts:
        usual = next(iter(benchmark.counts))
        remedy = "copy or prepare the rest" if count < usual else "is it another split?"
        text += f", but the published set has {usual}: {remedy}"
        return Finding(text, wrong=True)
    others = [f"{whose}: {other}" for other, whose in benchmark.counts.items() if other != count]
    if others:
        text += f", the number of {benchmark.counts[count]} ({', '.join(others)})"
    return Finding(text)


def _selected(benchmark: Benchmark, records: Sequence[Record]) -> Finding:
    text = f"{len(records)} of these images contain one of the selected classes"
    if benchmark.pairs == "all":
        return Finding(text)
    pairs = sum(len(record.scored or ()) for record in records)
    return Finding(f"{pairs} pairs of image and class, by the protocol {benchmark.pairs}")


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """Choose `count` records, evenly from the first to the last."""
    if not count or count >= len(records):
        return list(records)
    rows = np.linspace(0, len(records) - 1, count).round().astype(int)
    return [records[row] for row in rows]


def _instances(
    benchmark: Benchmark, root: Path, records: list[Record], categories: Categories
) -> Iterator[Finding]:
    """Read the annotation that AP needs in the same way as its metric does."""
    try:
        if "lvis" in benchmark.evaluators:
            load_lvis_truth(root / benchmark.annotations, boxes=False)
            yield Finding("LVIS annotation: frequencies and lists of absent classes are present")
        elif "cityscapes" in benchmark.evaluators:
            yield _cityscapes_instances(root / benchmark.instances, records)
        elif "instances" in benchmark.tasks and benchmark.derives_objects:
            things = sum(categories.is_thing)
            yield Finding(f"AP is scored on the annotated objects of {things} classes")
        elif "instances" in benchmark.tasks:
            path = root / (benchmark.instances or benchmark.annotations)
            load_truth(path, boxes=True)
            truth = load_truth(path, boxes=False)
            if benchmark.instances:
                source = str(root / benchmark.annotations)
                check_categories_agree(truth.categories, categories, str(path), source)
                yield _compared_with_panoptic(path, truth, records, categories)
            else:  # the annotation of the row is itself the instance annotation
                yield Finding(f"instance annotation of {len(truth.sizes)} images, as AP reads it")
    except UserError as error:
        yield Finding(str(error), wrong=True)


def _compared_with_panoptic(
    path: Path, truth: Truth, records: list[Record], categories: Categories
) -> Finding:
    """Compare the instance annotation with the panoptic one."""
    category_ids, image_ids = set(truth.categories.dataset_ids), truth.sizes.keys()
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
    return Finding(f"{len(paths)} instance PNGs")
