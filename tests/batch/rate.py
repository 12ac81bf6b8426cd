"""The rate of `frozenseg batch` against the model alone: python -m tests.batch.rate [IMAGES].

The model alone has its images decoded and resized before, and its results are thrown away. The last
two numbers of a line are the ratios. A busy machine hardly changes that of the processor's time.
"""

import resource
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from frozenseg.batch.listing import list_items
from frozenseg.batch.manifest import write_manifest
from frozenseg.batch.processes import make_shards
from frozenseg.batch.worker import Plan, Worker
from frozenseg.files import shipped
from frozenseg.inference.stream import segment_stream
from frozenseg.text.vocabulary import Vocabulary

BATCH = 4


def plan_of(folder: Path, images: int) -> Plan:
    """A run of the shipped small model over copies of its scenes, in shards of 12."""
    source = folder / "in"
    source.mkdir(parents=True)
    scenes = sorted((shipped("demo") / "images").glob("scene_*.png"))
    for number in range(images):
        shutil.copy(scenes[number % len(scenes)], source / f"{number:04d}.png")
    plan = Plan(
        folder / "out",
        "small",
        Vocabulary.packaged("small_world"),
        options=("MODEL.DEVICE", "cpu", "TEST.IMS_PER_BATCH", str(BATCH)),
        threshold=0.25,
    )
    write_manifest(plan.folder, list_items([str(source)]), 12)
    return plan


class Spent(NamedTuple):
    """Milliseconds for an image: by the clock, and of the processor, in all threads."""

    clock: float
    processor: float

    def against(self, model: "Spent") -> str:
        ratios = f"{model.clock / self.clock:.3f}, {model.processor / self.processor:.3f}"
        return f"{self.clock:.1f} ms by the clock, {self.processor:.1f} of the processor; {ratios}"


def measured(work: Callable[[], object], images: int) -> Spent:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    ends = time.perf_counter() - clock, time.process_time() - processor
    return Spent(*(1000 * seconds / images for seconds in ends))


def alone(worker: Worker) -> Spent:
    """Model and post-processing."""
    predictor, words = worker.predictor, worker.plan.vocabulary
    items = [item for number in worker.manifest.shards for item in worker.manifest.items(number)]
    ready = [predictor._prepare(item.path) for item in items]
    text = predictor.embed(words)
    stream = segment_stream(predictor.pipeline, ready, text, words, batch_size=BATCH)
    return measured(lambda: deque(stream, 0), len(items))


def one_process(worker: Worker) -> Spent:
    """Making the shards in this process."""
    shards = worker.manifest.shards
    return measured(lambda: deque(map(worker.make, shards), 0), worker.manifest.total)


def two_processes(folder: Path, few: int, many: int) -> Spent:
    """The same of two processes: what more images take, without the loading of the models."""
    spent = []
    for images in (few, many):
        plan = plan_of(folder / str(images), images)
        clock, before = time.perf_counter(), _children()
        make_shards(plan, list(range(images // 12)), lambda error: None, devices=["cpu", "cpu"])
        spent.append((time.perf_counter() - clock, _children() - before))
    return Spent(*(1000 * (b - a) / (many - few) for a, b in zip(*spent, strict=True)))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(plan_of(Path(folder) / "one", images))
        alone(worker)
        model = alone(worker)
        say(f"model alone: {model.against(model)}")
        say(f"1 process: {one_process(worker).against(model)}")
        say(f"2 processes: {two_processes(Path(folder), 24, 24 + images).against(model)}")
