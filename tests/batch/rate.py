"""The rate of `frozenseg batch` against the model alone: python -m tests.batch.rate MODEL IMAGES.

MODEL is tiny, which is the hardest, or small. The model alone has its images decoded and resized
before, and its results are thrown away. The last two numbers of a line are the ratios. A busy
machine hardly changes that of the processor's time.
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
from frozenseg.inference.stream import segment_stream
from frozenseg.text.vocabulary import Vocabulary
from tests.batch.runs import MODEL, ROOT, WORDS, make_images

BATCH, SHARDS = 8, 8
OPTIONS = MODEL[MODEL.index("--opts") + 1 :]
Make = Callable[[Path, int], Plan]
"""Makes so many images in a folder, and the plan of their run."""


def tiny(folder: Path, images: int) -> Plan:
    """A tiny model of random weights, whose instances are noise, over images of 64 x 64 pixels."""
    make_images(folder / "in", images)
    return Plan(
        folder / "out",
        "fc_clip_convnext_large",
        Vocabulary.parse(WORDS, WORDS),
        options=(*OPTIONS, "TEST.IMS_PER_BATCH", str(BATCH)),
        task="instances",
    )


def small(folder: Path, images: int) -> Plan:
    """The small model over the scenes of the demo, about 220 x 220 pixels."""
    (folder / "in").mkdir()
    scenes = sorted((ROOT / "demo" / "images").glob("scene_*.png"))
    for number in range(images):
        shutil.copy(scenes[number % len(scenes)], folder / "in" / f"{number}.png")
    words = Vocabulary.from_file(ROOT / "demo" / "vocabulary.txt")
    return Plan(folder / "out", "small", words, options=("MODEL.DEVICE", "cpu"))


def listed(make: Make, folder: Path, images: int) -> Plan:
    folder.mkdir()
    plan = make(folder, images)
    write_manifest(plan.folder, list_items([str(folder / "in")]), images // SHARDS)
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
    stream = segment_stream(predictor.pipeline, ready, text, words, batch_size=predictor.batch_size)
    return measured(lambda: deque(stream, 0), len(items))


def one_process(worker: Worker) -> Spent:
    """Making the shards in this process."""
    shards = worker.manifest.shards
    worker.make(0)  # imports packages
    return measured(lambda: deque(map(worker.make, shards), 0), worker.manifest.total)


def two_processes(make: Make, folder: Path, few: int, many: int) -> Spent:
    """The same of two processes: what more images take, without the loading of the models."""
    spent = []
    for images in (few, many):
        plan = listed(make, folder / str(images), images)
        clock, before = time.perf_counter(), _children()
        make_shards(plan, list(range(SHARDS)), lambda error: None, devices=["cpu", "cpu"])
        spent.append((time.perf_counter() - clock, _children() - before))
    return Spent(*(1000 * (b - a) / (many - few) for a, b in zip(*spent, strict=True)))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    make, images = {"tiny": tiny, "small": small}[sys.argv[1]], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(listed(make, Path(folder) / "one", images))
        alone(worker)
        model = alone(worker)
        say(f"model alone: {model.against(model)}")
        say(f"1 process: {one_process(worker).against(model)}")
        both = two_processes(make, Path(folder), 2 * SHARDS, 2 * SHARDS + images)
        say(f"2 processes: {both.against(model)}")
