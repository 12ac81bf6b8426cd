"""Model + loader + metrics -> numbers, on the console and on disk."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frozenseg.background import Behind
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.errors import UserError, nearest
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.tasks import Summary, Task
from frozenseg.files import write_json
from frozenseg.structures import SegmentationResult

logger = logging.getLogger(__name__)

SCORED_BEHIND = 2  # results that may wait for their scores: they hold full-size masks

Gather = Callable[[Any], list[Any]]
"""What all processes hold, by rank, from what this one holds."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one data set.

    summary: the headline numbers, per cent. details: all that each task's metric computes, by task.
    model_seconds, scoring_seconds: of this process, in all; scores are made by a thread beside the
    model.
    """

    images: int
    summary: Summary
    details: dict[str, Any]
    model_seconds: float
    scoring_seconds: float


def evaluate(
    segment: Callable[[Sample], SegmentationResult],
    batches: Iterable[list[Sample]],
    tasks: Mapping[str, Task],
    *,
    gather: Gather = lambda value: [value],
    title: str = "evaluation",
    progress: bool = True,
) -> Evaluation:
    """Score this process's share of a data set; every process gets the numbers of the whole.

    The metrics' states of all processes are merged, so that the result does not depend on how many
    there are.
    """
    images, model_seconds, scoring_seconds = 0, 0.0, 0.0
    for task in tasks.values():
        task.metric.reset()

    def score(record: Record, result: SegmentationResult) -> None:
        nonlocal scoring_seconds
        start = time.perf_counter()
        for task in tasks.values():
            task.update(record, result)
        scoring_seconds += time.perf_counter() - start

    with Behind(SCORED_BEHIND) as out:  # so that the device does not wait for the scores
        for batch in tqdm(batches, desc=title, unit=" images", disable=None if progress else True):
            for sample in batch:
                start = time.perf_counter()
                result = segment(sample)
                model_seconds += time.perf_counter() - start
                images += 1
                out.do(score, sample.record, result)
    start = time.perf_counter()
    summary: Summary = {}
    details: dict[str, Any] = {}
    for name, task in tasks.items():
        task.metric.merge(gather(task.metric.state()))
        details[name] = task.metric.compute()
        summary |= task.summary(details[name])
    scoring_seconds += time.perf_counter() - start
    return Evaluation(sum(gather(images)), summary, details, model_seconds, scoring_seconds)


def write_results(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """All numbers as JSON, by data set; what is not a number (no such class) is null."""
    write_json(
        path,
        {
            name: {
                "images": found.images,
                "summary": _plain(found.summary),
                "details": _plain(found.details),
                "model_seconds": round(found.model_seconds, 3),
                "scoring_seconds": round(found.scoring_seconds, 3),
            }
            for name, found in evaluations.items()
        },
        indent=1,
    )


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """The headline numbers as text, two columns a data set; then the means over folds."""
    lines = []
    for name, found in evaluations.items():
        lines += [f"{name} ({found.images} images)", *summary_lines(found.summary)]
    means = family_means({name: found.summary for name, found in evaluations.items()})
    for name, summary in means.items():
        lines += [name, *summary_lines(summary)]
    return "\n".join(lines)


def summary_lines(summary: Summary) -> list[str]:
    """The headline numbers of one data set, one a line."""
    width = max(map(len, summary), default=0)
    return [f"  {metric:{width}s}  {value:7.3f}" for metric, value in summary.items()]


def check_expected(
    evaluations: Mapping[str, Evaluation], expected: Iterable[Iterable[Any]]
) -> list[str]:
    """What differs from [data set, metric, value, tolerance]; one line each."""
    wrong = []
    for row in expected:
        name, metric, value, tolerance = _expected_row(row)
        if name not in evaluations:
            raise UserError(
                f"TEST.EXPECTED_RESULTS: {name} was not evaluated; {nearest(name, [*evaluations])}"
            )
        summary = evaluations[name].summary
        if metric not in summary:
            raise UserError(
                f"TEST.EXPECTED_RESULTS: {name} has no {metric}; {nearest(metric, [*summary])}"
            )
        if not abs(summary[metric] - value) <= tolerance:  # also where it is not a number
            wrong.append(
                f"{name}: {metric} is {summary[metric]:.3f}, expected {value} +- {tolerance}"
            )
    return wrong


def _expected_row(row: Iterable[Any]) -> tuple[str, str, float, float]:
    try:
        name, metric, value, tolerance = row
        return str(name), str(metric), float(value), float(tolerance)
    except (TypeError, ValueError):
        raise UserError(
            f"TEST.EXPECTED_RESULTS: {row!r} is not [data set, metric, value, tolerance]"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
