"""The course of runs as a picture: losses and scores over steps."""

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
"""Label -> points (step, value)."""


def draw_curves(runs: Mapping[str, Rows], picture: Path) -> None:
    """Draw the rows of `read_metrics` of one or several runs, by their labels, as a PNG.

    Of several runs the total loss alone is drawn. Without a row of a step nothing is drawn.
    """
    try:  # slow to import, and needed at the end only
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
        if curves:  # beside the axes, so that it hides no curve
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": "small"}
            # A name that begins with "_" is shown if it is given beside its line. Between two "$"
            # matplotlib would read a formula, and fail where it is none.
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
            if points:  # a model family need not have them all
                losses[f"{before}{label}"] = points
        found = _scores(row for row in rows if "evaluation" in row)
        scores |= {f"{before}{label}": points for label, points in found.items()}
    return losses, scores


def _is_number(value: Any) -> bool:
    """Values that are not finite are null in the file, and no points of a curve."""
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
