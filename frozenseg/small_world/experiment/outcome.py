"""What an experiment has found: the scores of all runs and the gains of all arms, in one file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.errors import UserError
from frozenseg.evaluation.tasks import Summary
from frozenseg.files import read_json, write_json
from frozenseg.small_world.experiment.arms import CONTROL, EXPERIMENTS, Experiment
from frozenseg.small_world.experiment.paired import Difference, Scored, differences

DIGITS = 3  # decimal places of the numbers in the file


@dataclass(frozen=True)
class Outcome:
    """The scores of an experiment and the gains of its arms.

    experiment: the name of the experiment.
    scores: steps -> arm -> seed -> metric -> per cent.
    gains: steps -> comparison -> metric -> the gain.
    cooldown: share of the steps that were added with a falling learning rate before each score.
    """

    experiment: str
    scores: Mapping[int, Mapping[str, Mapping[int, Summary]]]
    gains: Mapping[int, Mapping[str, Mapping[str, Difference]]]
    cooldown: float = 0.0

    @property
    def of(self) -> Experiment:
        """The experiment with this name."""
        return EXPERIMENTS[self.experiment]

    @classmethod
    def of_runs(
        cls,
        experiment: str,
        found: Mapping[int, Mapping[str, Mapping[int, Scored]]],
        cooldown: float = 0.0,
    ) -> "Outcome":
        """Make all comparisons, each over the seeds that both of its arms have.

        All numbers are rounded as in the file, so that a report made of it gives the same answers.

        found: steps -> arm -> seed -> its scores.
        """
        metrics = list(EXPERIMENTS[experiment].metrics)
        scores = {
            steps: {
                arm: {
                    seed: {key: round(summary[key], DIGITS) for key in metrics}
                    for seed, (summary, _) in runs.items()
                }
                for arm, runs in arms.items()
            }
            for steps, arms in found.items()
        }
        gains: dict[int, dict[str, dict[str, Difference]]] = {}
        for steps, arms in found.items():
            gains[steps] = {}
            for pair in EXPERIMENTS[experiment].comparisons:
                runs, others = arms.get(pair.arm, {}), arms.get(pair.against, {})
                seeds = sorted(runs.keys() & others.keys())
                if seeds:
                    arm, other = ([of[seed] for seed in seeds] for of in (runs, others))
                    gains[steps][pair.name] = {
                        key: _rounded(gain)
                        for key, gain in differences(arm, other, metrics).items()
                    }
        return cls(experiment, scores, gains, cooldown)

    def write(self, path: Path) -> None:
        """Write all numbers as JSON."""
        gains = {
            steps: {
                pair: {key: asdict(gain) for key, gain in of_pair.items()}
                for pair, of_pair in pairs.items()
            }
            for steps, pairs in self.gains.items()
        }
        value = {"experiment": self.experiment, "cooldown": self.cooldown}
        write_json(path, {**value, "scores": self.scores, "gains": gains}, indent=1)

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Read a file that `write` has written; raises `UserError` if it is another file."""
        value = read_json(path)
        try:
            return cls._parsed(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: not the results of an experiment ({type(error).__name__}: {error}); "
                "give a results.json of frozenseg small_world_experiment"
            ) from None

    @classmethod
    def _parsed(cls, value: Any) -> "Outcome":
        scores = {
            int(steps): {
                arm: {int(seed): _numbers(row) for seed, row in runs.items()}
                for arm, runs in arms.items()
            }
            for steps, arms in value["scores"].items()
        }
        gains = {
            int(steps): {
                pair: {key: Difference(**_numbers(row)) for key, row in of_pair.items()}
                for pair, of_pair in pairs.items()
            }
            for steps, pairs in value["gains"].items()
        }
        outcome = cls(value["experiment"], scores, gains, float(value.get("cooldown", 0)))
        known = {*outcome.of.arms, CONTROL}
        for arm in {arm for arms in scores.values() for arm in arms}:
            if arm not in known:
                raise ValueError(f"unknown arm {arm}")
        if scores.keys() != gains.keys():
            raise ValueError("its scores and its gains are not of the same steps")
        runs_of_arms = [runs for arms in scores.values() for runs in arms.values()]
        if not all(runs_of_arms):
            raise ValueError("it has an arm without a run")
        rows = [row for runs in runs_of_arms for row in runs.values()]
        compared = [of_pair for pairs in gains.values() for of_pair in pairs.values()]
        for metric in outcome.of.metrics:
            if not all(metric in row for row in [*rows, *compared]):
                raise ValueError(f"{metric} is missing")
        return outcome


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the file with NaN where JSON has null."""
    return {key: _number(value) for key, value in row.items()}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_number, value))
    return np.nan if value is None else value


def _rounded(gain: Difference) -> Difference:
    return Difference(
        per_seed=tuple(round(value, DIGITS) for value in gain.per_seed),
        low=round(gain.low, DIGITS),
        high=round(gain.high, DIGITS),
        over_scenes=gain.over_scenes,
    )
