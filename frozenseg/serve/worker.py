"""The process that holds the model: it decodes images, segments them, and writes the answers.

What an image can do to a decoder or to memory happens here, and the service outlives it.
"""

import io
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.build.prediction import build_predictor
from frozenseg.build.run_folder import model_config
from frozenseg.data.images import open_image
from frozenseg.errors import UserError, one_line
from frozenseg.files import json_text
from frozenseg.predictor import Predictor
from frozenseg.results.result import SegmentationResult
from frozenseg.runtime.allocator import configure_allocator
from frozenseg.serve.answers import answer_of
from frozenseg.serve.jobs import Answer, Done, Job, ModelInfo, ModelSource
from frozenseg.serve.limits import Limits

SMALL_WORLD = "small_world"
GENERATED = "This model knows only the generated world: shapes and grounds, no photographs."


def work(connection: Connection, source: ModelSource, device: str | None, limits: Limits) -> None:
    """Load the model, send its `ModelInfo` or a line of error, and answer jobs until the end."""
    # Ctrl-C in a terminal reaches all processes; the service finishes its requests first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_allocator()
    try:
        predictor, info = _load(source, device)
        predictor.batch_size = limits.batch
    except UserError as error:
        connection.send(str(error))
        return
    connection.send(info)
    while True:
        try:
            jobs = connection.recv()
        except EOFError:  # the service has ended
            return
        connection.send(Done(answers(predictor, jobs, source.name, limits), _memory()))


def _load(source: ModelSource, device: str | None) -> tuple[Predictor, ModelInfo]:
    cfg = model_config(source.model, weights=source.weights, options=source.options, device=device)
    predictor = build_predictor(cfg)
    generated = any(name.startswith(SMALL_WORLD) for name in cfg.DATASETS.TRAIN)
    knows = GENERATED if generated else None
    return predictor, ModelInfo(str(predictor.model.device), predictor.note, knows)


def answers(predictor: Predictor, jobs: list[Job], model: str, limits: Limits) -> list[Answer]:
    """Segment the images of a batch, which have one vocabulary, and write the answers."""
    start = time.monotonic()
    images = [_pixels(predictor, job.image, limits) for job in jobs]
    good = [image for image in images if isinstance(image, np.ndarray)]
    vocabulary = jobs[0].vocabulary
    try:
        results = iter(predictor.stream(good, vocabulary, threshold=0.0))
        outcomes = [next(results) if isinstance(image, np.ndarray) else image for image in images]
    except UserError as error:  # of the vocabulary
        outcomes = [_failed(422, error) for _ in jobs]
    about = {"model": model, "seconds": round(time.monotonic() - start, 4)}
    return [_answer(job, outcome, about) for job, outcome in zip(jobs, outcomes, strict=True)]


def _answer(
    job: Job, outcome: SegmentationResult | UserError | Answer, about: dict[str, Any]
) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    if isinstance(outcome, UserError):
        return _failed(422, outcome)
    try:
        return answer_of(outcome.filter(threshold=job.threshold), job.tasks, job.format, about)
    except UserError as error:
        return _failed(422, error)


def _pixels(predictor: Predictor, content: bytes, limits: Limits) -> np.ndarray | Answer:
    """Decode an image, or say why not; its size is known before its pixels are decoded."""
    try:
        with open_image(io.BytesIO(content)) as image:
            width, height = image.size
    except UserError as error:
        return _failed(422, error)
    if width * height > limits.pixels:
        return _failed(
            413,
            f"image: {width} x {height} pixels, more than {limits.pixels:,}; scale it down first",
        )
    try:
        return predictor.read(content)
    except UserError as error:
        return _failed(422, error)


def _failed(status: int, reason: object) -> Answer:
    return Answer(json_text({"error": one_line(str(reason))}).encode(), status=status)


def _memory() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
