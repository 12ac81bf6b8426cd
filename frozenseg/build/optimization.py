"""Make the optimiser, the schedules and the loss of a configuration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.families import find_family
from frozenseg.build.models import feature_fingerprint
from frozenseg.build.training_data import training_transform
from frozenseg.engine.distributed import world_size
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.engine.optim import (
    CosineSchedule,
    MovingAverage,
    Schedule,
    adamw,
    parameter_groups,
)
from frozenseg.engine.state import TrainingState
from frozenseg.engine.training_loss import TrainingLoss
from frozenseg.errors import UserError
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.precision import Precision
from frozenseg.structures import Features, TextEmbeddings


def training_loss(
    cfg: CfgNode,
    model: SegmentationModel,
    text: TextEmbeddings,
    cache: FeatureCache[Features] | None = None,
) -> TrainingLoss[Any, Any]:
    """The loss of the model's family; text: of the training vocabulary, on the model's device."""
    return find_family(cfg).loss(cfg, model, text, cache)


def training_groups(cfg: CfgNode, model: torch.nn.Module) -> list[dict[str, Any]]:
    """Group the trained parameters by their weight decay and learning rate."""
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
    """The model with its optimiser, precision and moving average, at step 0."""
    solver = cfg.SOLVER
    groups = training_groups(cfg, model)
    if solver.CONSTANT_DECODER and not any(group["fixed_rate"] for group in groups):
        raise UserError("SOLVER.CONSTANT_DECODER: this model has no such decoder; set it False")
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
    """The weight decay of each step; None: it is constant."""
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
    """The norm to which all gradients together are clipped; None: they are not."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED else None


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
    """The cache of the features of the frozen encoders, in DATALOADER.FEATURE_CACHE."""
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
