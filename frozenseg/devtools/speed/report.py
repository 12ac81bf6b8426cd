"""Report measured times as a table, as JSON and as pictures."""

import math
import statistics
from pathlib import Path
from typing import Any

import torch

from frozenseg.devtools.speed.baselines import CLIP, SAM, Baseline
from frozenseg.devtools.speed.prediction import EAGER, OTHER, WHOLE, Times
from frozenseg.errors import import_extra
from frozenseg.files import atomic_path
from frozenseg.runtime.environment import device_name


def machine(device: torch.device) -> dict[str, Any]:
    """Describe what times depend on: the device, the number of threads and PyTorch's version."""
    name = f"{device.type}: {device_name(device)}"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def summary(times: Times, baselines: list[Baseline]) -> dict[str, Any]:
    """Collect median and minimum seconds, ratios, memory in GB, and the machine's GFLOP/s."""
    report: dict[str, Any] = {
        "stages": [*times.stages, OTHER],
        "seconds": {
            name: {"median": round(statistics.median(row), 5), "min": round(min(row), 5)}
            for name, row in times.rows.items()
        },
        "memory": times.memory.report(),
        "gflop_per_s": {
            baseline.name: round(baseline.flops / times.median(baseline.name) / 1e9, 1)
            for baseline in baselines
            if baseline.flops
        },
    }
    if (ratio := times.ratio()) is not None:
        report["whole_over_baselines"] = round(ratio, 3)
    if EAGER in times.rows:
        gain = times.median(EAGER) / times.median(WHOLE)
        report["times_faster_than_float32_eager"] = round(gain, 3)
    if times.agreement is not None:
        report["panoptic_agreement_with_float32"] = round(times.agreement, 5)
    return report


def table(report: dict[str, Any]) -> str:
    """Return a table of seconds and shares of the row `WHOLE`, with its stages indented."""
    rows, whole = report["seconds"], report["seconds"][WHOLE]["median"]
    order = [WHOLE, *report["stages"], *[name for name in rows if name != WHOLE]]
    lines = [f"{'':38s}{'median, s':>11s}{'least, s':>11s}{'of whole':>10s}"]
    for name in dict.fromkeys(order):
        median, least = rows[name]["median"], rows[name]["min"]
        shown = f"  {name}" if name in report["stages"] else name
        lines.append(f"{shown:38s}{median:11.4f}{least:11.4f}{median / whole:10.1%}")
    for key, value in report["gflop_per_s"].items():
        lines.append(f"{key + ', GFLOP/s':38s}{value:11,.1f}")
    for key, value in report["memory"].items():
        lines.append(f"{'memory, ' + key:38s}{value:11.3f}")
    for key in ("images_per_second", "whole_over_baselines", "times_faster_than_float32_eager"):
        if key in report:
            lines.append(f"{key:38s}{report[key]:11.3f}")
    if "panoptic_agreement_with_float32" in report:
        agreement = report["panoptic_agreement_with_float32"]
        lines.append(f"{'panoptic_agreement_with_float32':38s}{agreement:11.4f}")
    return "\n".join(lines)


def draw_bars(report: dict[str, Any], picture: Path, title: str) -> None:
    """Draw a bar for each row; stages, baselines and the other rows differ in colour."""
    Figure = import_extra("matplotlib.figure", "train", "a picture of the times").Figure
    names = list(dict.fromkeys([*report["stages"], *report["seconds"]]))
    values = [report["seconds"][name]["median"] for name in names]
    baselines = {SAM, CLIP, *report["gflop_per_s"]}
    colours = [
        "tab:gray" if name in baselines else "tab:blue" if name in report["stages"] else "tab:green"
        for name in names
    ]
    figure = Figure(figsize=(9, 0.32 * len(names) + 1.4), layout="constrained")  # no pyplot
    axes = figure.subplots()
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, labels=[f" {value:.3g}" for value in values], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="seconds (median)", title=title)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=110)


def growth(points: list[dict[str, Any]]) -> dict[str, float]:
    """Compute the power of the work with which each row and the memory above the model grow.

    Only the first and the last point are compared; a power of 1 means linear growth. Rows that take
    at most a thousandth of `WHOLE` are left out.
    """
    first, last = points[0], points[-1]
    factor = math.log(last["work"] / first["work"])
    whole = last["seconds"][WHOLE]["median"]
    powers = {}
    for name, row in last["seconds"].items():
        before = first["seconds"].get(name, {"median": 0.0})["median"]
        if row["median"] > 0.001 * whole and before > 0:
            powers[name] = round(math.log(row["median"] / before) / factor, 3)
    above = [max(point["memory"]["above_gb"], 1e-6) for point in (first, last)]
    return powers | {"memory above the model": round(math.log(above[1] / above[0]) / factor, 3)}


def draw_growth(points: list[dict[str, Any]], picture: Path, unit: str, title: str) -> None:
    """Draw the seconds of `WHOLE` and of each stage, and the memory, over the work."""
    Figure = import_extra("matplotlib.figure", "train", "a picture of the times").Figure
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    work = [point["work"] for point in points]
    names = [WHOLE, *points[-1]["stages"]]
    names.sort(key=lambda name: -points[-1]["seconds"][name]["median"])
    for name in names:
        row = [point["seconds"].get(name, {"median": math.nan})["median"] for point in points]
        left.plot(work, row, marker="o", label=name, linewidth=2.5 if name == WHOLE else 1)
    left.set(xlabel=unit, ylabel="seconds (median)", title=title, ylim=(0, None))
    left.legend(fontsize="small")
    for key, label in (("peak_gb", "peak"), ("above_gb", "above the model")):
        right.plot(work, [point["memory"][key] for point in points], marker="o", label=label)
    right.set(xlabel=unit, ylabel="GB", title="memory", ylim=(0, None))
    right.legend(fontsize="small")
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, dpi=110)
