"""Score the predictions for a dataset, in threads that run beside the model."""

import copy
import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from frozenseg.data.records import Record
from frozenseg.evaluation.metric import State
from frozenseg.evaluation.tasks import Summary, Task
from frozenseg.structures import Prediction

Gather = Callable[[Any], list[Any]]
"""Takes the value of this process and returns the values of all processes, by rank."""


@dataclass(frozen=True)
class Share:
    """The metrics' state for a share of a dataset, in a form that can be sent and pickled.

    images: the number of images in the share. states: {task: the states of its metrics}.
    model_seconds, scoring_seconds: see `Evaluation`.
    """

    images: int
    states: dict[str, list[State]]
    model_seconds: float
    scoring_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of one dataset.

    images: the number of images, over all processes.
    summary: the headline numbers in per cent.
    details: {task: all scores that its metric computes}.
    model_seconds: the time that this process waited for the model, and for images to be read.
    scoring_seconds: the time spent in the metrics, summed over all threads of this process; for
        most of it the model runs at the same time.
    """

    images: int
    summary: Summary
    details: dict[str, Any]
    model_seconds: float
    scoring_seconds: float


def evaluate(
    predictions: Iterable[tuple[Record, Prediction]],
    tasks: Mapping[str, Task],
    *,
    total: int | None = None,
    scorers: int = 1,
    gather: Gather = lambda value: [value],
    title: str = "evaluation",
    progress: bool = True,
) -> Evaluation:
    """Score this process's share of a dataset, and return the scores of the entire dataset.

    predictions, total, scorers, title, progress: see `score`. gather: see `combined`.
    """
    share = score(predictions, tasks, total=total, scorers=scorers, title=title, progress=progress)
    return combined(tasks, [share], gather)


def score(
    predictions: Iterable[tuple[Record, Prediction]],
    tasks: Mapping[str, Task],
    *,
    total: int | None = None,
    scorers: int = 1,
    title: str = "evaluation",
    progress: bool = True,
) -> Share:
    """Pass results to the metrics, in threads, while the model computes the next results.

    predictions: the results of each image. total: the number of images, for the progress bar.
    scorers: the number of threads. title: the title of the progress bar. progress: whether there is
    a progress bar.
    """
    images, model_seconds = 0, 0.0
    found = iter(predictions)
    bar = tqdm(total=total, desc=title, unit=" images", disable=None if progress else True)
    with Scorers(tasks, scorers) as threads, bar:
        while True:
            start = time.perf_counter()
            pair = next(found, None)
            model_seconds += time.perf_counter() - start
            if pair is None:
                break
            images += 1
            threads.score(*pair)
            bar.update()
    states = {name: threads.states(name) for name in tasks}
    return Share(images, states, model_seconds, threads.seconds)


def combined(
    tasks: Mapping[str, Task], shares: Sequence[Share], gather: Gather = lambda value: [value]
) -> Evaluation:
    """Return the scores of a dataset, which do not depend on how its images were shared.

    shares: the share of this process, or those of all machines if this process collects them.
    gather: takes a value of this process and returns the values of all processes, and thus brings
    their shares.
    """
    start = time.perf_counter()
    summary: Summary = {}
    details: dict[str, Any] = {}
    for name, task in tasks.items():
        states = [state for share in shares for state in share.states[name]]
        task.metric.merge(itertools.chain.from_iterable(gather(states)))
        details[name] = task.metric.compute()
        summary |= task.summary(details[name])
    merging = time.perf_counter() - start
    return Evaluation(
        images=sum(gather(sum(share.images for share in shares))),
        summary=summary,
        details=details,
        model_seconds=sum(share.model_seconds for share in shares),
        scoring_seconds=merging + sum(share.scoring_seconds for share in shares),
    )


class Scorers:
    """Threads that score results, each with its own evaluators.

    No more results than there are threads may wait to be scored, because they hold masks at full
    size. An error of an evaluator is raised by a later `score`, or at the end of the `with` block.
    """

    def __init__(self, tasks: Mapping[str, Task], threads: int) -> None:
        self.seconds = 0.0
        self._copies = [{name: fresh(task) for name, task in tasks.items()} for _ in range(threads)]
        self._free = queue.SimpleQueue[dict[str, Task]]()
        for copied in self._copies:
            self._free.put(copied)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="scores")
        self._waiting: deque[Future[float]] = deque()

    def score(self, record: Record, result: Prediction) -> None:
        """Score the results of an image in one of the threads; wait if too many are waiting."""
        while len(self._waiting) > len(self._copies):
            self.seconds += self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._score, record, result))

    def states(self, name: str) -> list[State]:
        """Return the states of the threads' metrics for one task."""
        return [copied[name].metric.state() for copied in self._copies]

    def _score(self, record: Record, result: Prediction) -> float:
        tasks = self._free.get()
        start = time.perf_counter()
        try:
            for task in tasks.values():
                task.update(record, result)
        finally:
            self._free.put(tasks)
        return time.perf_counter() - start

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._waiting and kind is None:
                self.seconds += self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


def fresh(task: Task) -> Task:
    """Return the same evaluator with a metric that has seen no image."""
    found = copy.copy(task)
    vars(found)["metric"] = task.metric.fresh()
    return found
