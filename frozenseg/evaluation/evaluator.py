"""Run a model on annotated data sets, and score its results for every image."""

import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from frozenseg.data.annotations import load_image, load_semantic, scored_classes
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.loader import eval_loader
from frozenseg.data.records import Record
from frozenseg.errors import UserError
from frozenseg.evaluation.kept_files import KeptFiles
from frozenseg.evaluation.runner import Evaluation, Gather, Share, combined, score
from frozenseg.evaluation.tasks import Task
from frozenseg.files import writing
from frozenseg.inference.augmentation import average_scores, views
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.segment import Pipeline, Request
from frozenseg.inference.stream import segment_stream
from frozenseg.models.base import evaluation_mode
from frozenseg.structures import PanopticResult, Prediction, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SoFar = Callable[[Mapping[str, Evaluation]], object]
"""Called with the scores of all sets that are finished, each time that one more is finished."""

DETECTION = ("instances", "lvis", "cityscapes")  # the tasks that need instances
PRESENT = 0.5  # a class is present if it is more likely than not (Fusioner, arXiv 2210.15138)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the predictions for a data set are scored and kept; no model is needed for this.

    name: the name under which its scores are reported.
    tasks: {name: evaluator}. The evaluators hold the ground truth and compute the scores; a set
        without ground truth has no evaluators.
    kept: {name: files}, the predictions that are written to disk.
    """

    name: str
    tasks: Mapping[str, Task]
    kept: Mapping[str, KeptFiles] = field(default_factory=dict)

    @property
    def fed(self) -> dict[str, Task]:
        """Everything that receives the results of each image, under unique names."""
        return {**self.tasks, **{f"{name}, kept": task for name, task in self.kept.items()}}

    def clear(self) -> None:
        """Remove the predictions that an earlier evaluation has written."""
        for folder in {kept.folder for kept in self.kept.values()}:
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)

    def evaluation(
        self, shares: Sequence[Share], gather: Gather = lambda value: [value], *, main: bool = True
    ) -> Evaluation:
        """Return the scores of all shares together.

        shares, gather: see `combined`.
        main: whether this process also finishes the files of the predictions.
        """
        found = combined(self.fed, shares, gather)
        if main:
            for name, kept in self.kept.items():
                kept.finish()
                logger.info("%s: the %s predictions are kept in %s", self.name, name, kept.folder)
        return replace(found, details={name: found.details[name] for name in self.tasks})


@dataclass(frozen=True, kw_only=True)
class ScoredDataset(Scoring):
    """A data set whose images a model segments.

    dataset: its images, without targets.
    vocabulary: the names of its classes.
    text: the text embeddings of `vocabulary`, on the model's device.
    wanted: the tasks whose results are scored or kept, such as "panoptic" or "lvis".
    """

    dataset: SegmentationDataset
    vocabulary: Vocabulary
    text: TextEmbeddings
    wanted: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvalAugmentation:
    """Test-time augmentation: semantic scores are the mean over resized and mirrored images.

    short_sides: the shorter side of each size, in pixels. long_side: the maximum of the longer
    side, in pixels. flip: whether each size is also mirrored.
    """

    short_sides: tuple[int, ...]
    long_side: int
    flip: bool


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A model and the data sets that it is scored on.

    pipeline: the model with its post-processing; each data set switches on the results it needs.
    sets: the data sets, in the order in which they are evaluated.
    augmentation: the views over which semantic scores are averaged; None: only the image itself.
    batch_size: the maximum number of images in a batch; all images of a batch have the same padded
        size.
    num_workers: the number of processes that read images.
    scorers: the number of threads that compute scores while the model runs.
    rank, world_size: which share of the images this process takes.
    gather: takes the value of this process and returns the values of all processes.
    """

    pipeline: Pipeline
    sets: list[ScoredDataset]
    augmentation: EvalAugmentation | None = None
    batch_size: int = 1
    num_workers: int = 0
    scorers: int = 1
    rank: int = 0
    world_size: int = 1
    gather: Gather = lambda value: [value]

    def evaluate(self, so_far: SoFar | None = None) -> dict[str, Evaluation]:
        """Score one set after the other; the processes share its images.

        so_far: called after each set with the scores so far.
        """
        found: dict[str, Evaluation] = {}
        with evaluation_mode(self.pipeline.model):
            for entry in self.sets:
                if entry.kept:
                    if self.rank == 0:
                        entry.clear()
                    self.gather(None)  # a barrier: no process writes before the old files are gone
                found[entry.name] = entry.evaluation(
                    [self._score(entry)], self.gather, main=self.rank == 0
                )
                if so_far is not None:
                    so_far(found)
        return found

    def shares(self) -> dict[str, Share]:
        """Return {set: this process's share of its results}, for `Scoring.evaluation`."""
        with evaluation_mode(self.pipeline.model):
            return {entry.name: self._score(entry) for entry in self.sets}

    def _score(self, entry: ScoredDataset) -> Share:
        samples = eval_loader(
            entry.dataset,
            num_workers=self.num_workers,
            rank=self.rank,
            world_size=self.world_size,
        )
        return score(
            self.predictions(entry, itertools.chain.from_iterable(samples)),
            entry.fed,
            total=len(samples),
            scorers=self.scorers,
            title=entry.name[-40:],
            progress=self.rank == 0,
        )

    def predictions(
        self, entry: ScoredDataset, samples: Iterable[Sample]
    ) -> Iterator[tuple[Record, Prediction]]:
        """Yield for each sample, in order, its record and the results that the set's tasks need."""
        wanted = entry.wanted
        post_processor = replace(
            self.pipeline.post_processor,
            panoptic="panoptic" in wanted,
            semantic="semantic" in wanted or "whole" in wanted,
            semantic_threshold=PRESENT if "whole" in wanted else 0.0,
            instances=any(name in wanted for name in DETECTION),
            proposals="recall" in wanted,
        )

        for sample, result in self._results(entry, samples, post_processor):
            if self.augmentation is not None and post_processor.semantic:
                scores = self._augmented(self.augmentation, sample, entry)
                result.semantic = best_class(scores, post_processor.semantic_threshold)
            if "oracle" in wanted or "mosaic" in wanted:
                present = scored_classes(sample.record, load_semantic(sample.record))
                scores = self._present_scores(sample, entry, present)
                result.present_masks = scores > PRESENT
                if present:
                    best = best_class(scores, PRESENT)
                    result.present_best = np.where(best < 0, best, np.array(present)[best])
            yield sample.record, result

    def _results(
        self, entry: ScoredDataset, samples: Iterable[Sample], post_processor: PostProcessor
    ) -> Iterator[tuple[Sample, Prediction]]:
        """Yield the results of the post-processor for each sample; raise the first error."""
        if not post_processor.has_outputs:
            for sample in samples:
                yield sample, Prediction(size=(sample.height, sample.width))
            return
        pipeline = replace(self.pipeline, post_processor=post_processor)
        items = ((sample, _request(sample, sample.image)) for sample in samples)
        for sample, result in segment_stream(
            pipeline, items, entry.text, entry.vocabulary, batch_size=self.batch_size
        ):
            if isinstance(result, UserError):
                raise result
            yield sample, result

    def previews(self, count: int) -> Iterator[tuple[np.ndarray, PanopticResult]]:
        """Yield the first `count` images (H, W, 3) of the first set, and their panoptic results."""
        entry = self.sets[0]
        panoptic = replace(
            self.pipeline.post_processor, panoptic=True, semantic=False, instances=False
        )
        for index in range(min(count, len(entry.dataset))):
            sample = entry.dataset[index]
            with evaluation_mode(self.pipeline.model):
                found = self._segment(sample, sample.image, entry, panoptic).panoptic
            assert found is not None, "the post-processor makes it"
            yield load_image(sample.record), found

    def _present_scores(
        self, sample: Sample, entry: ScoredDataset, present: list[int]
    ) -> np.ndarray:
        """Return the probabilities (P, H, W) of the P classes in the annotation when only these are
        queried.

        The model decides how many classes are queried in one pass, and thus whether they influence
        each other.
        """
        if not present:
            return np.zeros((0, sample.height, sample.width), dtype=np.float32)
        queried = replace(
            entry, text=entry.text.select(present), vocabulary=entry.vocabulary.select(present)
        )
        return self._scores(sample, sample.image, queried)

    def _augmented(
        self, augmentation: EvalAugmentation, sample: Sample, entry: ScoredDataset
    ) -> np.ndarray:
        """Return the semantic scores (K, H, W), the mean over all views."""
        return average_scores(
            lambda image: self._scores(sample, image, entry),
            views(
                load_image(sample.record),
                short_sides=augmentation.short_sides,
                long_side=augmentation.long_side,
                flip=augmentation.flip,
            ),
        )

    def _scores(self, sample: Sample, image: Tensor, entry: ScoredDataset) -> np.ndarray:
        """Return the semantic scores (K, H, W) of one view."""
        only_scores = replace(
            self.pipeline.post_processor,
            panoptic=False,
            semantic=False,
            instances=False,
            semantic_scores=True,
        )
        scores = self._segment(sample, image, entry, only_scores).semantic_scores
        assert scores is not None, "the post-processor makes them"
        return scores

    def _segment(
        self, sample: Sample, image: Tensor, entry: ScoredDataset, post_processor: PostProcessor
    ) -> Prediction:
        pipeline = replace(self.pipeline, post_processor=post_processor)
        return pipeline(_request(sample, image), entry.text, entry.vocabulary)


def _request(sample: Sample, image: Tensor) -> Request:
    return Request(image, (sample.height, sample.width), sample.record.image_id)


def best_class(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return for each pixel the class with the highest of the scores (K, H, W): (H, W) int32.

    It is -1 where no score is above the threshold, unless the threshold is 0.
    """
    best = scores.argmax(0).astype(np.int32)
    return np.where(scores.max(0) > threshold, best, -1) if threshold else best
