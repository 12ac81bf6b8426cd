"""The course of a run as a picture: losses, learning rate, scores over steps."""

import logging
from pathlib import Path
from typing import Any

from frozenseg.engine.logger import read_metrics
from frozenseg.files import atomic_path

logger = logging.getLogger(__name__)

LOSSES = {"total_loss": "total", "loss_ce": "class", "loss_mask": "mask", "loss_dice": "dice"}
HEADLINES = ("PQ", "mIoU", "AP", "oracle mIoU", "mosaic mIoU", "whole mIoU")
MOST_SCORES = 3  # curves per data set: the headline metrics come first


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw metrics.jsonl as a PNG; without a row nothing is drawn."""
    try:
        from matplotlib.figure import Figure  # slow to import, and needed at the end only
    except ModuleNotFoundError:
        logger.warning('%s is not drawn: pip install "frozenseg[train]"', picture)
        return
    rows = read_metrics(metrics)
    steps = [row for row in rows if "evaluation" not in row]
    if not steps:
        return
    scores = _scores([row for row in rows if isinstance(row.get("evaluation"), dict)])
    figure = Figure(figsize=(11, 4), layout="constrained")  # no pyplot: needs no display
    left, right = figure.subplots(1, 2)
    for key, label in LOSSES.items():
        points = [(row["step"], row[key]) for row in steps if _is_number(row.get(key))]
        if points:  # a model family need not have them all
            left.plot(*zip(*points, strict=True), label=label)
    left.set(xlabel="step", ylabel="loss of the last output, unweighted; total", yscale="log")
    left.legend(loc="upper right")
    for label, points in scores.items():
        right.plot(*zip(*points, strict=True), marker="o", label=label)
    right.set(xlabel="step", ylabel="per cent", title="evaluation")
    if scores:
        right.legend(loc="lower right", fontsize="small")
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=100)


def _is_number(value: Any) -> bool:
    """Values that are not finite are null in the file, and no points of a curve."""
    return isinstance(value, int | float)


def _scores(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Points (step, score) by data set and metric."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, metrics in row["evaluation"].items():
            short = Path(name.split(":")[1]).stem if ":" in name else name
            known = [key for key in HEADLINES if _is_number(metrics.get(key))]
            for metric in known[:MOST_SCORES]:
                points.setdefault(f"{short} {metric}", []).append((row["step"], metrics[metric]))
    return points
