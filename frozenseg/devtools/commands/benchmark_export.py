"""Compare exported files with the model that they were made from: outputs, scores, time, size.

The scenes are those of the small world's validation split, in the order of evaluation. All files
and our own model in float32 take turns on each scene, so that changes in the machine's speed affect
all of them.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from frozenseg.build.evaluator import EvalDataset, build_tasks, eval_datasets
from frozenseg.build.exported import load_exported
from frozenseg.build.prediction import build_predictor
from frozenseg.build.run_folder import model_config
from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.data.images import read_image
from frozenseg.devtools.speed.report import machine
from frozenseg.evaluation.tasks import PanopticEvaluator
from frozenseg.export.session import OnnxModel
from frozenseg.files import user_path, write_json
from frozenseg.inference.segment import ModelOutput, Request
from frozenseg.predictor import Predictor
from frozenseg.structures import ImageBatch, MaskPredictions, Prediction, TextEmbeddings

OURS = "ours, float32"
DATA = "DETECTRON2_DATASETS"
# The exported files are compared without SAM's proposals.
OPTIONS = ["TEST.USE_SAM_MASKS", "False", "DATASETS.TEST", "('small_world_val',)"]


@dataclass
class Runner:
    """One way to run the model, and its measurements.

    size: size of the exported file in bytes.
    seconds: wall-clock time of the network, without post-processing, for each scene.
    processor: its processor time in seconds, summed over all cores, for each scene.
    classes: the largest difference of class probabilities from those of our model.
    masks: the largest difference of mask logits, relative to the largest of our model.
    pixels: for each scene, the share of pixels that get the same class as from our model.
    """

    name: str
    predictor: Predictor
    task: PanopticEvaluator
    size: int = 0
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    classes: float = 0.0
    masks: float = 0.0
    pixels: list[float] = field(default_factory=list)

    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        """Run the network and record the time."""
        start, processor = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            found = self.predictor.model.predict(images, text)
        self.seconds.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - processor)
        return found

    def compare(self, found: MaskPredictions, truth: MaskPredictions) -> None:
        """Record how the network's output `found` differs from our model's, `truth`."""
        pairs = found.class_logits.softmax(-1), truth.class_logits.softmax(-1)
        self.classes = max(self.classes, float((pairs[0] - pairs[1]).abs().max()))
        difference = (found.mask_logits - truth.mask_logits).abs().max()
        self.masks = max(self.masks, float(difference / truth.mask_logits.abs().max()))

    def row(self, ours: "Runner") -> dict[str, Any]:
        """Return the measured numbers.

        ours: the runner of our model; relative times are relative to it.
        """
        scores = self.task.summary(self.task.metric.compute())
        ratios = {
            kind: statistics.median(
                mine / other
                for mine, other in zip(getattr(self, kind), getattr(ours, kind), strict=True)
            )
            for kind in ("seconds", "processor")
        }
        return {
            "class probabilities, largest difference": self.classes,
            "mask logits, largest relative difference": self.masks,
            "pixels with our class, %": 100 * float(np.mean(self.pixels)) if self.pixels else 100.0,
            "PQ": round(scores["PQ"], 2),
            "seconds, median": round(statistics.median(self.seconds), 4),
            "seconds over ours": round(ratios["seconds"], 3),
            "processor time over ours": round(ratios["processor"], 3),
            "MB": round(self.size / 1e6, 1),
        }


def main(argv: list[str]) -> None:
    """Measure, print a table, and write it as JSON."""
    arguments = _parser().parse_args(argv)
    check_least(arguments, scenes=1, threads=1)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        _make_scenes(Path(folder), arguments.scenes)
        cfg = model_config(arguments.config_file, options=OPTIONS, device="cpu")
        (scenes,) = eval_datasets(cfg)
        runners = [Runner(OURS, build_predictor(cfg), _task(scenes))]
        for path, device in itertools.product(arguments.files, arguments.device):
            predictor = load_exported(path, device)
            name = f"{path.name}, {device}"
            runners.append(Runner(name, predictor, _task(scenes), path.stat().st_size))
        _measure(scenes, runners)
    rows = {runner.name: runner.row(runners[0]) for runner in runners}
    for name, row in rows.items():
        print(name, *(f"  {what}: {value:.4g}" for what, value in row.items()), sep="\n")
    if arguments.json is not None:
        about = {"machine": machine(torch.device("cpu")), "scenes": arguments.scenes}
        write_json(arguments.json, {**about, "threads": arguments.threads, "rows": rows}, indent=1)


def _task(scenes: EvalDataset) -> PanopticEvaluator:
    task = build_tasks(scenes)["panoptic"]
    assert isinstance(task, PanopticEvaluator), "as the table of evaluators says"
    return task


def _measure(scenes: EvalDataset, runners: list[Runner]) -> None:
    ours, words = runners[0], scenes.vocabulary
    text, exported = ours.predictor.embed(words), runners[-1].predictor
    assert isinstance(exported.model, OnnxModel), "`load_exported` makes one"
    window = exported.model.window
    for number, record in enumerate(scenes.dataset.records):
        pixels = read_image(record.image_path)
        image = exported.resize(pixels)
        size = (image.shape[-2], image.shape[-1])
        padded = F.pad(image.float(), (0, window[1] - size[1], 0, window[0] - size[0]))
        images = ImageBatch(padded[None], [size])
        first = number % len(runners)
        found = {}
        for runner in runners[first:] + runners[:first]:
            found[runner.name] = runner.predict(images, text)
        our_classes = None
        for runner in runners:
            runner.compare(found[runner.name], found[OURS])
            request = Request(image, (pixels.shape[0], pixels.shape[1]))
            output = ModelOutput([request], images, found[runner.name], text.seen)
            (result,) = runner.predictor.pipeline.finish(output, words)
            assert isinstance(result, Prediction), "scenes are small"
            runner.task.update(record, result)
            assert result.panoptic is not None, "the configuration makes it"
            classes = result.panoptic.class_map()
            our_classes = classes if our_classes is None else our_classes
            runner.pixels.append(float((classes == our_classes).mean()))


def _make_scenes(root: Path, count: int) -> None:
    os.environ[DATA] = str(root)
    command = [sys.executable, "-m", "frozenseg", "make_small_world", "--split", "val"]
    more = ["--output", str(root / "small_world"), "--count", str(count)]
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frozenseg benchmark_export", description=__doc__)
    add = parser.add_argument
    add("files", nargs="+", type=user_path, metavar="FILE", help="written by `frozenseg export`")
    add("--config-file", default="small", help="the model that they were made from")
    where = "where the files run (default: cpu, which is ONNX Runtime's)"
    add("--device", nargs="+", default=["cpu"], help=where)
    add("--scenes", type=int, default=50, help="number of scenes (default: 50)")
    add("--threads", type=int, default=2, help="CPU threads (default: 2)")
    add("--json", type=output_file, help="write the numbers to this file")
    return parser
