"""Compare the scores of an evaluation with TEST.EXPECTED_RESULTS of the configuration."""

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from frozenseg.data.benchmarks import find_benchmark
from frozenseg.errors import UserError, nearest
from frozenseg.evaluation.tasks import Summary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """A score that a recipe expects, with the tolerance by which it may differ.

    A value of NaN means that the score is expected to be undefined.
    """

    name: str
    metric: str
    value: float
    tolerance: float

    def difference(self, summary: Summary) -> str | None:
        """Return one line on the difference from a summary; None if there is none."""
        score = summary[self.metric]
        both_undefined = math.isnan(self.value) and math.isnan(score)
        if both_undefined or abs(score - self.value) <= self.tolerance:  # False where one is NaN
            return None
        shown = "undefined" if math.isnan(score) else f"{score:.3f}"
        return f"{self.name}: {self.metric} is {shown}, expected {self.value} +- {self.tolerance}"


def check_expected(expected: Iterable[Expected], metrics: Mapping[str, Collection[str]]) -> None:
    """Check rows of TEST.EXPECTED_RESULTS before anything is computed.

    metrics: the names of all scores of each data set that will be evaluated.

    A row for a data set that is not evaluated, e.g. because the user has chosen other sets than the
    recipe, is only warned about. A misspelt set or metric raises `UserError`.
    """
    for row in expected:
        if row.name not in metrics:
            find_benchmark(row.name)  # raises an error if there is no data set of this name
            logger.warning(
                "the expected %s of %s will not be compared: the set is not evaluated",
                *(row.metric, row.name),
            )
        elif row.metric not in metrics[row.name]:
            known = nearest(row.metric, [*metrics[row.name]])
            raise UserError(f"{row.name} has no {row.metric}; {known}")


def differences(scores: Mapping[str, Summary], expected: Iterable[Expected]) -> list[str]:
    """Return one line for each score that differs from the expected one.

    scores: the summary of each data set.
    """
    lines = (row.difference(scores[row.name]) for row in expected if row.name in scores)
    return [line for line in lines if line is not None]


def expected_result(row: Iterable[Any]) -> Expected:
    """Read a row [data set, metric, value, tolerance]; a value of null means NaN."""
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
