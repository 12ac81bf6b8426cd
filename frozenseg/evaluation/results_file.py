"""Write and read results.json: all scores of each data set, and what they were computed with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frozenseg.errors import UserError
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.runner import Evaluation
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import read_json, write_json


@dataclass(frozen=True)
class StoredEvaluation:
    """The scores of one data set, as read from a file.

    summary: the headline numbers in per cent; NaN where there was nothing to score.
    class_scores: {metric (PQ, AP, box AP, IoU): {class: per cent}}, for the classes that had
        something to score. In files of older versions without names, a class is given by its id.
    provenance: what the scores were computed with; empty in files of older versions.
    """

    summary: Summary
    class_scores: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, Any]


def write_results(
    path: Path,
    evaluations: Mapping[str, Evaluation],
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write all numbers as JSON, by data set.

    about: {data set: further entries}, "classes" and "provenance".
    """
    write_json(
        path,
        {
            name: {
                "images": evaluation.images,
                "summary": evaluation.summary,
                "details": evaluation.details,
                "model_seconds": round(evaluation.model_seconds, 3),
                "scoring_seconds": round(evaluation.scoring_seconds, 3),
                **(about or {}).get(name, {}),
            }
            for name, evaluation in evaluations.items()
        },
        indent=1,
    )


def read_results(path: Path) -> dict[str, StoredEvaluation]:
    """Return {data set: its evaluation} from results.json; raise `UserError` for any other file."""
    content = read_json(path)
    try:
        return {str(name): stored_evaluation(entry) for name, entry in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: is not the results.json of an evaluation") from None


def stored_evaluation(entry: Mapping[str, Any]) -> StoredEvaluation:
    """Read the entry of one data set.

    An entry of another form raises `AttributeError`, `KeyError`, `TypeError` or `ValueError`.
    """
    summary = {
        str(key): math.nan if value is None else float(value)
        for key, value in entry["summary"].items()
    }
    names = dict(entry.get("classes", {}))
    found: dict[str, dict[str, float]] = {}
    tasks = dict(entry.get("details", {}))
    for task, details in tasks.items():
        metric, rows = _of_classes(task, details)
        if task.startswith("lvis") and "instances" in tasks:  # the same prefix as in the summary
            metric = f"LVIS {metric}"
        scored = {key: value for key, value in rows.items() if value is not None}
        if scored:
            found[metric] = {names.get(key, key): float(value) for key, value in scored.items()}
    return StoredEvaluation(summary, found, dict(entry.get("provenance", {})))


def _of_classes(task: str, details: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a task's metric, and {class id or name: its value in per cent}."""
    if keys := [key for key in details if key.startswith("IoU-")]:
        metric = "IoU" if task == "semantic" else f"{task} IoU"
        return metric, {key.removeprefix("IoU-"): details[key] for key in keys}
    fractions = details.get("per_class", {})
    if task == "panoptic":
        fractions = {key: row["pq"] for key, row in fractions.items()}
    metric = "PQ" if task == "panoptic" else "box AP" if task.endswith("_boxes") else "AP"
    return metric, {key: None if value is None else 100 * value for key, value in fractions.items()}


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the headline numbers of each dataset as text, followed by the means over folds."""
    lines = []
    for name, evaluation in evaluations.items():
        lines += [f"{name} ({evaluation.images} images)", *summary_lines(evaluation.summary)]
    means = family_means({name: evaluation.summary for name, evaluation in evaluations.items()})
    for name, summary in means.items():
        lines += [name, *summary_lines(summary)]
    return "\n".join(lines)


def summary_lines(summary: Summary) -> list[str]:
    """Return the headline numbers of one dataset, one number in each line.

    The last line names the metrics that are NaN.
    """
    width = max(map(len, summary), default=0)
    nothing = [metric for metric, value in summary.items() if math.isnan(value)]
    lines = [
        f"  {metric:{width}s}  {value:7.3f}"
        for metric, value in summary.items()
        if not math.isnan(value)
    ]
    return [*lines, f"  nothing to score (nan): {', '.join(nothing)}"] if nothing else lines
