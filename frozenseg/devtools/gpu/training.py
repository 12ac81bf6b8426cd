"""Measure the time and memory of a training step of the published model on a GPU."""

import functools
import statistics
from collections.abc import Callable

import torch

from frozenseg.devtools.gpu.profiling import take_profile
from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.devtools.speed.clock import seconds
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.devtools.speed.prediction import WHOLE
from frozenseg.devtools.speed.training import Training

BATCHES = (4, 16)


def step(trial: Trial, batch: int) -> Results:
    """Time a training step in mixed precision, and its parts.

    Memory is measured over the first two steps, so that it includes the optimiser's state.
    """
    if trial.tiny:
        batch //= 4
    cfg = trial.config("SOLVER.AMP.ENABLED", "True", "SOLVER.IMS_PER_BATCH", str(batch))
    ours = Training(cfg, trial.setting(training=True), batch)

    def two_steps() -> None:
        ours.step()
        ours.step()

    yield "memory, GB", measure_memory(two_steps, trial.device).report()
    ours.step()
    repeats = max(2, trial.repeats // 2)
    median = statistics.median(seconds(ours.step, trial.device) for _ in range(repeats))
    yield "ms", round(median * 1e3, 2)
    yield "images/s", round(batch / median, 2)
    rounds = [ours.timed() for _ in range(repeats)]
    rows = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    yield "ms by part", {name: round(row * 1e3, 2) for name, row in rows.items() if name != WHOLE}
    path = trial.folder / "profile_training.txt" if batch != BATCHES[0] else None
    yield "profile", take_profile(ours.step, trial.device, path).results()
    if trial.device.type == "cuda":
        yield "memory reserved, GB", round(torch.cuda.max_memory_reserved() / 1e9, 2)


PARTS: dict[str, Callable[[Trial], Results]] = {
    f"batch {batch}": functools.partial(step, batch=batch) for batch in BATCHES
}
