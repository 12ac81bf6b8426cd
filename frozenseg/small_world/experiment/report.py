"""The outcome of an experiment as answers, tables and a picture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from frozenseg.errors import import_extra
from frozenseg.evaluation.tasks import Summary
from frozenseg.small_world.experiment.arms import CONTROL, Experiment
from frozenseg.small_world.experiment.outcome import Outcome
from frozenseg.small_world.experiment.paired import Difference

COLUMNS = 6  # metrics in a table, so that it fits on a page

DECIDED, UNDECIDED = ("tab:blue", 2.0), ("tab:gray", 1.0)  # colours and widths in the picture


def report(outcome: Outcome) -> str:
    """Return Markdown: the questions with their answers, then for each number of steps what each
    arm gains, and the scores of all arms."""
    lines = [*_answers(outcome)]
    for steps in sorted(outcome.scores, reverse=True):
        lines += [f"## After {steps:,} steps", ""]
        if outcome.cooldown:
            more = 100 * outcome.cooldown
            lines += [f"And {more:.0f} % more in which the learning rate falls to a hundredth.", ""]
        if outcome.gains[steps]:
            lines += ["Gains in points, 95 % intervals; bold where zero is outside.", ""]
            lines += _gains(outcome.of, outcome.gains[steps])
        lines += ["Scores in per cent, mean ± standard deviation over the seeds.", ""]
        lines += _scores(outcome.of, outcome.scores[steps])
    return "\n".join(lines)


def _answers(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of each question with what was found after each number of steps."""
    asked = [pair for pair in outcome.of.comparisons if pair.question]
    if asked:
        yield "## Questions and answers"
        yield ""
    for pair in asked:
        yield f"**{pair.question}** ({pair.name})"
        yield ""
        found = [(n, pairs[pair.name]) for n, pairs in outcome.gains.items() if pair.name in pairs]
        for steps, gains in found:
            verdicts = [
                f"{outcome.of.metrics[key]} {_verdict(gains[key])}" for key in outcome.of.main
            ]
            seeds = len(gains[outcome.of.main[0]].per_seed)
            yield f"- after {steps:,} steps, {seeds} seeds: {'; '.join(verdicts)}"
        if not found:
            yield "- not run"
        yield ""


def _verdict(gain: Difference) -> str:
    if np.isnan(gain.mean):
        return "no score in some of the runs: no answer"
    if np.isnan(gain.low):
        return f"{gain.mean:+.1f}, one seed: no answer"
    if gain.decided:
        word = "a gain" if gain.low > 0 else "a loss"
    else:
        alike = min(gain.per_seed) > 0 or max(gain.per_seed) < 0
        word = "undecided, though all seeds agree" if alike else "undecided"
    return f"{_interval(gain)}: {word}"


def _interval(gain: Difference) -> str:
    return f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"


def title_of(experiment: Experiment, arm: str) -> str:
    """Return the name of an arm in the tables."""
    return "names shuffled (control)" if arm == CONTROL else f"({arm}) {experiment.arms[arm].title}"


def _scores(experiment: Experiment, arms: Mapping[str, Mapping[int, Summary]]) -> list[str]:
    rows = [
        [title_of(experiment, arm), str(len(runs)), *_cells(experiment, list(runs.values()))]
        for arm, runs in arms.items()
    ]
    return _tables(["", "seeds"], experiment.metrics.values(), rows)


def _cells(experiment: Experiment, runs: Sequence[Summary]) -> list[str]:
    values = [[summary[key] for summary in runs] for key in experiment.metrics]
    return [
        f"{np.mean(row):.1f} ± {np.std(row, ddof=1):.1f}" if len(row) > 1 else f"{row[0]:.1f}"
        for row in values
    ]


def _gains(experiment: Experiment, pairs: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    rows = []
    for pair, gains in pairs.items():
        seeds = len(next(iter(gains.values())).per_seed)
        rows.append([pair, str(seeds), *(_gain(gains[key]) for key in experiment.metrics)])
    return _tables(["gain", "seeds"], experiment.metrics.values(), rows)


def _gain(gain: Difference) -> str:
    if np.isnan(gain.low):
        return f"{gain.mean:+.1f}"
    return f"**{_interval(gain)}**" if gain.decided else _interval(gain)


def _tables(
    first: Sequence[str], headings: Iterable[str], rows: Sequence[Sequence[str]]
) -> list[str]:
    """Return the lines of tables of all rows, each table with at most `COLUMNS` of the metrics."""
    metrics, lines = list(headings), []
    for start in range(0, len(metrics), COLUMNS):
        part = slice(start, start + COLUMNS)
        head = [*first, *metrics[part]]
        body = [[*row[: len(first)], *row[len(first) :][part]] for row in rows]
        lines += [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body]]
        lines.append("")
    return lines


def plot(outcome: Outcome, path: Path) -> None:
    """Draw each gain with its interval in a row of its own, in one panel per main metric."""
    Figure = import_extra("matplotlib.figure", "train", "a picture of the scores").Figure
    experiment, gains = outcome.of, outcome.gains
    names = [pair.name for pair in experiment.comparisons]
    rows = [(name, n, gains[n][name]) for name in names for n in sorted(gains) if name in gains[n]]
    size = (3 + 3.5 * len(experiment.main), 1.5 + 0.22 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(experiment.main), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, experiment.main, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        for place, (_, _, of_row) in enumerate(rows):
            gain, (colour, width) = of_row[key], DECIDED if of_row[key].decided else UNDECIDED
            axes.plot([gain.low, gain.high], [place, place], color=colour, linewidth=width)
            axes.plot(gain.mean, place, "o", color=colour, markersize=4)
        found = [of_row[key] for _, _, of_row in rows]
        means = [1.4 * abs(gain.mean) for gain in found]
        # Intervals over two or three seeds are so wide that they may extend beyond the frame.
        ends = [1.05 * max(-gain.low, gain.high) for gain in found if len(gain.per_seed) > 3]
        reach = float(np.nanmax([1, *means, *ends]))
        axes.set(title=experiment.metrics[key], xlim=(-reach, reach))
        axes.grid(axis="x", alpha=0.3)
    seeds = [len(of_row[experiment.main[0]].per_seed) for _, _, of_row in rows]
    labels = [
        f"{name}, {n:,} steps, {k} seeds" for (name, n, _), k in zip(rows, seeds, strict=True)
    ]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel("gain in points, 95 % interval; blue: decided", fontsize=10)
    figure.savefig(path, dpi=100)
