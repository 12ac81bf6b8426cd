"""Measure the speed of the published model on a GPU: in total, by stage, and beside baselines."""

import functools
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from frozenseg.build.device import build_precision
from frozenseg.build.prediction import predictor_of
from frozenseg.devtools.commands.analyze_model import count_flops, count_parameters
from frozenseg.devtools.gpu.profiling import take_profile
from frozenseg.devtools.gpu.sections import Results
from frozenseg.devtools.gpu.trial import PRECISIONS, Trial
from frozenseg.devtools.speed.baselines import encoder_setting, encoder_works
from frozenseg.devtools.speed.clock import Stopwatch, seconds, stage_places
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.devtools.speed.prediction import TimedPrediction
from frozenseg.devtools.speed.setting import random_model
from frozenseg.inference.segment import Request
from frozenseg.structures import ImageBatch

BATCHES = (1, 8)
LOOP_BATCHES = 4  # of the timed loop over images; several, as the first and last do not overlap
UNUSED = ("CLIP text tower", "SAM prompts and masks")  # parameters not used for an image


def card(trial: Trial) -> Results:
    """Measure the rates of the GPU, and the least time that one image needs at these rates."""
    device, side = trial.device, 128 if trial.tiny else 8192
    left, right = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    rate = 2.0 * side**3 / _median(lambda: left @ right, trial)
    yield "matrix product in bf16, TFLOP/s", round(rate / 1e12, 4)
    source = torch.empty(1 << (20 if trial.tiny else 30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / _median(lambda: target.copy_(source), trial)
    yield "copy, GB/s read and written", round(bandwidth / 1e9, 1)
    cfg = trial.config("MODEL.PRECISION", "fp32")
    model = random_model(cfg, device).eval()
    counts = count_flops(model, trial.setting().size, trial.setting().classes)
    yield "GFLOP", {stage: round(count / 1e9, 1) for stage, count in counts.items()}
    parameters = sum(
        sum(kinds) for stage, kinds in count_parameters(model).items() if stage not in UNUSED
    )
    yield "parameters that an image reads, millions", round(parameters / 1e6, 1)
    yield "floor by operations, ms", round(counts["total"] / rate * 1e3, 3)
    yield "floor by reading weights of 2 bytes, ms", round(2 * parameters / bandwidth * 1e3, 3)


def whole(trial: Trial, precision: str) -> Results:
    """Time everything from an image's file to its results, beside the original encoders."""
    device, ours = trial.device, _timed(trial, precision)
    memory = measure_memory(ours.run, device)
    yield "memory, GB", memory.report()
    for _ in range(2):
        ours.timed()  # warms up
    rounds = [ours.timed() for _ in range(trial.repeats)]
    rows = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    yield "ms by stage", _milliseconds(rows)
    image = _median(ours.run, trial)
    yield "file to results, ms", round(image * 1e3, 3)
    yield (
        "file to results, profile",
        take_profile(ours.run, device, trial.folder / f"profile_image_{precision}.txt").results(),
    )
    cfg = trial.config("MODEL.PRECISION", precision)
    encoders = encoder_setting(cfg, trial.setting(), build_precision(cfg, device))
    if encoders is not None:
        works = encoder_works(encoders)
        times = {name: _median(work, trial) for name, work in works.items()}
        yield "yardsticks, ms", _milliseconds(times)
        yield "file to results / yardsticks", round(image / sum(times.values()), 3)


def network(trial: Trial, precision: str, batch: int) -> Results:
    """Time a batch: the model without and with post-processing, everything from the files to the
    results, and a loop over several batches."""
    device, ours = trial.device, _timed(trial, precision)
    predictor = ours.predictor
    pipeline = predictor.pipeline
    pixels = predictor.resize(predictor.read(ours.path))
    images = ImageBatch.collate([pixels] * batch, pipeline.model.size_divisor).to(device)

    @torch.inference_mode()
    def predict() -> object:
        with pipeline.precision.autocast():
            return pipeline.model.predict(images, ours.text)

    def several() -> object:
        requests = [Request(pixels, trial.setting().size)] * batch
        return pipeline.finish(pipeline.predict(requests, ours.text), ours.vocabulary)

    def files() -> object:
        return predictor.batch([ours.path] * batch, ours.vocabulary)

    def loop() -> object:
        predictor.batch_size = batch
        return [*predictor.stream([ours.path] * (LOOP_BATCHES * batch), ours.vocabulary)]

    predict()
    yield "memory, GB", measure_memory(predict, device).report()
    for name, work in (("model", predict), ("and results", several), ("from files on", files)):
        work()
        median = _median(work, trial)
        yield f"{name}, ms an image", round(median / batch * 1e3, 3)
        yield f"{name}, images/s", round(batch / median, 2)
    loop()
    yield "loop, images/s", round(LOOP_BATCHES * batch / _median(loop, trial), 2)
    watch = Stopwatch(device)
    rounds = []
    for _ in range(trial.repeats):
        with watch.on(stage_places(pipeline.model)):
            predict()
        rounds.append(watch.read())
    rows = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    yield "ms by stage, whole batch", _milliseconds(rows)
    # Kernels hardly differ between the half precisions: one table for each batch size is enough.
    path = trial.folder / f"profile_model_batch{batch}.txt" if precision == PRECISIONS[0] else None
    yield "model, profile", take_profile(predict, device, path).results()


def _median(work: Callable[[], object], trial: Trial) -> float:
    """Return the median seconds of the repetitions that follow two warm-up runs."""
    times = [seconds(work, trial.device) for _ in range(2 + trial.repeats)]
    return statistics.median(times[2:])


def _milliseconds(rows: dict[str, float]) -> dict[str, float]:
    return {name: round(value * 1e3, 3) for name, value in rows.items()}


@functools.lru_cache(maxsize=1)
def _timed(trial: Trial, precision: str) -> TimedPrediction:
    """Make a model of one precision and an image for it; both are kept for the next parts."""
    cfg = trial.config("MODEL.PRECISION", precision)
    predictor = predictor_of(cfg, random_model(cfg, trial.device))
    ours = TimedPrediction(predictor, trial.setting(), trial.scratch)
    # Text vectors are made up, because the time does not depend on them.
    made_up: Any = SimpleNamespace(embed=lambda *_, **__: ours.text)
    predictor.text_classifier = made_up
    return ours


PARTS: dict[str, Callable[[Trial], Results]] = {"card": card}
for _precision in PRECISIONS:
    PARTS[f"{_precision}, whole"] = functools.partial(whole, precision=_precision)
    for _batch in BATCHES:
        PARTS[f"{_precision}, batch {_batch}"] = functools.partial(
            network, precision=_precision, batch=_batch
        )
