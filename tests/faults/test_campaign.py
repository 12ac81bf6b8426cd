"""Hostile inputs: every one ends in the expected status, with one line that says why.

A fault that is found becomes a row of a table in this folder.
"""

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.faults import (
    caches,
    configuration,
    data_sets,
    images,
    python_calls,
    scoring,
    training,
    vocabularies,
    weights,
)
from tests.faults.processes import PYTHON, Outcome, run_command
from tests.faults.table import Case

TABLES = (
    images, vocabularies, configuration, weights, data_sets, scoring, training, caches, python_calls
)  # fmt: skip
CASES = [
    pytest.param(
        case,
        id=f"{table.__name__.rpartition('.')[2]}-{case.name}",
        marks=[] if case.fast else [pytest.mark.slow],
    )
    for table in TABLES
    for case in table.CASES
]


@pytest.mark.parametrize("case", CASES)
def test_case(case: Case, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world").symlink_to(world)
    if case.make is not None:
        case.make(world, tmp_path)
    command, _, rest = case.command.partition(" ")
    arguments = [rest] if command == PYTHON else shlex.split(rest)
    before = hidden_files(tmp_path)
    judge(case, run_command([command, *arguments], tmp_path, case.seconds), tmp_path)
    left = hidden_files(tmp_path) - before
    assert not left, f"temporary files left behind: {left}"


def hidden_files(folder: Path) -> set[str]:
    found = (os.path.join(inner, name) for inner, _, names in os.walk(folder) for name in names)
    return {path for path in found if os.path.basename(path).startswith(".")}


def judge(case: Case, outcome: Outcome, folder: Path) -> None:
    """Compare how a command ended with what the case expects."""
    expected = (case.status,) if isinstance(case.status, int) else case.status
    said = f"status {outcome.status}, expected {case.status}; it wrote:\n{outcome.text[-3000:]}"
    assert not outcome.hung, f"had to be killed after {case.seconds} s; {said}"
    assert "Traceback" not in outcome.text, said
    assert outcome.status in expected, said
    assert re.search(case.words, outcome.text), f"no {case.words!r}: {said}"
    if outcome.status == 2:
        assert outcome.last_line.startswith(("error: ", "usage: ")) or ": error: " in said, said
        assert outcome.text.count("error:") == 1, f"more than one line of error: {said}"
        assert len(outcome.last_line) < 1500 and outcome.last_line.isprintable(), said
    for name in case.gone:
        assert not (folder / name).exists(), f"{name} is still there: {said}"
    for name in case.files:
        assert (folder / name).exists(), f"{name} is gone: {said}"
