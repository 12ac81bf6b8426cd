"""Rows of TEST.EXPECTED_RESULTS against the scores of an evaluation."""

import math

import pytest

from frozenseg.build.expected_results import differences, expected_results
from frozenseg.errors import UserError
from frozenseg.evaluation.runner import Evaluation

METRICS = {"set": ["PQ", "U"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["set", "PQ", 41.0, 0.5], []),
        (["set", "PQ", 41.0, 0.4], ["set: PQ is 41.500, expected 41.0 +- 0.4"]),
        (["set", "U", 1.0, 9.0], ["set: U is undefined, expected 1.0 +- 9.0"]),
        (["set", "PQ", None, 9.0], ["set: PQ is 41.500, expected nan +- 9.0"]),
        (["set", "U", None, 0], []),
        (["set", "U", math.nan, 0], []),
    ],
)
def test_expected_results(row: list, said: list[str]) -> None:
    found = {"set": Evaluation(3, {"PQ": 41.5, "U": math.nan}, {}, 2.0, 0.5)}
    assert differences(found, expected_results([row], METRICS)) == said


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["small_world_vall", "PQ", 1, 1], "no such dataset; did you mean small_world_val"),
        (["set", "PQQ", 1, 1], "set has no PQQ; did you mean PQ"),
        (["set", "PQ"], "is not .data set, metric"),
        (["set", "PQ", "good", 1], "is not .data set, metric"),
        (["set", "PQ", 1, -1], "the tolerance must not be below 0"),
        (["set", "PQ", 1, math.nan], "the tolerance must not be below 0"),
        (7, "is not .data set, metric"),
    ],
)
def test_expected_results_that_cannot_be_met(row: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expected_results([row], METRICS)


def test_rows_of_sets_that_are_not_evaluated_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [["small_world_val", "PQ", 66.5, 0.3], ["set", "PQ", 1, 1]]
    assert [row.name for row in expected_results(rows, METRICS)] == ["set"]
    assert "small_world_val PQ will not be compared" in caplog.text
