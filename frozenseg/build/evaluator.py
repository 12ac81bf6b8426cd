"""Build the evaluator of a model, and the data sets of its evaluation, from a configuration."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build.families import find_family
from frozenseg.build.kept_predictions import kept_files
from frozenseg.build.models import embed
from frozenseg.build.prediction import build_pipeline
from frozenseg.build.setting import data_sets
from frozenseg.build.training_data import log_data_set
from frozenseg.build.transforms import eval_transform
from frozenseg.build.vocabulary import build_seen_vocabulary, build_vocabulary
from frozenseg.data.annotations import require_objects
from frozenseg.data.benchmarks import (
    data_root,
    find_benchmark,
    load_records,
    require_in_place,
)
from frozenseg.data.benchmarks.row import Benchmark
from frozenseg.data.coco_json import ImageId, check_categories_agree
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.detection_truth import objects_of_records
from frozenseg.data.prediction_lines import Part
from frozenseg.data.readers import cityscapes_file
from frozenseg.data.records import Categories
from frozenseg.engine.distributed import all_gather_json, is_main, rank, world_size
from frozenseg.errors import UserError
from frozenseg.evaluation.cityscapes import CityscapesAP
from frozenseg.evaluation.evaluator import (
    DETECTION,
    EvalAugmentation,
    Evaluator,
    ScoredDataset,
    Scoring,
)
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.tasks import (
    DetectionEvaluator,
    MosaicEvaluator,
    OracleEvaluator,
    PanopticEvaluator,
    RecallEvaluator,
    SemanticEvaluator,
    Task,
    VideoEvaluator,
    WholeEvaluator,
)
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.background import cores
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

BY_CLASS: dict[str, Callable[[Categories, list[bool]], Task]] = {
    "panoptic": PanopticEvaluator,
    "video": VideoEvaluator,
    "semantic": SemanticEvaluator,
    "oracle": OracleEvaluator,
    "mosaic": MosaicEvaluator,
    "whole": WholeEvaluator,
    "recall": RecallEvaluator,
}
"""Task -> its evaluator, for tasks whose only ground truth is the annotation of the data set."""


@dataclass(frozen=True)
class EvalDataset:
    """One set of DATASETS.TEST: its images, its classes, and the tasks that are scored on it.

    vocabulary: the names of its classes. training: the classes that count as seen.
    """

    name: str
    benchmark: Benchmark
    dataset: SegmentationDataset
    vocabulary: Vocabulary
    training: Vocabulary
    tasks: tuple[str, ...]

    @property
    def categories(self) -> Categories:
        """The categories of the annotation."""
        return self.dataset.categories


def eval_datasets(cfg: CfgNode) -> list[EvalDataset]:
    """Read and check all sets of DATASETS.TEST; called before the first image is segmented."""
    return [_test_set(cfg, name) for name in data_sets(cfg, "TEST")]


def _test_set(cfg: CfgNode, name: str) -> EvalDataset:
    benchmark = find_benchmark(name)
    records, categories = load_records(name)
    if benchmark.reader != "images":
        require_objects(records, benchmark.targets, name)
    elif not cfg.TEST.SAVE_PREDICTIONS:
        raise UserError(
            f"{name}: has no annotation for scores; set TEST.SAVE_PREDICTIONS True to save the "
            "predictions"
        )
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=eval_transform(cfg, benchmark),
        targets=None,
    )
    tasks = wanted_tasks(cfg, benchmark)
    if benchmark.derives_objects and not any(categories.is_thing):
        tasks = tuple(task for task in tasks if task != "instances")
    if not tasks:
        raise UserError(f"{name}: nothing to score; see MODEL.MASK_FORMER.TEST.*_ON")
    if set(tasks) & set(DETECTION):
        require_in_place(name, (benchmark.instances,), data_root())
    vocabulary, training = build_vocabulary(cfg, name, categories), build_seen_vocabulary(cfg, name)
    if is_main():
        log_data_set(name, records, vocabulary.summary(training), categories.names)
    return EvalDataset(name, benchmark, dataset, vocabulary, training, tasks)


def wanted_tasks(cfg: CfgNode, benchmark: Benchmark) -> tuple[str, ...]:
    """Return the tasks that the benchmark supports and that the configuration switches on."""
    test, by_class = cfg.MODEL.MASK_FORMER.TEST, find_family(cfg).queries_classes
    switches = {
        "panoptic": test.PANOPTIC_ON,
        "video": test.PANOPTIC_ON,
        "semantic": test.SEMANTIC_ON,
        "instances": test.INSTANCE_ON,
        "lvis": test.INSTANCE_ON,
        "cityscapes": test.INSTANCE_ON,
        "oracle": by_class,
        "whole": test.SEMANTIC_ON,
        "mosaic": test.SEMANTIC_ON,
    }
    possible = benchmark.evaluators or benchmark.tasks
    tasks = tuple(name for name in possible if switches.get(name, False))
    if benchmark.reader == "images":
        return tasks
    if cfg.TEST.ORACLE_PRESENCE and not by_class:
        name = cfg.MODEL.META_ARCHITECTURE
        raise UserError(
            f"TEST.ORACLE_PRESENCE: {name} does not make a mask for a single class; set it False"
        )
    if cfg.TEST.ORACLE_PRESENCE and "semantic" in benchmark.tasks and "oracle" not in tasks:
        tasks = (*tasks, "oracle")
    return (*tasks, "recall") if test.RECALL_ON and "semantic" in benchmark.tasks else tasks


def build_scoring(cfg: CfgNode, entry: EvalDataset) -> Scoring:
    """Return the scoring of a data set, with the ground truth of every task."""
    kept = kept_files(cfg, entry.name, entry.benchmark, entry.dataset, entry.tasks)
    return Scoring(name=entry.name, tasks=build_tasks(entry), kept=kept)


def build_evaluator(
    cfg: CfgNode,
    model: SegmentationModel,
    sets: Sequence[EvalDataset],
    part: Part | None = None,
) -> Evaluator:
    """Build the evaluator; it reads the ground truth of every task, so that errors show at once.

    part: the part of the images to score, if other machines score the rest; None: the share of
        this process.
    """
    test = cfg.TEST.AUG
    augmentation = EvalAugmentation(
        short_sides=tuple(test.MIN_SIZES), long_side=test.MAX_SIZE, flip=test.FLIP
    )
    return Evaluator(
        sets=[
            ScoredDataset(
                **vars(build_scoring(cfg, entry)),
                dataset=entry.dataset,
                vocabulary=entry.vocabulary,
                text=embed(cfg, model, entry.vocabulary, entry.training),
                wanted=entry.tasks,
            )
            for entry in sets
        ],
        pipeline=build_pipeline(cfg, model),
        augmentation=augmentation if test.ENABLED else None,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        scorers=max(1, cores() // world_size()),
        rank=rank() if part is None else part.number - 1,
        world_size=world_size() if part is None else part.total,
        gather=all_gather_json,
    )


def build_tasks(eval_dataset: EvalDataset) -> dict[str, Task]:
    """Make the evaluator of each task of a data set, with its ground truth."""
    categories, benchmark = eval_dataset.categories, eval_dataset.benchmark
    seen = eval_dataset.vocabulary.seen(eval_dataset.training)
    records = eval_dataset.dataset.records
    source = str(data_root() / (benchmark.instances or benchmark.truth))
    truth: Any = Path(source)
    if benchmark.derives_objects and "instances" in eval_dataset.tasks:
        truth = objects_of_records(records, categories)
    tasks: dict[str, Task] = {}
    if benchmark.reader == "images":
        return tasks
    for name in eval_dataset.tasks:
        if name in BY_CLASS:
            tasks[name] = BY_CLASS[name](categories, seen)
        elif name == "cityscapes":
            ids = [record.image_id for record in records]
            paths = {name: truth / cityscapes_file(name, "gtFine_instanceIds") for name in ids}
            tasks[name] = DetectionEvaluator(categories, seen, CityscapesAP(ground_truth=paths))
        else:
            metric = LvisAP if name == "lvis" else InstanceAP
            prefix = "LVIS " if name == "lvis" and "instances" in eval_dataset.tasks else ""
            images = {record.image_id for record in records}
            for kind, suffix in (("segm", ""), ("bbox", "_boxes")):
                average = metric(ground_truth=truth, kind=kind, images=images)
                _check_objects(average, categories, images, source, benchmark.annotations)
                tasks[name + suffix] = DetectionEvaluator(categories, seen, average, prefix=prefix)
    return tasks


def _check_objects(
    metric: InstanceAP | LvisAP,
    categories: Categories,
    images: set[ImageId],
    source: str,
    annotation: str,
) -> None:
    """Refuse a ground truth of AP whose images or classes differ from those of the annotation.

    Otherwise only a prediction would reveal the difference. images: the ids of all scored images.
    source, annotation: the names of both files, for messages.
    """
    check_categories_agree(metric.categories, categories, source, annotation)
    flags = zip(categories.dataset_ids, categories.is_thing, strict=True)
    things = {number for number, is_thing in flags if is_thing}
    ids = set(metric.categories.dataset_ids)
    for absent, what in (
        (images - metric.sizes.keys(), "lacks image {!r} of {}"),
        (things - ids, "lacks category {} of {}, a thing"),
        (ids - set(categories.dataset_ids), "has category {}, which {} lacks"),
    ):
        if absent:
            difference = what.format(min(absent, key=str), annotation)
            raise UserError(f"{source}: {difference} ({len(absent)} in all); make both again")
