"""Compare runs: their scores, the settings that differ, and the classes that changed most."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frozenseg.evaluation.results_file import StoredEvaluation

ABSENT, UNKNOWN = "absent", "?"
LONGEST = 40  # at most this many characters of a setting are shown
# The notes on a run (its provenance) that are compared; the settings have a table of their own.
NOTED = ("code", "weights", "device", "precision", "processes", "versions", "data")

Columns = dict[str, list[Any]]
"""{row: its value in each run}."""


@dataclass(frozen=True)
class PastRun:
    """What the output files of a past run hold.

    label: its name in tables.
    evaluations: its last scores, by data set.
    settings: {KEY: value}, without those that differ between any two runs; empty if not known.
    metrics: the rows of metrics.jsonl.
    """

    label: str
    evaluations: Mapping[str, StoredEvaluation]
    settings: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ClassChange:
    """The score of a class in two runs, in per cent."""

    name: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """The difference, after minus before."""
        return self.after - self.before


def data_sets(runs: Sequence[PastRun]) -> list[str]:
    """Return the data sets that any of the runs was scored on."""
    return list(dict.fromkeys(name for run in runs for name in run.evaluations))


def scores(runs: Sequence[PastRun], data_set: str) -> Columns:
    """Return {metric: its score in each run}; NaN where there was nothing to score, None where the
    run does not have the metric."""
    summaries = [
        run.evaluations[data_set].summary if data_set in run.evaluations else {} for run in runs
    ]
    metrics = dict.fromkeys(metric for summary in summaries for metric in summary)
    return {metric: [summary.get(metric) for summary in summaries] for metric in metrics}


def differing_settings(runs: Sequence[PastRun]) -> Columns:
    """Return {KEY: its value in each run} for the settings that are not the same in all runs.

    Runs whose settings are not known are not compared.
    """
    return _differing([run.settings for run in runs])


def differing_notes(runs: Sequence[PastRun], data_set: str) -> Columns:
    """Return {note: its value in each run} for the notes on a data set that are not the same in all
    runs with notes: code, weights, device, versions, digests of the annotation."""
    return _differing([_notes(run.evaluations.get(data_set)) for run in runs])


def _differing(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the entries that are not the same in all rows; empty rows are not compared."""
    known = [row for row in rows if row]
    keys = sorted({key for row in known for key in row})
    return {
        key: [row.get(key, ABSENT) if row else UNKNOWN for row in rows]
        for key in keys
        if any(row.get(key, ABSENT) != known[0].get(key, ABSENT) for row in known)
    }


def _notes(stored: StoredEvaluation | None) -> dict[str, Any]:
    noted = stored.provenance if stored is not None else {}
    notes: dict[str, Any] = {}
    for name in (name for name in NOTED if name in noted):
        parts = noted[name].items() if isinstance(noted[name], Mapping) else [("", noted[name])]
        notes |= {f"{name} {key}".strip(): value for key, value in parts}
    return notes


def class_changes(first: StoredEvaluation, other: StoredEvaluation) -> dict[str, list[ClassChange]]:
    """Return {metric: the classes that both runs have a score for}, the largest gain first."""
    before, after = first.class_scores, other.class_scores
    changes = {
        metric: [
            ClassChange(name, value, after[metric][name])
            for name, value in row.items()
            if name in after[metric]
        ]
        for metric, row in before.items()
        if metric in after
    }
    return {
        metric: sorted(rows, key=lambda row: row.change, reverse=True)
        for metric, rows in changes.items()
        if rows
    }


def table(title: str, labels: Sequence[str], rows: Columns, show: Callable[..., str]) -> list[str]:
    """Return the lines of a table.

    show: makes a cell from a value and the value in the first column of the same row.
    """
    cells = {name: [show(value, row[0]) for value in row] for name, row in rows.items()}
    head = {title: list(labels), **cells}
    width = max(len(name) for name in head)
    widths = [max(map(len, column)) for column in zip(*head.values(), strict=True)]
    return [
        "  ".join([name.ljust(width), *(c.rjust(w) for c, w in zip(row, widths, strict=True))])
        for name, row in head.items()
    ]


def score_cell(value: float | None, first: float | None) -> str:
    """Return a score and its difference from the first run's score; "-" if there is no score."""
    if value is None:
        return "-"
    shown = f"{value:.3f}"
    if first is None or first is value or math.isnan(value) or math.isnan(first):
        return shown
    return f"{shown} ({value - first:+.3f})"


def setting_cell(value: Any, first: Any) -> str:
    """Return the value of a setting as text, cut after `LONGEST` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def change_lines(changes: Mapping[str, Sequence[ClassChange]], most: int) -> Iterable[str]:
    """Yield lines with the classes of largest gain and loss, for each metric `most` of each."""
    for metric, rows in changes.items():
        gains = [row for row in rows[:most] if row.change > 0]
        losses = [row for row in rows[::-1][:most] if row.change < 0]
        for what, found in (("gains", gains), ("losses", losses)):
            parts = [f"{r.name} {r.before:.1f} -> {r.after:.1f} ({r.change:+.1f})" for r in found]
            if parts:
                yield f"  {metric}, largest {what}: {', '.join(parts)}"
