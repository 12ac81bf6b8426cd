"""The one table of benchmarks, by their published names, and where their files lie.

Paths are those of detectron2's datasets, under $DETECTRON2_DATASETS (default: `datasets`). Other
data sets are named by their files (`own_files`) or by a YAML file (`own_yaml`).
"""

import difflib
import os
from pathlib import Path

from frozenseg.data.benchmarks.few_shot_rows import FEW_SHOT_BENCHMARKS
from frozenseg.data.benchmarks.own_files import FILES_FORMS, is_form, row_of_files
from frozenseg.data.benchmarks.own_yaml import YAML_FORM, is_yaml, row_of_yaml
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.benchmarks.rows import TEST_ROWS, TRAINING_ROWS
from frozenseg.errors import UserError
from frozenseg.files import user_path

BENCHMARKS: dict[str, Benchmark] = {**TRAINING_ROWS, **TEST_ROWS, **FEW_SHOT_BENCHMARKS}
OWN_FORMS = (*FILES_FORMS.values(), YAML_FORM)
"""The forms of the name of a data set that is not in the table."""


def register_benchmark(name: str, row: Benchmark) -> None:
    """Add a row to the table, under a name that is not taken."""
    if name in BENCHMARKS or ":" in name:
        raise UserError(f"benchmark {name!r}: the name is taken, or has a colon; choose another")
    BENCHMARKS[name] = row


def data_root() -> Path:
    """Return the folder of all datasets; only this function reads its environment variable."""
    return user_path(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def find_benchmark(name: str) -> Benchmark:
    """Return the row of a published name, or make the row of a user's own data set."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if is_form(name):
        return row_of_files(name)
    if is_yaml(name):
        return row_of_yaml(name, data_root())
    raise _unknown(name)


def is_data_set(name: str) -> bool:
    """Tell whether a value names a data set: a benchmark of the table, or a user's own data set."""
    return name in BENCHMARKS or is_form(name) or is_yaml(name)


def _unknown(name: str) -> UserError:
    form = difflib.get_close_matches(name.partition(":")[0], FILES_FORMS, n=1)
    if form and ":" in name:
        return UserError(f"{name}: no such form; did you mean {FILES_FORMS[form[0]]}?")
    near = difflib.get_close_matches(name, BENCHMARKS, n=3, cutoff=0.5)
    known = f"did you mean {', '.join(near)}?" if near else "frozenseg check_dataset lists them."
    return UserError(
        f"{name}: no such dataset; {known} Name one of your own as {' or '.join(OWN_FORMS)}"
    )
