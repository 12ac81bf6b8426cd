"""Scores beside those that a recipe expects."""

import math

import pytest

from frozenseg.build.expected_results import check_expected, differences, expected_result
from frozenseg.errors import UserError

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
    scores = {"set": {"PQ": 41.5, "U": math.nan}}
    assert differences(scores, [expected_result(row)]) == said


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
        check_expected([expected_result(row)], METRICS)


def test_rows_of_sets_that_are_not_evaluated_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [["small_world_val", "PQ", 66.5, 0.3], ["set", "PQ", 1, 1]]
    expected = [expected_result(row) for row in rows]
    check_expected(expected, METRICS)
    assert "PQ of small_world_val will not be compared" in caplog.text
    assert differences({"set": {"PQ": 1.5}}, expected) == []
