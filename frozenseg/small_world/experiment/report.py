"""The outcome of an experiment as tables, a picture and raw numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.errors import import_extra
from frozenseg.small_world.experiment.arms import CONTROL, Experiment
from frozenseg.small_world.experiment.paired import Difference, Scored, differences

Found = Mapping[int, Mapping[str, Mapping[int, Scored]]]
"""Steps -> arm -> seed -> its scores."""
Compared = dict[int, dict[str, dict[str, Difference]]]
"""Steps -> arm -> metric -> its gain over the arm that it is compared with."""


def compare(experiment: Experiment, found: Found) -> Compared:
    """Compare each arm with its own `against`, over the seeds that both have."""
    compared: Compared = {}
    for steps, arms in found.items():
        compared[steps] = {}
        for name in arms:
            against = experiment.arms[name].against if name != CONTROL else None
            seeds = sorted(arms[name].keys() & arms.get(against or "", {}).keys())
            if not seeds or against is None:
                continue
            arm, control = ([arms[row][seed] for seed in seeds] for row in (name, against))
            compared[steps][name] = differences(arm, control, list(experiment.metrics))
    return compared


def title_of(experiment: Experiment, arm: str) -> str:
    """Return the name of an arm in the tables."""
    return "names shuffled (control)" if arm == CONTROL else f"({arm}) {experiment.arms[arm].title}"


def report(experiment: Experiment, found: Found, compared: Compared) -> str:
    """Return Markdown: for each number of steps the scores of all arms, and what each gains."""
    lines: list[str] = []
    for steps in sorted(found, reverse=True):
        lines += [f"### After {steps:,} steps", "", *_scores(experiment, found[steps]), ""]
        if compared[steps]:
            lines += [*_gains(experiment, compared[steps]), ""]
    return "\n".join(lines)


def _scores(experiment: Experiment, arms: Mapping[str, Mapping[int, Scored]]) -> list[str]:
    """Return the table of means over the seeds +- standard deviations, in per cent."""
    rows = [
        [title_of(experiment, arm), str(len(runs)), *_cells(experiment, list(runs.values()))]
        for arm, runs in arms.items()
    ]
    return _table(["", "seeds", *experiment.metrics.values()], rows)


def _cells(experiment: Experiment, runs: Sequence[Scored]) -> list[str]:
    values = [[summary[key] for summary, _ in runs] for key in experiment.metrics]
    return [
        f"{np.mean(row):.1f} ± {np.std(row, ddof=1):.1f}" if len(row) > 1 else f"{row[0]:.1f}"
        for row in values
    ]


def _gains(experiment: Experiment, arms: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    """Return the table of gains with intervals; those that leave out zero are bold."""
    rows = []
    for arm, gains in arms.items():
        seeds = len(next(iter(gains.values())).per_seed)
        cells = [_gain(gains[key]) for key in experiment.metrics]
        rows.append([f"{arm} - {experiment.arms[arm].against}", str(seeds), *cells])
    return _table(["gain", "seeds", *experiment.metrics.values()], rows)


def _gain(gain: Difference) -> str:
    if np.isnan(gain.low):
        return f"{gain.mean:+.1f}"
    cell = f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
    return f"**{cell}**" if gain.decided else cell


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def raw(found: Found, compared: Compared, experiment: Experiment) -> dict[str, Any]:
    """Return all numbers behind the tables, for a JSON file."""
    keys = experiment.metrics
    scores = {
        str(steps): {
            arm: {
                str(seed): {key: round(summary[key], 3) for key in keys}
                for seed, (summary, _) in runs.items()
            }
            for arm, runs in arms.items()
        }
        for steps, arms in found.items()
    }
    gains = {
        str(steps): {
            f"{arm} - {experiment.arms[arm].against}": {
                key: [round(value, 3) for value in (gain.mean, gain.low, gain.high)]
                for key, gain in of_arm.items()
            }
            for arm, of_arm in arms.items()
        }
        for steps, arms in compared.items()
    }
    return {"scores": scores, "gains (mean, low, high)": gains}


def plot(experiment: Experiment, compared: Compared, path: Path) -> None:
    """Draw the gain of every arm over the steps, with its interval; one panel for each metric."""
    Figure = import_extra("matplotlib.figure", "train", "a picture of the scores").Figure
    columns = -(-len(experiment.metrics) // 2)
    figure = Figure(figsize=(2.6 * columns, 6.5), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False).T.flat
    arms = list(dict.fromkeys(arm for of_steps in compared.values() for arm in of_steps))
    for axes, (key, label) in zip(panels, experiment.metrics.items(), strict=False):
        axes.axhline(0, color="black", linewidth=0.8)
        for number, arm in enumerate(arms):
            points = [(n, compared[n][arm][key]) for n in sorted(compared) if arm in compared[n]]
            means = [gain.mean for _, gain in points]
            bars = [[m - g.low, g.high - m] for m, (_, g) in zip(means, points, strict=True)]
            axes.errorbar(
                [steps * 1.04**number for steps, _ in points],  # beside each other
                means,
                yerr=np.nan_to_num(np.array(bars).T).clip(0),
                marker="o",
                capsize=3,
                label=f"{arm} - {experiment.arms[arm].against}",
            )
        axes.set(title=label, xscale="log")
        ticks = sorted(compared)
        axes.set_xticks(ticks, [f"{steps:,}" for steps in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    figure.supylabel("gain in points, 95 % interval")
    figure.supxlabel("steps of training")
    figure.savefig(path, dpi=100)
