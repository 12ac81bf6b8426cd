"""Read the records of a benchmark: all of its files, then the classes that its row selects."""

from collections.abc import Callable, Iterable
from pathlib import Path

from frozenseg.data.benchmarks.class_names import categories_of_files, marked
from frozenseg.data.benchmarks.row import Benchmark, Reader
from frozenseg.data.benchmarks.scored_pairs import PAIRS
from frozenseg.data.benchmarks.selection import listed_present, objects_present, select_classes
from frozenseg.data.benchmarks.table import BENCHMARKS, data_root, find_benchmark
from frozenseg.data.benchmarks.unlabelled import read_unlabelled
from frozenseg.data.polygon_files import polygon_content
from frozenseg.data.readers import (
    cityscapes_name,
    coco_name,
    instance_records,
    read_instances,
    read_panoptic,
    read_semantic,
)
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.files import shipped


def load_records(name: str, root: Path | None = None) -> tuple[list[Record], Categories]:
    """Read the records and categories of a dataset; JSON and file names are checked, not pixels.

    root: the data root, by default `data_root()`.
    """
    root = data_root() if root is None else root
    row = find_benchmark(name).located(root)
    parts = (row.annotations, row.images, row.labels, row.own_list, row.present, *row.image_sources)
    require_in_place(name, parts, root)
    return read_benchmark(row, root)


def require_in_place(name: str, paths: Iterable[str], root: Path) -> None:
    """Check that files and folders of a dataset exist; else raise `UserError` with the remedy.

    paths: relative to `root`; "" for none.
    """
    absent = [root / path for path in paths if path and not (root / path).exists()]
    if absent and name not in BENCHMARKS:
        raise UserError(f"{absent[0]}: no such file or folder; correct it in {name}")
    if absent:
        raise UserError(
            f"{absent[0]}: no such file or folder; {name} is looked for below {root} (set "
            "$DETECTRON2_DATASETS to look elsewhere): frozenseg check_dataset "
            f"{name} says what is missing, {shipped('datasets')}/README.md where to get it"
        )


def read_benchmark(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """Read the records and categories of one row of the table."""
    return select_benchmark_classes(benchmark, root, *read_all_classes(benchmark, root))


def select_benchmark_classes(
    benchmark: Benchmark, root: Path, records: list[Record], categories: Categories
) -> tuple[list[Record], Categories]:
    """Keep the classes of this row, and the images that contain at least one of them.

    records, categories: those of `read_all_classes`.
    """
    if not benchmark.classes:
        return records, categories
    if benchmark.present:
        present = listed_present(root / benchmark.present, records, benchmark.prepared_by)
    else:
        present = objects_present
    if max(benchmark.classes) >= len(categories):
        raise UserError(
            f"{root / benchmark.truth}: has {len(categories)} classes, "
            f"but number {max(benchmark.classes)} is selected; is it another data set?"
        )
    kept, chosen = select_classes(records, categories, benchmark.classes, present)
    kept = PAIRS[benchmark.pairs](kept)
    if not kept:
        raise UserError(f"{root / benchmark.images}: no image has one of {', '.join(chosen.names)}")
    return kept, chosen


def read_all_classes(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """Read all records and categories in the files of a row, before its `classes` are selected."""
    benchmark = benchmark.located(root)
    records, categories = READERS[benchmark.reader](benchmark, root)
    return records, marked(categories, benchmark, root)


def _panoptic(row: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    maps = root / row.semantic_labels
    return read_panoptic(
        root / row.annotations,
        root / row.labels,
        root / row.images,
        semantic_dir=maps if row.semantic_labels and maps.is_dir() else None,
        ignore=row.ignore,
        image_name=cityscapes_name if row.image_names == "cityscapes" else coco_name,
        # Mapillary's JSON has height and width exchanged (mapillary_vistas issue 16).
        image_suffix=".jpg" if row.image_names == "mapillary" else "",
        needs_flags=row.things is None,
    )


def _instances(row: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    return read_instances(root / row.annotations, root / row.images)


def _semantic(row: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    categories = categories_of_files(row, root)
    return read_semantic(
        root / row.images,
        root / row.labels,
        categories,
        ignore=row.ignore,
        background=row.background,
    )


def _polygons(row: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    content = polygon_content(row.image_sources, row.images, categories_of_files(row, root).names)
    return instance_records(content, Path(row.images), Path(row.images))


READERS: dict[Reader, Callable[[Benchmark, Path], tuple[list[Record], Categories]]] = {
    "panoptic": _panoptic,
    "instances": _instances,
    "semantic": _semantic,
    "polygons": _polygons,
    "images": read_unlabelled,
}
"""The reader of each annotation format; it takes a row that `Benchmark.located` has returned."""
