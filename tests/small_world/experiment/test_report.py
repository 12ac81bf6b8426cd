"""The report of an outcome that was written by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from frozenseg.errors import UserError
from frozenseg.small_world.experiment.arms import FROZENSEG
from frozenseg.small_world.experiment.outcome import Outcome
from frozenseg.small_world.experiment.paired import Difference
from frozenseg.small_world.experiment.report import report
from frozenseg.small_world.experiment.scenes import SceneCounts

LOGS = Path(__file__).parents[3] / "logs" / "small_world"


def outcome(**gains: Difference) -> Outcome:
    """Arm b with these gains after 1,000 steps, and nothing else."""
    zero = Difference((0.0, 0.0), -1.0, 1.0, True)
    of_arm = {key: gains.get(key.replace("-", "_"), zero) for key in FROZENSEG.metrics}
    scores = {arm: {0: dict.fromkeys(FROZENSEG.metrics, 40.0)} for arm in ("a", "b")}
    return Outcome("frozenseg", {1000: scores}, {1000: {"b - a": of_arm}})


def test_a_question_is_answered_by_its_intervals() -> None:
    gains = {
        "PQ_seen": Difference((1.0, 2.0), 0.5, 2.5, True),
        "PQ_unseen": Difference((-3.0, 1.0), -3.0, 1.0, True),
    }
    text = report(outcome(**gains))
    asked = text.index(f"**{FROZENSEG.arms['b'].question}** (b - a)")
    answer = text[asked:].splitlines()[2]
    assert answer == (
        "- after 1,000 steps, 2 seeds: PQ seen +1.5 (+0.5 to +2.5): a gain; "
        "PQ unseen -1.0 (-3.0 to +1.0): undecided"
    )
    agreed = report(outcome(PQ_seen=Difference((1.0, 0.5), -2.0, 3.0, True)))
    assert "PQ seen +0.8 (-2.0 to +3.0): undecided, though all seeds agree;" in agreed
    assert "a loss" in report(outcome(PQ_seen=Difference((-1.0,), -2.0, -0.5, True)))
    assert text.count("- not run") == sum(bool(pair.question) for pair in FROZENSEG.comparisons) - 1
    assert "| b - a | 2 | **+1.5 (+0.5 to +2.5)** | -1.0 (-3.0 to +1.0) |" in text


def test_a_score_that_is_missing_is_not_called_a_single_seed() -> None:
    text = report(outcome(PQ_seen=Difference((1.0, np.nan), np.nan, np.nan, True)))
    assert "2 seeds: PQ seen no score in some of the runs: no answer;" in text
    text = report(outcome(PQ_seen=Difference((1.0,), np.nan, np.nan, True)))
    assert "1 seeds: PQ seen +1.0, one seed: no answer;" in text


def test_a_cooldown_is_said_and_kept(tmp_path: Path) -> None:
    cooled = replace(outcome(), cooldown=0.3)
    cooled.write(tmp_path / "results.json")
    text = report(Outcome.read(tmp_path / "results.json"))
    said = "And 30 % more in which the learning rate falls to a hundredth.\n\n"
    assert text.count(said) == 1 and text.replace(said, "") == report(outcome())


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    gains = {"AP_seen": Difference((np.nan,), np.nan, np.nan, False)}
    outcome(**gains).write(tmp_path / "results.json")
    again = Outcome.read(tmp_path / "results.json")
    assert report(again) == report(outcome(**gains))
    assert np.isnan(again.gains[1000]["b - a"]["AP-seen"].per_seed[0])


def test_an_answer_stays_when_the_report_is_made_again(tmp_path: Path, monkeypatch) -> None:
    """Of gains so close to zero that the file does not tell them from it."""
    close = Difference((0.0104, 0.0004), 0.0004, 2.0, True)
    monkeypatch.setattr(
        "frozenseg.small_world.experiment.outcome.differences",
        lambda arm, other, metrics: dict.fromkeys(metrics, close),
    )
    run = dict.fromkeys(FROZENSEG.metrics, 40.0), SceneCounts.of_states({}, np.array([True]))
    first = Outcome.of_runs("frozenseg", {1000: {"a": {0: run, 1: run}, "b": {0: run, 1: run}}})
    first.write(tmp_path / "results.json")
    assert report(first) == report(Outcome.read(tmp_path / "results.json"))
    assert "PQ seen +0.0 (+0.0 to +2.0): undecided" in report(first)


@pytest.mark.parametrize(
    "path", sorted(LOGS.glob("*/results.json")), ids=lambda path: path.parent.name
)
def test_the_reports_in_the_logs_are_those_of_their_results(path: Path) -> None:
    """If not, `frozenseg small_world_experiment --report` writes them again."""
    conclusions = (path.parent / "conclusions.md").read_text().rstrip()
    expected = f"{conclusions}\n\n{report(Outcome.read(path))}"
    assert (path.parent / "report.md").read_text() == expected


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("gains", {}, "its scores and its gains are not of the same steps"),
        ("gains", {"1000": {"b - a": {}}}, "PQ-seen is missing"),
        ("scores", {"1000": {"a": {"0": {}}}}, "PQ-seen is missing"),
        ("scores", {"1000": {"a": {}}}, "it has an arm without a run"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, section, value, said) -> None:
    path = tmp_path / "results.json"
    outcome().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {section: value}))
    with pytest.raises(UserError, match=f"not the results of an experiment .*{said}"):
        Outcome.read(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"experiment": "x", "scores": {}}', '{"gains": 1}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not the results of an experiment"):
        Outcome.read(path)
