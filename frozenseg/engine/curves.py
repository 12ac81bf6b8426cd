"""Draw the training curves of runs: losses and scores over steps."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from frozenseg.data.benchmarks.short_names import short_names
from frozenseg.files import atomic_path

logger = logging.getLogger(__name__)

TOTAL = {"total_loss": "total"}
LOSSES = {**TOTAL, "loss_ce": "class", "loss_mask": "mask", "loss_dice": "dice"}
HEADLINES = ("PQ", "mIoU", "AP", "oracle mIoU", "mosaic mIoU", "whole mIoU")
MOST_SCORES = 3  # curves per data set: the headline metrics come first

Rows = Sequence[Mapping[str, Any]]
Curves = dict[str, list[tuple[int, float]]]
"""The points (step, value) of each curve, by its label."""


def draw_curves(runs: Mapping[str, Rows], picture: Path) -> None:
    """Draw the losses and scores of one or several runs as a PNG file.

    With several runs, only the total loss and the scores of each are drawn. If no run has a row of
    a training step, a warning is logged and nothing is drawn.

    runs: the rows of `read_metrics` of each run, by the label of the run.
    """
    try:  # imported here because it is slow to import, and needed only at the end of a run
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError:
        logger.warning('%s is not drawn: pip install "frozenseg[train]"', picture)
        return
    losses, scores = _of_runs(runs)
    if not losses:
        logger.warning("%s is not drawn: no step was logged", picture)
        return
    figure = Figure(figsize=(13, 4.5), layout="constrained")  # no pyplot: needs no display
    left, right = figure.subplots(1, 2)
    for axes, curves, marker in ((left, losses, ""), (right, scores, "o")):
        lines = [
            axes.plot(*zip(*points, strict=True), marker=marker)[0] for points in curves.values()
        ]
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if curves:  # the legend is placed beside the axes, so that it hides no curve
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": "small"}
            # Lines and names are given explicitly, because matplotlib would leave out names that
            # begin with "_". It would also parse text between two "$" as a formula, and could fail.
            for text in axes.legend(lines, [*curves], **place).get_texts():
                text.set_parse_math(False)
    losses_of = "total loss" if len(runs) > 1 else "loss of the last output, unweighted; total"
    left.set(xlabel="step", ylabel=losses_of, yscale="log")
    right.set(xlabel="step", ylabel="per cent", title="evaluation")
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=100)


def _of_runs(runs: Mapping[str, Rows]) -> tuple[Curves, Curves]:
    """Return the curves of the losses and of the scores."""
    losses: Curves = {}
    scores: Curves = {}
    for run, rows in runs.items():
        before = f"{run}: " if len(runs) > 1 else ""
        steps = [row for row in rows if "evaluation" not in row]
        for key, label in (TOTAL if before else LOSSES).items():
            points = [(row["step"], row[key]) for row in steps if _is_number(row.get(key))]
            if points:  # a model family need not have all losses
                losses[f"{before}{label}"] = points
        found = _scores(row for row in rows if "evaluation" in row)
        scores |= {f"{before}{label}": points for label, points in found.items()}
    return losses, scores


def _is_number(value: Any) -> bool:
    """Tell whether a value is a point of a curve; values that are not finite are null in files."""
    return isinstance(value, int | float)


def _scores(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """Return the headline scores of each data set."""
    rows = list(rows)
    short = short_names(name for row in rows for name in row["evaluation"])
    points: Curves = {}
    for row in rows:
        for name, metrics in row["evaluation"].items():
            known = [key for key in HEADLINES if _is_number(metrics.get(key))]
            for metric in known[:MOST_SCORES]:
                label = f"{short[name]} {metric}"
                points.setdefault(label, []).append((row["step"], metrics[metric]))
    return points
