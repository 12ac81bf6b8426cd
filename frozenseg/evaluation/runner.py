"""Run a model over a dataset, score its predictions, and write the scores."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.tasks import Summary, Task
from frozenseg.files import write_json
from frozenseg.runtime.background import AsyncWriter
from frozenseg.structures import Prediction

# Results that may wait to be scored; not more, because they hold masks in full size.
SCORED_BEHIND = 2

Gather = Callable[[Any], list[Any]]
"""Takes the value of this process and returns the values of all processes, by rank."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one dataset.

    images: the number of images, over all processes.
    summary: the headline numbers in per cent.
    details: {task: all that its metric computes}.
    model_seconds: time in the model, of this process.
    scoring_seconds: time in the metrics, of this process; most of it passes in a thread beside the
        model.
    """

    images: int
    summary: Summary
    details: dict[str, Any]
    model_seconds: float
    scoring_seconds: float


def evaluate(
    segment: Callable[[Sample], Prediction],
    batches: Iterable[list[Sample]],
    tasks: Mapping[str, Task],
    *,
    gather: Gather = lambda value: [value],
    title: str = "evaluation",
    progress: bool = True,
) -> Evaluation:
    """Score this process's share of a dataset and return the scores of the whole dataset.

    The metrics' states of all processes are merged, so that the result does not depend on how many
    there are.
    """
    images, model_seconds, scoring_seconds = 0, 0.0, 0.0
    for task in tasks.values():
        task.metric.reset()

    def score(record: Record, result: Prediction) -> None:
        nonlocal scoring_seconds
        start = time.perf_counter()
        for task in tasks.values():
            task.update(record, result)
        scoring_seconds += time.perf_counter() - start

    with AsyncWriter(SCORED_BEHIND) as out:  # so that the device does not wait for the scores
        for batch in tqdm(batches, desc=title, unit=" images", disable=None if progress else True):
            for sample in batch:
                start = time.perf_counter()
                result = segment(sample)
                model_seconds += time.perf_counter() - start
                images += 1
                out.do(score, sample.record, result)
    start = time.perf_counter()
    summary: Summary = {}
    details: dict[str, Any] = {}
    for name, task in tasks.items():
        task.metric.merge(gather(task.metric.state()))
        details[name] = task.metric.compute()
        summary |= task.summary(details[name])
    scoring_seconds += time.perf_counter() - start
    return Evaluation(sum(gather(images)), summary, details, model_seconds, scoring_seconds)


def write_results(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Write all numbers as JSON, by dataset."""
    write_json(
        path,
        {
            name: {
                "images": evaluation.images,
                "summary": evaluation.summary,
                "details": evaluation.details,
                "model_seconds": round(evaluation.model_seconds, 3),
                "scoring_seconds": round(evaluation.scoring_seconds, 3),
            }
            for name, evaluation in evaluations.items()
        },
        indent=1,
    )


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the headline numbers of each dataset as text, and then the means over folds."""
    lines = []
    for name, evaluation in evaluations.items():
        lines += [f"{name} ({evaluation.images} images)", *summary_lines(evaluation.summary)]
    means = family_means({name: evaluation.summary for name, evaluation in evaluations.items()})
    for name, summary in means.items():
        lines += [name, *summary_lines(summary)]
    return "\n".join(lines)


def summary_lines(summary: Summary) -> list[str]:
    """Return the headline numbers of one dataset, one number a line."""
    width = max(map(len, summary), default=0)
    return [f"  {metric:{width}s}  {value:7.3f}" for metric, value in summary.items()]
