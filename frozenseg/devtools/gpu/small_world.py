"""The small world on a GPU: scores of the shipped model, and losses of a short training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from frozenseg.build.evaluation import evaluate
from frozenseg.build.training import train
from frozenseg.config import load_config
from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import Trial

RECIPE = "small/frozenseg.yaml"
SCENES = 200  # the number for which the recipe states expected results


def scores(trial: Trial) -> Results:
    """Evaluate the shipped small model; show its scores beside those that its recipe expects."""
    count = 2 if trial.tiny else SCENES
    _make_scenes(trial, count)
    cfg = _config(trial, str(trial.device), "evaluated", "TEST.EXPECTED_RESULTS", "[]")
    found = evaluate(cfg)["small_world_val"]
    for _, metric, expected, tolerance in load_config(RECIPE).TEST.EXPECTED_RESULTS:
        row: dict[str, Any] = {"here": round(found[metric], 2)}
        if count == SCENES:
            row |= {"CPU": expected, "tolerance": tolerance}
        yield metric, row


def losses(trial: Trial) -> Results:
    """Train the small recipe for a few steps in float32 and in mixed precision, and compare the
    losses with those of a CPU in float32 with the same seed."""
    _make_scenes(trial, 2 if trial.tiny else SCENES)
    steps = 2 if trial.tiny else 5
    expected = _train(trial, "cpu", steps, "expected", mixed=False)
    for name in ("float32", "mixed precision"):
        found = _train(trial, str(trial.device), steps, name, mixed=name != "float32")
        errors = [abs(a / b - 1) for a, b in zip(found, expected, strict=True)]
        yield (
            name,
            {
                "first loss here": found[0],
                "first loss, CPU": expected[0],
                "last loss here": found[-1],
                "last loss, CPU": expected[-1],
                "first relative difference": f"{errors[0]:.1e}",
                "largest relative difference": f"{max(errors):.1e}",
            },
        )
    yield "steps", steps


def _train(trial: Trial, device: str, steps: int, folder: str, *, mixed: bool) -> list[float]:
    """Return the total loss of each step."""
    cfg = _config(
        trial,
        device,
        folder,
        *("MODEL.WEIGHTS", "", "SOLVER.AMP.ENABLED", str(mixed)),
        *("SOLVER.MAX_ITER", str(steps), "SOLVER.STEPS", "()", "LOG.PERIOD", "1"),
        *("DATASETS.TEST", "()", "TEST.EXPECTED_RESULTS", "[]"),
    )
    lines = (train(cfg).output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["total_loss"] for row in map(json.loads, lines) if "total_loss" in row]


def _config(trial: Trial, device: str, name: str, *options: str) -> Any:
    output = str(trial.scratch / name)
    return load_config(
        RECIPE, ["MODEL.DEVICE", device, "SEED", "0", "OUTPUT_DIR", output, *options]
    )


def _make_scenes(trial: Trial, count: int) -> None:
    """Write both splits unless they exist, and set the variables of the data and cache folders."""
    root = trial.scratch / "small_world"
    os.environ["DETECTRON2_DATASETS"] = str(trial.scratch)
    os.environ["FROZENSEG_CACHE"] = str(trial.scratch / "cache")
    command = [sys.executable, "-m", "frozenseg", "make_small_world", "--output", str(root)]
    subprocess.run([*command, "--count", str(count)], check=True, stdout=subprocess.DEVNULL)


PARTS: dict[str, Callable[[Trial], Results]] = {"scores": scores, "losses": losses}
