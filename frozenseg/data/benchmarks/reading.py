"""Read the records of a benchmark: all of its files, then the classes that its row selects."""

from collections.abc import Iterable
from pathlib import Path

from frozenseg.data.benchmarks.class_names import categories_of_files
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.scored_pairs import PAIRS
from frozenseg.data.benchmarks.selection import listed_present, objects_present, select_classes
from frozenseg.data.benchmarks.table import BENCHMARKS, data_root, find_benchmark
from frozenseg.data.readers import (
    cityscapes_name,
    coco_name,
    read_instances,
    read_panoptic,
    read_semantic,
)
from frozenseg.data.records import Categories, Record
from frozenseg.errors import UserError
from frozenseg.files import shipped


def load_records(name: str, root: Path | None = None) -> tuple[list[Record], Categories]:
    """Read the records and categories of a dataset; they are checked as far as JSON and names tell.

    root: the data root, by default `data_root()`.
    """
    root = data_root() if root is None else root
    row = find_benchmark(name).located(root)
    own_list = row.vocabulary if row.vocabulary.endswith(".txt") else ""
    require_in_place(name, (row.annotations, row.images, row.labels, own_list, row.present), root)
    return read_benchmark(row, root)


def require_in_place(name: str, paths: Iterable[str], root: Path) -> None:
    """Check that files and folders of a dataset exist, or say what to do without them.

    paths: below `root`; "" for none.
    """
    absent = [root / path for path in paths if path and not (root / path).exists()]
    if absent and name not in BENCHMARKS:
        raise UserError(f"{absent[0]}: no such file or folder; correct it in {name}")
    if absent:
        raise UserError(
            f"{absent[0]}: no such file or folder; {name} is looked for below {root} (set "
            "$DETECTRON2_DATASETS to look elsewhere): frozenseg check_dataset "
            f"{name} says what is missing, {shipped('datasets')}/README.md where it comes from"
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
            f"{root / (benchmark.annotations or benchmark.labels)}: has {len(categories)} classes, "
            f"but number {max(benchmark.classes)} is selected; is it another data set?"
        )
    kept, chosen = select_classes(records, categories, benchmark.classes, present)
    kept = PAIRS[benchmark.pairs](kept)
    if not kept:
        raise UserError(f"{root / benchmark.images}: no image has one of {', '.join(chosen.names)}")
    return kept, chosen


def read_all_classes(benchmark: Benchmark, root: Path) -> tuple[list[Record], Categories]:
    """Read all records and categories in the files of a row, whatever its `classes`."""
    benchmark = benchmark.located(root)
    images, labels = root / benchmark.images, root / benchmark.labels
    ignore = benchmark.ignore
    if benchmark.reader == "instances":
        return read_instances(root / benchmark.annotations, images)
    if benchmark.reader == "semantic":
        categories = categories_of_files(benchmark, root)
        return read_semantic(
            images, labels, categories, ignore=ignore, background=benchmark.background
        )
    maps = root / benchmark.semantic_labels
    return read_panoptic(
        root / benchmark.annotations,
        labels,
        images,
        semantic_dir=maps if benchmark.semantic_labels and maps.is_dir() else None,
        ignore=ignore,
        image_name=cityscapes_name if benchmark.image_names == "cityscapes" else coco_name,
        # Mapillary's JSON has height and width exchanged (mapillary_vistas issue 16).
        image_suffix=".jpg" if benchmark.image_names == "mapillary" else "",
    )
