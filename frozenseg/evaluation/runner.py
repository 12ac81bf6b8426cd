"""Model + loader + metrics -> numbers, on the console and on disk."""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frozenseg.data.benchmarks import find_benchmark
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.errors import UserError, nearest
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.tasks import Summary, Task
from frozenseg.files import write_json
from frozenseg.runtime.background import AsyncWriter
from frozenseg.structures import Prediction

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
    segment: Callable[[Sample], Prediction],
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

    def score(record: Record, result: Prediction) -> None:
        nonlocal scoring_seconds
        start = time.perf_counter()
        for task in tasks.values():
            task.update(record, result)
        scoring_seconds += time.perf_counter() - start

    with AsyncWriter(SCORED_BEHIND) as out:  # so that the device does not wait for the scores
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
    """All numbers as JSON, by data set."""
    write_json(
        path,
        {
            name: {
                "images": found.images,
                "summary": found.summary,
                "details": found.details,
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


@dataclass(frozen=True)
class Expected:
    """A score that a recipe expects: the value may differ by the tolerance; NaN means that there is
    nothing to score."""

    name: str
    metric: str
    value: float
    tolerance: float

    def difference(self, summary: Summary) -> str | None:
        """What is not as expected, if anything is."""
        found = summary[self.metric]
        if math.isnan(self.value) and math.isnan(found):
            return None
        if abs(found - self.value) <= self.tolerance:  # never where one is not a number
            return None
        said = "undefined" if math.isnan(found) else f"{found:.3f}"
        return f"{self.name}: {self.metric} is {said}, expected {self.value} +- {self.tolerance}"


def check_expected(expected: Iterable[Expected], metrics: Mapping[str, Collection[str]]) -> None:
    """Check rows before anything is computed.

    metrics: the names of all scores of each data set that will be evaluated. A row of another set,
    such as a recipe's own when other sets were chosen, only brings a warning. A misspelt set or
    metric is a `UserError`.
    """
    for row in expected:
        if row.name not in metrics:
            find_benchmark(row.name)  # complains of a name that no data set has
            logger.warning(
                "the expected %s of %s will not be compared: the set is not evaluated",
                *(row.metric, row.name),
            )
        elif row.metric not in metrics[row.name]:
            known = nearest(row.metric, [*metrics[row.name]])
            raise UserError(f"{row.name} has no {row.metric}; {known}")


def differences(scores: Mapping[str, Summary], expected: Iterable[Expected]) -> list[str]:
    """What is not as expected in the scores by data set, one line each."""
    found = [row.difference(scores[row.name]) for row in expected if row.name in scores]
    return [line for line in found if line is not None]


def expected_result(row: Iterable[Any]) -> Expected:
    """`row` as [data set, metric, value, tolerance]; a value of null is one of NaN."""
    try:
        name, metric, value, tolerance = row
        expected = Expected(
            str(name), str(metric), math.nan if value is None else float(value), float(tolerance)
        )
    except (TypeError, ValueError):
        raise UserError(f"{row!r} is not [data set, metric, value, tolerance]") from None
    if not expected.tolerance >= 0:
        raise UserError(f"{row!r}: the tolerance must not be below 0")
    return expected
