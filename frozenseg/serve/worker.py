"""The process that holds the model: it decodes images, segments them, and encodes the answers.

If a malicious image crashes a decoder or exhausts memory, only this process ends, not the service.
"""

import io
import itertools
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from frozenseg.build.backend import PYTORCH
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
from frozenseg.serve.privacy import nothing_logged

SMALL_WORLD = "small_world"
GENERATED = "This model knows only the generated world: shapes and grounds, no photographs."


def work(connection: Connection, source: ModelSource, device: str | None, limits: Limits) -> None:
    """Load the model, send its `ModelInfo`, and answer jobs until the service ends.

    If the model cannot be loaded, send one line of error instead, and return.
    """
    configure_allocator()
    try:
        predictor, info = _load(source, device)
        predictor.batch_size = limits.batch
    except UserError as error:
        connection.send(str(error))
        return
    connection.send(info)
    with nothing_logged():
        while True:
            try:
                jobs = connection.recv()
            except EOFError:  # the service has ended
                return
            connection.send(Done(answers(predictor, jobs, source.name, limits), _memory()))


def _load(source: ModelSource, device: str | None) -> tuple[Predictor, ModelInfo]:
    cfg = model_config(source.model, weights=source.weights, options=source.options, device=device)
    predictor = build_predictor(cfg)
    predictor.text_classifier.keep_off_disk()
    generated = any(name.startswith(SMALL_WORLD) for name in cfg.DATASETS.TRAIN)
    knows = GENERATED if generated else None
    makes_graphs = cfg.MODEL.BACKEND != PYTORCH
    return predictor, ModelInfo(str(predictor.model.device), predictor.note, knows, makes_graphs)


def answers(predictor: Predictor, jobs: list[Job], model: str, limits: Limits) -> list[Answer]:
    """Segment the images of a batch, which share a vocabulary, and encode the answers.

    A result takes about a hundred bytes for each pixel of its image. The images are therefore
    segmented in groups of at most `limits.pixels` pixels in total, so that only the results of one
    group are in memory at a time.
    """
    images = [_pixels(predictor, job.image, limits) for job in jobs]
    done: list[Answer] = []
    for part in _parts(images, limits.pixels):
        done += _answers(predictor, jobs[part], images[part], model)
    return done


def _parts(images: list[np.ndarray | Answer], most: int) -> list[slice]:
    """Split images into groups of consecutive ones, of at most `most` pixels or of one image."""
    ends, pixels = [0], 0
    for place, image in enumerate(images):
        size = image.shape[0] * image.shape[1] if isinstance(image, np.ndarray) else 0
        if pixels and pixels + size > most:
            ends.append(place)
            pixels = 0
        pixels += size
    return [slice(*pair) for pair in itertools.pairwise([*ends, len(images)])]


def _answers(
    predictor: Predictor, jobs: list[Job], images: list[np.ndarray | Answer], model: str
) -> list[Answer]:
    start = time.monotonic()
    good = [image for image in images if isinstance(image, np.ndarray)]
    try:
        results = iter(predictor.stream(good, jobs[0].vocabulary, threshold=0.0))
        outcomes = [next(results) if isinstance(image, np.ndarray) else image for image in images]
    except UserError as error:  # an error in the vocabulary, which all jobs share
        outcomes = [_failed(422, error) for _ in jobs]
    seconds = round(time.monotonic() - start, 4)
    pairs = zip(jobs, outcomes, strict=True)
    return [_answer(job, outcome, model, seconds) for job, outcome in pairs]


def _answer(
    job: Job, outcome: SegmentationResult | UserError | Answer, model: str, seconds: float
) -> Answer:
    if isinstance(outcome, Answer):
        return outcome
    if isinstance(outcome, UserError):
        return _failed(422, outcome)
    try:
        kept = outcome.filter(threshold=job.threshold)
        return answer_of(kept, job.tasks, job.format, model, seconds)
    except UserError as error:
        return _failed(422, error)


def _pixels(predictor: Predictor, content: bytes, limits: Limits) -> np.ndarray | Answer:
    """Decode an image, or return an error; its size is checked before its pixels are decoded."""
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
    """Return the resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
