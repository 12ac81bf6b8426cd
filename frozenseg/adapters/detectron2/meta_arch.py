"""Our models as meta-architectures of detectron2."""

import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from frozenseg.adapters.detectron2.datasets import (
    HostClasses,
    host_classes,
    training_vocabulary_of,
    vocabulary_of,
)
from frozenseg.adapters.detectron2.mapper import tensor_masks
from frozenseg.build.device import build_precision
from frozenseg.build.families import MODELS
from frozenseg.build.models import build_text_classifier, loaded_model
from frozenseg.build.optimization import training_loss
from frozenseg.build.prediction import build_pipeline
from frozenseg.build.setting import data_sets
from frozenseg.build.vocabulary import one_vocabulary
from frozenseg.checkpoints.state_dict import SHARED, load_state
from frozenseg.config import select_config
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.engine.distributed import all_sum, rank, world_size
from frozenseg.engine.training_loss import LossNormalizers, TrainingLoss
from frozenseg.errors import UserError
from frozenseg.inference.segment import Pipeline, Request
from frozenseg.losses.weighting import weighted_losses
from frozenseg.models.base import SegmentationModel
from frozenseg.results.hosts import detectron2_output
from frozenseg.structures import Prediction, Targets, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetClasses:
    """The classes into which the images of a data set are segmented."""

    classes: HostClasses
    vocabulary: Vocabulary
    text: TextEmbeddings


class HostModel(nn.Module):
    """A `SegmentationModel` as a meta-architecture; its state dict is that of the model itself.

    `frozenseg.build.models.load_model` loads the weights when it is built: MODEL.WEIGHTS (ours or
    published, also `.safetensors`) and the files of the frozen encoders. A checkpointer of
    detectron2 may load other weights later.
    """

    @configurable
    def __init__(self, *, segmenter: SegmentationModel, config: CfgNode) -> None:
        """config: our part of the configuration (`frozenseg.config.select_config`)."""
        super().__init__()
        self.segmenter = segmenter
        self.config = config
        self.steps = 0  # training steps so far; used if detectron2 does not count them
        self._classes_of: dict[str, DatasetClasses] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments of the constructor, as detectron2's `configurable` expects them."""
        config = select_config(cfg)
        test = config.TEST
        if test.AUG.ENABLED or test.ORACLE_PRESENCE:
            key = "AUG.ENABLED" if test.AUG.ENABLED else "ORACLE_PRESENCE"
            raise UserError(f"TEST.{key}: not under detectron2; use frozenseg evaluate")
        if config.SEED < 0:  # detectron2 has then seeded torch with a random number
            config.defrost()
            config.SEED = torch.initial_seed() % 2**31
            config.freeze()
        segmenter = loaded_model(config, torch.device("cpu"))
        return {"segmenter": segmenter, "config": config}

    @property
    def device(self) -> torch.device:
        """The device of the trained parts."""
        return self.segmenter.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses in training, results otherwise.

        batched_inputs: from `FrozenSegMapper`; for evaluation, detectron2's own mapper works too.

        The losses are weighted, by name; our engine minimises their sum. The results are, for each
        input, those that MODEL.MASK_FORMER.TEST switches on: `sem_seg`, the scores (K, H, W) of all
        classes; `panoptic_seg`, ids (H, W) int32, 0 where nothing was found, and segments_info;
        `instances`, with pred_boxes, scores, pred_classes (numbers of things) and pred_masks.
        """
        if self.training:
            return self._losses(batched_inputs)
        return [self._segment(entry) for entry in batched_inputs]

    def _losses(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        loss, processes = self._loss, world_size()
        samples = [_training_sample(entry) for entry in inputs]
        mine = torch.tensor(astuple(loss.normalizers(samples)), dtype=torch.float64)
        normalizers = LossNormalizers(*all_sum(mine.to(self.device)).tolist())
        positions = self._positions(len(samples))
        batch = loss.prepare(samples, positions, positions[0] - rank(), self.device)
        outputs = self.segmenter(batch.images, batch.classes, batch.features)
        losses = weighted_losses(loss(outputs, batch.targets, normalizers), loss.weights)
        # detectron2 averages losses and gradients over the processes; ours have to be summed.
        return {name: value * processes for name, value in losses.items()}

    def _positions(self, count: int) -> list[int]:
        """Return the positions of this process's images among all images drawn in the run, as our
        engine counts them."""
        step = get_event_storage().iter if has_event_storage() else self.steps
        self.steps += 1
        first = step * count * world_size() + rank()
        return [first + world_size() * index for index in range(count)]

    @cached_property
    def _loss(self) -> TrainingLoss[Any, Any]:
        names = data_sets(self.config, "TRAIN")
        categories = host_classes(names[0]).categories
        for name in names[1:]:
            if host_classes(name).categories != categories:
                raise UserError(f"DATASETS.TRAIN: {name} has other classes than {names[0]}")
        vocabulary = one_vocabulary(self.config, names, categories, vocabulary_of)
        return training_loss(self.config, self.segmenter, self._embed(vocabulary))

    def _segment(self, entry: dict[str, Any]) -> dict[str, Any]:
        classes, image = self._classes(entry.get("dataset_name")), entry["image"]
        size = (entry.get("height", image.shape[-2]), entry.get("width", image.shape[-1]))
        # detectron2 may have moved the model to another device since `_pipeline` was built.
        pipeline = replace(self._pipeline, precision=build_precision(self.config, self.device))
        request = Request(image, size, entry.get("image_id"))
        result = pipeline(request, classes.text, classes.vocabulary)
        return host_output(result, classes.classes)

    def _classes(self, name: str | None) -> DatasetClasses:
        """Return the classes of a data set.

        name: the data set, or None if the input does not name it; it is then the first of
            DATASETS.TEST, or of DATASETS.TRAIN if that is empty.
        """
        if name is None:
            names = (*self.config.DATASETS.TEST, *self.config.DATASETS.TRAIN)
            if not names:
                raise UserError("DATASETS.TEST is empty: name the data set that has the classes")
            name = names[0]
        if name not in self._classes_of:
            classes = host_classes(name)
            vocabulary = vocabulary_of(self.config, name, classes.categories)
            self._classes_of[name] = DatasetClasses(classes, vocabulary, self._embed(vocabulary))
        return self._classes_of[name]

    def _embed(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """Embed the names in each process, without a barrier: some processes may have no image."""
        training = training_vocabulary_of(self.config)
        logger.info(vocabulary.summary(training))
        text = build_text_classifier(self.config, self.segmenter).embed(vocabulary, training)
        return text.to(self.device)

    @cached_property
    def _pipeline(self) -> Pipeline:
        pipeline = build_pipeline(self.config, self.segmenter)
        ours = pipeline.post_processor
        scores = replace(ours, semantic=False, semantic_scores=ours.semantic)
        return replace(pipeline, post_processor=scores)

    def state_dict(  # type: ignore[override]
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Return the entries of our model under its own names; shared entries appear once."""
        state = self.segmenter.state_dict(
            destination=destination, prefix=prefix, keep_vars=keep_vars
        )
        for name in [name for name in state if SHARED in name]:
            del state[name]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Load a state dict with published names or ours.

        Loading is always strict: an error names the entries that do not fit. Only frozen encoders
        may be missing, and each of them only as a whole.
        """
        load_state(self.segmenter, state_dict, "of the checkpoint")
        return _IncompatibleKeys([], [])


for family in MODELS:  # detectron2 finds a class by its name, which is MODEL.META_ARCHITECTURE
    META_ARCH_REGISTRY.register(type(family, (HostModel,), {}))


def _training_sample(entry: dict[str, Any]) -> Sample:
    image, instances = entry["image"], entry.get("instances")
    if instances is None or not instances.has("gt_masks"):
        raise UserError(
            f"{entry.get('file_name')}: no masks to train with; use FrozenSegMapper, which also "
            "cuts them from panoptic and semantic annotations"
        )
    name = entry.get("file_name", "")
    record = Record(entry.get("image_id", name), name, None, None, num_classes=0)
    targets = Targets(instances.gt_classes, tensor_masks(instances.gt_masks))
    return Sample(
        image, image.shape[1], image.shape[2], record, targets, entry.get("unpadded_size")
    )


def host_output(result: Prediction, classes: HostClasses) -> dict[str, Any]:
    """Return a result in detectron2's format."""
    output = detectron2_output(result.panoptic, result.instances, result.size, classes.thing_ids)
    if result.semantic_scores is not None:
        output["sem_seg"] = torch.from_numpy(result.semantic_scores)
    return output
