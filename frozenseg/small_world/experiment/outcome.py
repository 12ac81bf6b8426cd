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

DIGITS = 3  # of a number in the file


@dataclass(frozen=True)
class Outcome:
    """The scores of an experiment and the gains of its arms.

    experiment: the name of the experiment.
    scores: steps -> arm -> seed -> metric -> per cent.
    gains: steps -> arm -> metric -> its gain over the arm that it is compared with.
    """

    experiment: str
    scores: Mapping[int, Mapping[str, Mapping[int, Summary]]]
    gains: Mapping[int, Mapping[str, Mapping[str, Difference]]]

    @property
    def of(self) -> Experiment:
        """The experiment itself."""
        return EXPERIMENTS[self.experiment]

    @classmethod
    def of_runs(
        cls, experiment: str, found: Mapping[int, Mapping[str, Mapping[int, Scored]]]
    ) -> "Outcome":
        """Compare each arm with its own `against`, over the seeds that both have.

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
            for name in arms:
                against = None if name == CONTROL else EXPERIMENTS[experiment].arms[name].against
                seeds = sorted(arms[name].keys() & arms.get(against or "", {}).keys())
                if not seeds or against is None:
                    continue
                arm, other = ([arms[row][seed] for seed in seeds] for row in (name, against))
                of_arm = differences(arm, other, metrics)
                gains[steps][name] = {key: _rounded(gain) for key, gain in of_arm.items()}
        return cls(experiment, scores, gains)

    def write(self, path: Path) -> None:
        """Write all numbers as JSON."""
        gains = {
            steps: {
                arm: {key: asdict(gain) for key, gain in of_arm.items()}
                for arm, of_arm in arms.items()
            }
            for steps, arms in self.gains.items()
        }
        value = {"experiment": self.experiment, "scores": self.scores, "gains": gains}
        write_json(path, value, indent=1)

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """Read what `write` has written."""
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
        arms = {*EXPERIMENTS[value["experiment"]].arms, CONTROL}
        scores = {
            int(steps): {
                arm: {int(seed): _numbers(row) for seed, row in runs.items()}
                for arm, runs in of_steps.items()
                if arm in arms
            }
            for steps, of_steps in value["scores"].items()
        }
        gains = {
            int(steps): {
                arm: {
                    key: Difference(**_numbers(row))
                    for key, row in of_arm.items()
                }
                for arm, of_arm in of_steps.items()
                if arm in arms
            }
            for steps, of_steps in value["gains"].items()
        }
        return cls(value["experiment"], scores, gains)


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
