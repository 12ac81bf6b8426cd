"""Compare the scores of an evaluation with TEST.EXPECTED_RESULTS of the configuration."""

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from frozenseg.data.benchmarks import find_benchmark
from frozenseg.errors import UserError, nearest
from frozenseg.evaluation.runner import Evaluation
from frozenseg.evaluation.tasks import Summary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """A row of TEST.EXPECTED_RESULTS.

    The score of `metric` on the dataset `name` may differ from `value` by `tolerance`. A value of
    NaN means that there is nothing to score.
    """

    name: str
    metric: str
    value: float
    tolerance: float

    def difference(self, summary: Summary) -> str | None:
        """Say how the score differs from what is expected; None if it does not."""
        score = summary[self.metric]
        if math.isnan(self.value) and math.isnan(score):
            return None
        if abs(score - self.value) <= self.tolerance:  # never where one is not a number
            return None
        said = "undefined" if math.isnan(score) else f"{score:.3f}"
        return f"{self.name}: {self.metric} is {said}, expected {self.value} +- {self.tolerance}"


def expected_results(
    rows: Iterable[Iterable[Any]], metrics: Mapping[str, Collection[str]]
) -> list[Expected]:
    """Return the rows that will be compared; they are checked before anything is computed.

    metrics: the names of all scores of each dataset that will be evaluated. A row of another
    dataset, as a recipe has where DATASETS.TEST was changed, is left out with a warning. A misspelt
    dataset or metric is a `UserError`.
    """
    kept = []
    for row in map(_expected_row, rows):
        if row.name not in metrics:
            find_benchmark(row.name)  # complains of a name that no data set has
            logger.warning(
                "TEST.EXPECTED_RESULTS: %s %s will not be compared, DATASETS.TEST is without it",
                *(row.name, row.metric),
            )
        elif row.metric not in metrics[row.name]:
            known = nearest(row.metric, [*metrics[row.name]])
            raise UserError(f"TEST.EXPECTED_RESULTS: {row.name} has no {row.metric}; {known}")
        else:
            kept.append(row)
    return kept


def differences(evaluations: Mapping[str, Evaluation], expected: Iterable[Expected]) -> list[str]:
    """List the scores that are not as expected, one line for each."""
    lines = [row.difference(evaluations[row.name].summary) for row in expected]
    return [line for line in lines if line is not None]


def _expected_row(row: Iterable[Any]) -> Expected:
    """Read [dataset, metric, value, tolerance]; a value of null stands for NaN."""
    try:
        name, metric, value, tolerance = row
        expected = Expected(
            str(name), str(metric), math.nan if value is None else float(value), float(tolerance)
        )
    except (TypeError, ValueError):
        raise UserError(
            f"TEST.EXPECTED_RESULTS: {row!r} is not [data set, metric, value, tolerance]"
        ) from None
    if not expected.tolerance >= 0:
        raise UserError(f"TEST.EXPECTED_RESULTS: {row!r}: the tolerance must not be below 0")
    return expected
