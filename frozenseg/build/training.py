"""A configuration as the objects of a training run."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.models import (
    build_text_classifier,
    feature_fingerprint,
    load_model,
)
from frozenseg.build.vocabulary import build_training_vocabulary, build_vocabulary
from frozenseg.data.annotations import require_objects
from frozenseg.data.benchmarks import find_benchmark, load_records
from frozenseg.data.benchmarks.selection import training_pairs
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.loader import Loader, training_loader
from frozenseg.data.records import Categories, Record
from frozenseg.data.transforms import LargeScaleJitter
from frozenseg.engine.distributed import barrier, is_main, rank, world_size
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.engine.optim import (
    CosineSchedule,
    MovingAverage,
    Schedule,
    adamw,
    parameter_groups,
)
from frozenseg.engine.state import TrainingState
from frozenseg.engine.training_loss import BinaryMaskLoss, MaskClassificationLoss, TrainingLoss
from frozenseg.errors import UserError
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.models.base import SegmentationModel
from frozenseg.models.fusioner import Fusioner
from frozenseg.runtime.precision import Precision
from frozenseg.structures import Features, TextEmbeddings
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def loaded_model(cfg: CfgNode, device: torch.device) -> SegmentationModel:
    """The model with its weights on the device. Frozen parts without weights are an error, unless
    MODEL.ALLOW_RANDOM_WEIGHTS; trained parts may start anew."""
    model, random = load_model(cfg)
    frozen = [part for part in random if part != "decoder"]
    if frozen and is_main():
        logger.warning("random weights in frozen parts (%s), as asked for", ", ".join(frozen))
    return model.to(device)


def embed(
    cfg: CfgNode, model: SegmentationModel, vocabulary: Vocabulary, training: Vocabulary
) -> TextEmbeddings:
    """The text vectors on the model's device; the first process encodes, the others find them in
    the cache. training: what counts as seen."""
    classifier = build_text_classifier(cfg, model)
    if not is_main():
        barrier()
    text = classifier.embed(vocabulary, training)
    if is_main():
        barrier()
    return text.to(model.device)


def training_dataset(cfg: CfgNode) -> tuple[SegmentationDataset, Vocabulary]:
    """All sets of DATASETS.TRAIN as one; they must have the same classes."""
    names = cfg.DATASETS.TRAIN
    if not names:
        raise UserError("DATASETS.TRAIN is empty: name at least one data set")
    records: list[Record] = []
    categories: Categories | None = None
    for name in names:
        of_name, classes = load_records(name)
        require_objects(of_name, find_benchmark(name).targets, name)
        if categories is not None and classes != categories:
            raise UserError(f"DATASETS.TRAIN: {name} has other classes than {names[0]}")
        records, categories = records + of_name, classes
    assert categories is not None, "names is not empty"
    if cfg.DATASETS.PAIRS:
        images, records = len(records), _pairs(cfg, records)
        logger.info("%d images, %d pairs of an image and a class", images, len(records))
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=training_transform(cfg),
        targets=find_benchmark(names[0]).targets,
        keep_empty=cfg.INPUT.KEEP_EMPTY_OBJECTS,
        seed=cfg.SEED,
    )
    vocabulary = build_vocabulary(cfg, names[0], categories)
    if is_main():
        logger.info("%s: %s", names[0], vocabulary.summary(build_training_vocabulary(cfg)))
    return dataset, vocabulary


def _pairs(cfg: CfgNode, records: list[Record]) -> list[Record]:
    if cfg.MODEL.META_ARCHITECTURE != "Fusioner":
        raise UserError("DATASETS.PAIRS: only Fusioner is asked for one class; set it False")
    return training_pairs(records)


def training_transform(cfg: CfgNode) -> LargeScaleJitter:
    side, divisor = cfg.INPUT.IMAGE_SIZE, cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    if side < 1 or side % divisor:
        raise UserError(f"INPUT.IMAGE_SIZE {side}: must be a multiple of {divisor}")
    return LargeScaleJitter(
        size=side,
        min_scale=cfg.INPUT.MIN_SCALE,
        max_scale=cfg.INPUT.MAX_SCALE,
        flip_probability=cfg.INPUT.FLIP_PROBABILITY,
        diagonal=cfg.INPUT.DIAGONAL_CROPS,
    )


def micro_batch_size(cfg: CfgNode) -> int:
    """Images of one forward and backward pass on one device."""
    solver, parts = cfg.SOLVER, cfg.SOLVER.ACCUMULATE * world_size()
    if solver.ACCUMULATE < 1 or solver.IMS_PER_BATCH < 1 or solver.IMS_PER_BATCH % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared by {world_size()} "
            f"processes with SOLVER.ACCUMULATE {solver.ACCUMULATE}: not a multiple of {parts}"
        )
    return solver.IMS_PER_BATCH // parts


def training_batches(cfg: CfgNode, dataset: SegmentationDataset, drawn: int) -> Loader:
    """Passes of this process, from where `drawn` images have been used."""
    return training_loader(
        dataset,
        batch_size=micro_batch_size(cfg),
        seed=cfg.SEED,
        start=drawn,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=rank(),
        world_size=world_size(),
    )


def training_criterion(cfg: CfgNode, num_classes: int) -> SetCriterion:
    mask = cfg.MODEL.MASK_FORMER
    return SetCriterion(
        num_classes=num_classes,
        num_points=mask.TRAIN_NUM_POINTS,
        oversample_ratio=mask.OVERSAMPLE_RATIO,
        importance_sample_ratio=mask.IMPORTANCE_SAMPLE_RATIO,
        class_weight=mask.CLASS_WEIGHT,
        mask_weight=mask.MASK_WEIGHT,
        dice_weight=mask.DICE_WEIGHT,
        no_object_weight=mask.NO_OBJECT_WEIGHT,
    )


def check_feature_cache(cfg: CfgNode) -> None:
    """Refuse DATALOADER.FEATURE_CACHE where no view of an image ever comes again."""
    loader = cfg.DATALOADER
    if not loader.FEATURE_CACHE:
        return
    if training_transform(cfg).num_views is None:
        raise UserError(
            f"DATALOADER.FEATURE_CACHE {loader.FEATURE_CACHE}: each draw shows an image at another "
            "scale or place; set INPUT.MIN_SCALE and INPUT.MAX_SCALE to one value of at most 1.0, "
            "or leave the key empty"
        )
    if loader.FEATURE_CACHE_GB <= 0:
        raise UserError(f"DATALOADER.FEATURE_CACHE_GB {loader.FEATURE_CACHE_GB}: must be above 0")


def feature_cache(
    cfg: CfgNode, model: SegmentationModel, precision: Precision
) -> FeatureCache[Features] | None:
    """Where the features of the frozen encoders are kept: DATALOADER.FEATURE_CACHE."""
    if not cfg.DATALOADER.FEATURE_CACHE:
        return None
    return FeatureCache(
        Path(cfg.DATALOADER.FEATURE_CACHE),
        fingerprint=feature_fingerprint(cfg, model, precision),
        limit=int(cfg.DATALOADER.FEATURE_CACHE_GB * 1e9),
        encode=model.encode,
        kind=model.features,
        writers=world_size(),
    )


def training_loss(
    cfg: CfgNode,
    model: SegmentationModel,
    text: TextEmbeddings,
    cache: FeatureCache[Features] | None = None,
) -> TrainingLoss[Any, Any]:
    """The loss of the model's family; text: of the training vocabulary, on the model's device."""
    grey_padding = cfg.INPUT.PADDING == "grey"
    if isinstance(model, Fusioner):
        return BinaryMaskLoss(
            vectors=text.class_vectors(),
            classes_at_once=model.classes_at_once,
            size_divisor=model.size_divisor,
            seed=cfg.SEED,
            grey_padding=grey_padding,
            cache=cache,
        )
    return MaskClassificationLoss(
        criterion=training_criterion(cfg, text.num_classes),
        text=text,
        num_queries=cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        size_divisor=model.size_divisor,
        seed=cfg.SEED,
        grey_padding=grey_padding,
        cache=cache,
    )


def training_groups(cfg: CfgNode, model: torch.nn.Module) -> list[dict[str, Any]]:
    """The trained parameters by what decays and what the schedule moves."""
    solver = cfg.SOLVER
    return parameter_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        norm_decay=solver.WEIGHT_DECAY_NORM,
        embedding_decay=solver.WEIGHT_DECAY_EMBED,
        rule=solver.WEIGHT_DECAY_RULE,
        constant_decoder=solver.CONSTANT_DECODER,
    )


def training_state(cfg: CfgNode, model: SegmentationModel) -> TrainingState:
    solver = cfg.SOLVER
    if solver.CONSTANT_DECODER and not isinstance(model, Fusioner):
        raise UserError("SOLVER.CONSTANT_DECODER: only Fusioner's is known; set it False")
    groups = training_groups(cfg, model)
    average = None
    if solver.EMA:
        average = MovingAverage(dict(model.trainable_parameters()), decay=solver.EMA)
    return TrainingState(
        model=model,
        optimizer=adamw(groups, solver.BASE_LR),
        precision=Precision.choose(model.device, "auto" if solver.AMP.ENABLED else "fp32"),
        seed=cfg.SEED,
        average=average,
        decay=decay_of(cfg),
    )


def decay_of(cfg: CfgNode) -> CosineSchedule | None:
    """The weight decay of each step; None: it stays as it is."""
    solver = cfg.SOLVER
    if solver.WEIGHT_DECAY_SCHEDULE == "constant":
        return None
    return CosineSchedule(
        base=solver.WEIGHT_DECAY, end=solver.WEIGHT_DECAY_END, total=solver.MAX_ITER
    )


def schedule_of(cfg: CfgNode) -> Callable[[int], float]:
    """The learning rate of each step."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return CosineSchedule(
            base=solver.BASE_LR,
            end=solver.BASE_LR_END,
            total=solver.MAX_ITER,
            warmup_factor=solver.WARMUP_FACTOR,
            warmup_iters=solver.WARMUP_ITERS,
        )
    return Schedule(
        base=solver.BASE_LR,
        steps=tuple(solver.STEPS),
        gamma=solver.GAMMA,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
    )


def clip_norm_of(cfg: CfgNode) -> float | None:
    """The largest norm of all gradients together; None: they are not clipped."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED else None


def checkpoint_folder(cfg: CfgNode) -> Path:
    return Path(cfg.OUTPUT_DIR) / "checkpoints"
