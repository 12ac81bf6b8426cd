"""The categories of a benchmark and the names of its classes."""

from dataclasses import replace
from pathlib import Path

from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.coco_json import read_categories
from frozenseg.data.records import Categories
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.notes import note
from frozenseg.text.joining import join, join_by_order
from frozenseg.text.vocabulary import Vocabulary


def benchmark_categories(benchmark: Benchmark, root: Path) -> Categories:
    """Read only the categories of a row, without its records."""
    categories = categories_of_files(benchmark, root)
    return categories.select(benchmark.classes) if benchmark.classes else categories


def categories_of_files(benchmark: Benchmark, root: Path) -> Categories:
    """Read all categories in the files of a row, also those that its `classes` do not select."""
    benchmark = benchmark.located(root)
    if benchmark.annotations:
        path = root / benchmark.annotations
        return marked(read_categories(read_json(path), str(path)), benchmark, root)
    vocabulary = _whole_vocabulary(benchmark, root)
    assert vocabulary is not None, "a row without an annotation file names its classes"
    if not benchmark.prepared_by:
        _check_numbers(vocabulary)
    count = len(vocabulary)
    # Classes of polygons are things, as in an instance JSON, even if COCO calls them stuff.
    flags = (True,) * count if benchmark.reader == "polygons" else vocabulary.is_thing
    categories = Categories(tuple(vocabulary.labels), flags, tuple(range(count)))
    return marked(categories, benchmark, root)


def marked(categories: Categories, benchmark: Benchmark, root: Path) -> Categories:
    """Return the categories with `is_thing` set by the `things` of a row, if it names any."""
    if benchmark.things is None:
        return categories
    words = name_categories(categories, str(root / benchmark.truth), listed=benchmark.class_list)
    is_thing = Vocabulary.parse(words, things=benchmark.things).is_thing
    return replace(categories, is_thing=is_thing)


def _check_numbers(vocabulary: Vocabulary) -> None:
    """Compare the numbers in a class list with label maps, which count classes from 0.

    Many published lists count from 1, which gives a warning; other numbers raise `UserError`.
    """
    source, size, numbers = vocabulary.source, len(vocabulary), vocabulary.ids
    if numbers == tuple(range(1, size + 1)):
        note(f"{source}: counts from 1, label maps from 0: label 0 is {vocabulary.labels[0]!r}")
    elif numbers not in (None, tuple(range(size))):
        raise UserError(
            f"{source}: its {size} classes are not numbered 0 to {size - 1}, as label maps number "
            "them; correct the numbers, or leave them out"
        )


def benchmark_vocabulary(benchmark: Benchmark, root: Path) -> Vocabulary | None:
    """Read the class list of a row; None if it has none of its own."""
    vocabulary = _whole_vocabulary(benchmark, root)
    if vocabulary is None or not benchmark.classes:
        return vocabulary
    return vocabulary.select(benchmark.classes)


def _whole_vocabulary(benchmark: Benchmark, root: Path) -> Vocabulary | None:
    if benchmark.class_list is not None:
        return benchmark.class_list
    if not benchmark.own_list:
        return Vocabulary.packaged(benchmark.vocabulary) if benchmark.vocabulary else None
    path = root / benchmark.vocabulary
    if not path.is_file():
        script = benchmark.prepared_by
        remedy = f"run frozenseg prepare_dataset {script}" if script else "list the classes there"
        raise UserError(f"{path}: no such file; {remedy}")
    # A-847 and PC-459 have classes that share a name.
    return Vocabulary.from_file(path, may_repeat=True)


def class_names(
    benchmark: Benchmark,
    root: Path,
    categories: Categories,
    *,
    listed: Vocabulary | None = None,
    by_order: bool = False,
) -> Vocabulary:
    """Return the names of a data set's classes, in the order of its class ids.

    Training, evaluation, checks and the detectron2 adapter all name classes with this function.

    listed: a list that replaces the row's own; without either, the annotation names the classes.
    by_order: join the list to the classes by the order of their ids, even if the names differ.
    """
    annotation, listed = str(root / benchmark.truth), listed or benchmark.class_list
    own = benchmark_vocabulary(benchmark, root) if listed is None else None
    if own is not None:
        joined = join(own, categories.names, categories.dataset_ids, annotation, in_order=True)
        return replace(joined, is_thing=categories.is_thing)
    return name_categories(categories, annotation, listed=listed, by_order=by_order)


def name_categories(
    categories: Categories, annotation: str, *, listed: Vocabulary | None, by_order: bool = False
) -> Vocabulary:
    """Name categories of any source as `class_names` does.

    annotation: the file that they come from, for messages.
    """
    names, ids = categories.names, categories.dataset_ids
    if listed is None:
        return Vocabulary.of_categories(names, categories.is_thing, ids, annotation)
    joined = (join_by_order if by_order else join)(listed, names, ids, annotation)
    return replace(joined, is_thing=categories.is_thing)
