"""Benchmarks: the table of published datasets, and how to find, read and name one.

- `table`: the names and their rows. The rows are in `rows` and, few-shot ones, in `few_shot_rows`.
- `row`: the fields of a row.
- `reading`: the records of a row. `selection`, `scored_pairs` and `folds` serve few-shot rows.
- `class_names`: the categories of a row and their names.
"""

from frozenseg.data.benchmarks.class_names import (
    benchmark_categories,
    benchmark_vocabulary,
    class_names,
    name_categories,
)
from frozenseg.data.benchmarks.reading import (
    load_records,
    read_all_classes,
    read_benchmark,
    require_in_place,
    select_benchmark_classes,
)
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.table import (
    BENCHMARKS,
    OWN_FORMS,
    data_root,
    find_benchmark,
    is_data_set,
    register_benchmark,
)

__all__ = [
    "BENCHMARKS",
    "OWN_FORMS",
    "Benchmark",
    "benchmark_categories",
    "benchmark_vocabulary",
    "class_names",
    "data_root",
    "find_benchmark",
    "is_data_set",
    "load_records",
    "name_categories",
    "read_all_classes",
    "read_benchmark",
    "register_benchmark",
    "require_in_place",
    "select_benchmark_classes",
]
