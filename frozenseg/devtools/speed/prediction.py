"""Time the prediction of one image, from its file to its results, stage by stage."""

import functools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.prediction import build_predictor
from frozenseg.devtools.speed.baselines import CLIP, SAM, Baseline
from frozenseg.devtools.speed.clock import Place, Stopwatch, replaced, seconds, stage_places
from frozenseg.devtools.speed.memory import Memory, measure_memory
from frozenseg.devtools.speed.setting import Setting
from frozenseg.inference.segment import ModelOutput
from frozenseg.predictor import Predictor
from frozenseg.structures import Prediction
from frozenseg.text.vocabulary import Vocabulary

WHOLE, OTHER, EAGER = "whole", "other", "whole, float32, not compiled"
TASKS = ("panoptic", "semantic", "instances")


@dataclass(frozen=True)
class Times:
    """Measured times.

    rows: {row: the seconds of every repetition}.
    stages: the rows that, together with `OTHER`, add up to `WHOLE`.
    agreement: the share of pixels with the same class as from the float32 model; None if this model
        did not run.
    """

    rows: dict[str, list[float]]
    stages: tuple[str, ...]
    memory: Memory
    agreement: float | None = None

    def median(self, name: str) -> float:
        """Return the median seconds of one row."""
        return statistics.median(self.rows[name])

    def ratio(self) -> float | None:
        """Return the time of `WHOLE` divided by that of both encoder baselines together.

        It is the median over the ratios of all repetitions, so that the machine's speed cancels
        out. None if the encoders did not run.
        """
        if SAM not in self.rows or CLIP not in self.rows:
            return None
        parts = zip(self.rows[WHOLE], self.rows[SAM], self.rows[CLIP], strict=True)
        return statistics.median(whole / (sam + clip) for whole, sam, clip in parts)


def timed_stages(
    places: list[Place], work: Callable[[], object], device: torch.device
) -> dict[str, float]:
    """Run the work once; return the seconds of each place, of the rest and of everything."""
    watch = Stopwatch(device)
    with watch.on(places):
        whole = seconds(work, device)
    times = watch.read()
    return {**times, OTHER: whole - sum(times.values()), WHOLE: whole}


class TimedPrediction:
    """A predictor and the file of the image that it segments."""

    def __init__(self, predictor: Predictor, setting: Setting, folder: Path) -> None:
        self.predictor = predictor
        self.device = predictor.model.device
        self.path = setting.write_image(folder)
        self.record, self.tasks = setting.write_truth(folder, self.path)
        self.vocabulary = setting.vocabulary()
        self.text = setting.text(predictor.model.text_encoder.embed_dim).to(self.device)
        self.result: Prediction | None = None

    def places(self) -> list[Place]:
        """List the methods that are timed, from decoding the image file to post-processing."""
        names = {"decoding": "read", "resizing": "resize"}
        places = [Place(name, self.predictor, method) for name, method in names.items()]
        places += stage_places(self.predictor.model)
        pipeline = self.predictor.pipeline
        if pipeline.proposals is not None:
            places.append(Place("SAM's proposals", pipeline, "proposals"))
        return [*places, Place("post-processing", pipeline, "finish")]

    def run(self) -> Prediction:
        """Segment the image; text vectors are given, and nothing is scored."""
        pixels = self.predictor.read(self.path)
        self.result = self.predictor.segment(pixels, self.vocabulary, self.text)
        return self.result

    def timed(self) -> dict[str, float]:
        """Time the prediction with its stages, then post-processing by task, then scoring."""
        pipeline = self.predictor.pipeline
        outputs: list[ModelOutput] = []

        def noting(_: Place, finish: Callable[..., Any]) -> Callable[..., Any]:
            def noted(output: ModelOutput, vocabulary: Vocabulary) -> Any:
                outputs.append(output)
                return finish(output, vocabulary)

            return noted

        with replaced([Place("", pipeline, "finish")], noting):
            times = timed_stages(self.places(), self.run, self.device)
        for task in TASKS:
            rules = replace(pipeline.post_processor, **{name: name == task for name in TASKS})
            finish = replace(pipeline, post_processor=rules).finish
            alone = functools.partial(finish, outputs[-1], self.vocabulary)
            times[f"post-processing, {task} alone"] = seconds(alone, self.device)
        times["scoring"] = seconds(self.score, self.device)
        return times

    def score(self) -> None:
        """Update the metric of each task with the last result and compute the scores."""
        assert self.result is not None, "`run` comes first"
        for task in self.tasks.values():
            task.metric.reset()
            task.update(self.record, self.result)
            task.metric.compute()


def prediction_times(
    cfg: CfgNode,
    setting: Setting,
    *,
    baselines: list[Baseline],
    repeats: int,
    beside_eager: bool = False,
) -> Times:
    """Time predictions in turn with the baselines, so that changes of speed affect all of them.

    Memory is measured on the first image.

    repeats: number of timed repetitions, after one that warms up.
    beside_eager: whether to time the same model in float32 and not compiled in turn too.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours = TimedPrediction(build_predictor(cfg), setting, Path(folder))
        if cfg.MODEL.COMPILE:
            ours.run()  # so that the memory of the compiler is not counted
        memory = measure_memory(ours.run, ours.device)
        eager = TimedPrediction(_eager(cfg), setting, Path(folder)) if beside_eager else None
        if eager is not None:
            eager.run()
        rounds = []
        for number in range(1 + repeats):
            times = ours.timed()
            if eager is not None:
                times[EAGER] = seconds(eager.run, eager.device)
            times |= {baseline.name: baseline.seconds() for baseline in baselines}
            if number > 0:  # the first warms up
                rounds.append(times)
        agreement = _agreement(ours.result, eager.result) if eager is not None else None
    rows = {name: [times.get(name, 0.0) for times in rounds] for name in rounds[0]}
    stages = tuple(dict.fromkeys(place.name for place in ours.places()))
    return Times(rows, tuple(name for name in stages if name in rows), memory, agreement)


def _eager(cfg: CfgNode) -> Predictor:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PRECISION, cfg.MODEL.COMPILE = "fp32", False
    return build_predictor(cfg)


def _agreement(first: Prediction | None, second: Prediction | None) -> float:
    """Compute the share of pixels that have the same class in both panoptic results."""
    assert first is not None and first.panoptic is not None
    assert second is not None and second.panoptic is not None
    return float((first.panoptic.class_map() == second.panoptic.class_map()).mean())
