"""A configuration as evaluations of a model, one for each set of DATASETS.TEST."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.models import build_precision
from frozenseg.build.prediction import build_post_processor, build_sam_masks
from frozenseg.build.training import embed
from frozenseg.build.vocabulary import build_seen_vocabulary, build_vocabulary
from frozenseg.data.annotations import (
    load_image,
    load_semantic,
    require_objects,
    scored_classes,
)
from frozenseg.data.benchmarks import (
    Benchmark,
    data_root,
    find_benchmark,
    load_records,
    require_in_place,
)
from frozenseg.data.coco_json import check_categories_agree
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.loader import eval_loader
from frozenseg.data.readers import cityscapes_file
from frozenseg.data.records import Categories
from frozenseg.data.transforms import ShortestEdgeResize
from frozenseg.drawing.visualize import draw_segments
from frozenseg.engine.distributed import all_gather_json, is_main, rank, world_size
from frozenseg.engine.logger import TrainingLog
from frozenseg.errors import UserError, WriteError
from frozenseg.evaluation.cityscapes import CityscapesAP
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.evaluation.runner import Evaluation, evaluate
from frozenseg.evaluation.tasks import (
    DetectionEvaluator,
    MosaicEvaluator,
    OracleEvaluator,
    PanopticEvaluator,
    RecallEvaluator,
    SemanticEvaluator,
    Task,
    WholeEvaluator,
)
from frozenseg.files import atomic_path
from frozenseg.inference.augmentation import average_scores, views
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_sources import ProposalSource
from frozenseg.inference.segment import segment_image
from frozenseg.models.base import SegmentationModel, evaluation_mode
from frozenseg.runtime.precision import Precision
from frozenseg.structures import Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

DETECTION = ("instances", "lvis", "cityscapes")
PRESENT = 0.5  # a class is there if it is more likely than not (arXiv 2210.15138)
SCORES_ONLY = PostProcessor(panoptic=False, semantic=False, instances=False, semantic_scores=True)


@dataclass(frozen=True)
class EvalDataset:
    """One set of DATASETS.TEST: its images, its classes, and what it can be scored for.

    training: the classes that count as seen.
    """

    name: str
    benchmark: Benchmark
    dataset: SegmentationDataset
    vocabulary: Vocabulary
    training: Vocabulary
    tasks: tuple[str, ...]

    @property
    def categories(self) -> Categories:
        return self.dataset.categories


def eval_datasets(cfg: CfgNode) -> list[EvalDataset]:
    """All sets, read and checked before the first image is looked at."""
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name at least one data set")
    return [_test_set(cfg, name) for name in cfg.DATASETS.TEST]


def _test_set(cfg: CfgNode, name: str) -> EvalDataset:
    benchmark = find_benchmark(name)
    records, categories = load_records(name)
    require_objects(records, benchmark.targets, name)
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=eval_transform(cfg, benchmark),
        targets=None,
    )
    tasks = wanted_tasks(cfg, benchmark)
    if not tasks:
        raise UserError(f"{name}: nothing to score; see MODEL.MASK_FORMER.TEST.*_ON")
    if set(tasks) & set(DETECTION):
        require_in_place(name, (benchmark.instances,), data_root())
    vocabulary, training = build_vocabulary(cfg, name, categories), build_seen_vocabulary(cfg, name)
    if is_main():
        logger.info("%s: %s", name, vocabulary.summary(training))
    return EvalDataset(name, benchmark, dataset, vocabulary, training, tasks)


def eval_transform(cfg: CfgNode, benchmark: Benchmark) -> ShortestEdgeResize:
    """The benchmark's own sizes, where INPUT.SIZE_TEST_OF_BENCHMARK; else INPUT.*_SIZE_TEST."""
    short, long = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.SIZE_TEST_OF_BENCHMARK:
        short, long = benchmark.test_size
    return ShortestEdgeResize(short=short, long=long)


def wanted_tasks(cfg: CfgNode, benchmark: Benchmark) -> tuple[str, ...]:
    """What the benchmark can be scored for, of what the configuration switches on."""
    test, fusioner = cfg.MODEL.MASK_FORMER.TEST, cfg.MODEL.META_ARCHITECTURE == "Fusioner"
    switches = {
        "panoptic": test.PANOPTIC_ON,
        "semantic": test.SEMANTIC_ON,
        "instances": test.INSTANCE_ON,
        "lvis": test.INSTANCE_ON,
        "cityscapes": test.INSTANCE_ON,
        "oracle": fusioner,
        "whole": test.SEMANTIC_ON,
        "mosaic": test.SEMANTIC_ON,
    }
    possible = benchmark.evaluators or benchmark.tasks
    found = tuple(name for name in possible if switches.get(name, False))
    if cfg.TEST.ORACLE_PRESENCE and not fusioner:
        raise UserError("TEST.ORACLE_PRESENCE: only Fusioner's masks stand by themselves")
    if cfg.TEST.ORACLE_PRESENCE and "semantic" in benchmark.tasks and "oracle" not in found:
        found = (*found, "oracle")
    return (*found, "recall") if test.RECALL_ON and "semantic" in benchmark.tasks else found


@dataclass(frozen=True)
class Evaluator:
    """A model and the sets it is tested on; their text vectors and tasks are made once."""

    cfg: CfgNode
    model: SegmentationModel
    sets: list[EvalDataset]
    tasks: list[dict[str, Task]]
    texts: list[TextEmbeddings]
    sam_masks: ProposalSource | None
    precision: Precision

    @classmethod
    def prepare(
        cls, cfg: CfgNode, model: SegmentationModel, sets: list[EvalDataset]
    ) -> "Evaluator":
        """Reads the truth of every task too, so that what is wrong with it shows at once."""
        tasks = [_tasks(entry) for entry in sets]
        texts = [embed(cfg, model, entry.vocabulary, entry.training) for entry in sets]
        proposals, precision = build_sam_masks(cfg, model), build_precision(cfg, model.device)
        return cls(cfg, model, sets, tasks, texts, proposals, precision)

    @property
    def metrics(self) -> dict[str, list[str]]:
        """The names of all scores that `evaluate` will give, by data set."""
        return {
            eval_dataset.name: [name for task in tasks.values() for name in task.names]
            for eval_dataset, tasks in zip(self.sets, self.tasks, strict=True)
        }

    def evaluate(self) -> dict[str, Evaluation]:
        """Every set in turn, its images shared by the processes."""
        with evaluation_mode(self.model):
            return {
                eval_dataset.name: self._evaluate(eval_dataset, tasks, text)
                for eval_dataset, tasks, text in zip(self.sets, self.tasks, self.texts, strict=True)
            }

    def _evaluate(
        self, eval_dataset: EvalDataset, tasks: dict[str, Task], text: TextEmbeddings
    ) -> Evaluation:
        return evaluate(
            self.segmenter(eval_dataset, text),
            eval_loader(
                eval_dataset.dataset,
                num_workers=self.cfg.DATALOADER.NUM_WORKERS,
                rank=rank(),
                world_size=world_size(),
            ),
            tasks,
            gather=all_gather_json,
            title=eval_dataset.name[-40:],
            progress=is_main(),
        )

    def segmenter(
        self, eval_dataset: EvalDataset, text: TextEmbeddings
    ) -> Callable[[Sample], Prediction]:
        """The function from a sample to the results that the set's tasks need."""
        post_processor = replace(
            build_post_processor(self.cfg),
            panoptic="panoptic" in eval_dataset.tasks,
            semantic="semantic" in eval_dataset.tasks or "whole" in eval_dataset.tasks,
            semantic_threshold=PRESENT if "whole" in eval_dataset.tasks else 0.0,
            instances=any(name in eval_dataset.tasks for name in DETECTION),
            proposals="recall" in eval_dataset.tasks,
        )

        def segment(sample: Sample) -> Prediction:
            result = Prediction(size=(sample.height, sample.width))
            if post_processor.has_outputs:
                result = self._segment(sample, sample.image, eval_dataset, text, post_processor)
            if self.cfg.TEST.AUG.ENABLED and post_processor.semantic:
                scores = self._augmented(sample, eval_dataset, text)
                result.semantic = best_class(scores, post_processor.semantic_threshold)
            if "oracle" in eval_dataset.tasks or "mosaic" in eval_dataset.tasks:
                present = scored_classes(sample.record, load_semantic(sample.record))
                scores = self._present_scores(sample, eval_dataset, text, present)
                result.present_masks = scores > PRESENT
                if present:
                    best = best_class(scores, PRESENT)
                    result.present_best = np.where(best < 0, best, np.array(present)[best])
            return result

        return segment

    def draw(self, step: int, log: TrainingLog) -> None:
        """Pictures of the first LOG.PICTURES images of the first set, the same ones every time."""
        if not self.cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON or not self.cfg.LOG.PICTURES:
            return
        eval_dataset, text = self.sets[0], self.texts[0]
        only_panoptic = replace(
            build_post_processor(self.cfg), panoptic=True, semantic=False, instances=False
        )
        for index in range(min(self.cfg.LOG.PICTURES, len(eval_dataset.dataset))):
            sample = eval_dataset.dataset[index]
            with evaluation_mode(self.model):
                found = self._segment(
                    sample, sample.image, eval_dataset, text, only_panoptic
                ).panoptic
            assert found is not None, "asked for above"
            image = load_image(sample.record)
            picture = draw_segments(image, found.ids, found.segments).convert("RGB")
            path = Path(self.cfg.OUTPUT_DIR) / "pictures" / f"{index}_step_{step:08d}.jpg"
            try:
                with atomic_path(path) as temporary:
                    picture.save(temporary, quality=85)
            except WriteError as error:  # the run goes on without its pictures
                logger.warning("picture: %s", error)
            log.picture(step, f"prediction_{index}", np.asarray(picture))

    def _present_scores(
        self, sample: Sample, eval_dataset: EvalDataset, text: TextEmbeddings, present: list[int]
    ) -> np.ndarray:
        """Probabilities (P, H, W) of the classes in the truth, when only these are asked for; how
        many in one pass, and so whether they have an influence on each other, the model says."""
        if not present:
            return np.zeros((0, sample.height, sample.width), dtype=np.float32)
        found = segment_image(
            self.model,
            sample.image,
            (sample.height, sample.width),
            text=text.select(present),
            vocabulary=eval_dataset.vocabulary.select(present),
            post_processor=SCORES_ONLY,
            precision=self.precision,
            sam_masks=self.sam_masks,
            image_id=sample.record.image_id,
        )
        assert found.semantic_scores is not None, "asked for"
        return found.semantic_scores

    def _segment(
        self,
        sample: Sample,
        image: Tensor,
        eval_dataset: EvalDataset,
        text: TextEmbeddings,
        post_processor: PostProcessor,
    ) -> Prediction:
        return segment_image(
            self.model,
            image,
            (sample.height, sample.width),
            text=text,
            vocabulary=eval_dataset.vocabulary,
            post_processor=post_processor,
            precision=self.precision,
            sam_masks=self.sam_masks,
            image_id=sample.record.image_id,
        )

    def _augmented(
        self, sample: Sample, eval_dataset: EvalDataset, text: TextEmbeddings
    ) -> np.ndarray:
        """Semantic scores (K, H, W), the mean over all views."""

        def score(image: Tensor) -> np.ndarray:
            scores = self._segment(sample, image, eval_dataset, text, SCORES_ONLY).semantic_scores
            assert scores is not None, "asked for above"
            return scores

        augmentation = self.cfg.TEST.AUG
        return average_scores(
            score,
            views(
                load_image(sample.record),
                short_sides=tuple(augmentation.MIN_SIZES),
                long_side=augmentation.MAX_SIZE,
                flip=augmentation.FLIP,
            ),
        )


def best_class(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Class ids (H, W) int32 of scores (K, H, W); -1 where none is above a threshold that is not
    0."""
    best = scores.argmax(0).astype(np.int32)
    return np.where(scores.max(0) > threshold, best, -1) if threshold else best


def _tasks(eval_dataset: EvalDataset) -> dict[str, Task]:
    categories, benchmark = eval_dataset.categories, eval_dataset.benchmark
    seen = eval_dataset.vocabulary.seen(eval_dataset.training)
    truth = data_root() / (benchmark.instances or benchmark.annotations)
    tasks: dict[str, Task] = {}
    for name in eval_dataset.tasks:
        if name == "panoptic":
            tasks[name] = PanopticEvaluator(categories, seen)
        elif name == "semantic":
            tasks[name] = SemanticEvaluator(categories, seen)
        elif name == "oracle":
            tasks[name] = OracleEvaluator(categories, seen)
        elif name == "mosaic":
            tasks[name] = MosaicEvaluator(categories, seen)
        elif name == "whole":
            tasks[name] = WholeEvaluator(categories, seen)
        elif name == "recall":
            tasks[name] = RecallEvaluator(categories, seen)
        elif name == "cityscapes":
            ids = [record.image_id for record in eval_dataset.dataset.records]
            paths = {name: truth / cityscapes_file(name, "gtFine_instanceIds") for name in ids}
            tasks[name] = DetectionEvaluator(categories, seen, CityscapesAP(ground_truth=paths))
        else:
            metric = LvisAP if name == "lvis" else InstanceAP
            for kind, suffix in (("segm", ""), ("bbox", "_boxes")):
                average = metric(ground_truth=truth, kind=kind)
                check_categories_agree(
                    average.categories, categories, str(truth), benchmark.annotations
                )
                tasks[name + suffix] = DetectionEvaluator(categories, seen, average)
    return tasks
