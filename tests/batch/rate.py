"""The rate of `frozenseg batch` against the model alone: python -m tests.batch.rate [IMAGES].

It is measured in processor time, which a busy machine hardly changes. The model alone has its
images decoded and resized before, and its results are thrown away.
"""

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

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


def alone(worker: Worker) -> float:
    """Seconds of the processor for an image, model and post-processing."""
    predictor, words = worker.predictor, worker.plan.vocabulary
    items = [item for number in worker.manifest.shards for item in worker.manifest.items(number)]
    ready = [predictor._prepare(item.path) for item in items]
    text = predictor.embed(words)
    start = time.process_time()
    for _ in segment_stream(predictor.pipeline, ready, text, words, batch_size=BATCH):
        pass
    return (time.process_time() - start) / len(items)


def one_process(worker: Worker) -> float:
    """The same of making the shards in this process."""
    start = time.process_time()
    for number in worker.manifest.shards:
        worker.make(number)
    return (time.process_time() - start) / worker.manifest.total


def two_processes(folder: Path, few: int, many: int) -> float:
    """The same of two processes: what more images take, without the loading of the models."""
    spent = []
    for images in (few, many):
        plan = plan_of(folder / str(images), images)
        before = _children()
        make_shards(plan, list(range(images // 12)), lambda error: None, devices=["cpu", "cpu"])
        spent.append(_children() - before)
    return (spent[1] - spent[0]) / (many - few)


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
        model, pipeline = alone(worker), one_process(worker)
        say(f"model alone: {1000 * model:.1f} ms of one core an image")
        say(f"1 process: {1000 * pipeline:.1f} ms, ratio {model / pipeline:.3f}")
        both = two_processes(Path(folder), 24, 24 + images)
        say(f"2 processes: {1000 * both:.1f} ms, ratio {model / both:.3f}")
