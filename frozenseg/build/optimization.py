"""Build the optimiser, the schedules and the feature cache of a configuration, and its loss.

The losses of the families are built in `frozenseg.build.frozenseg` and `frozenseg.build.fusioner`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.families import find_loss
from frozenseg.build.models import feature_fingerprint
from frozenseg.build.setting import setting
from frozenseg.build.transforms import training_transform
from frozenseg.engine.distributed import all_gather_json, world_size
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.engine.optim import (
    CosineSchedule,
    MovingAverage,
    Schedule,
    adamw,
    parameter_groups,
)
from frozenseg.engine.state import TrainingState
from frozenseg.engine.training_loss import InputPreparation, TrainingLoss
from frozenseg.errors import UserError
from frozenseg.models.base import SegmentationModel
from frozenseg.runtime.precision import Precision
from frozenseg.structures import TextEmbeddings


def training_loss(
    cfg: CfgNode,
    model: SegmentationModel,
    text: TextEmbeddings,
    cache: FeatureCache | None = None,
) -> TrainingLoss[Any, Any]:
    """Build the loss of MODEL.LOSS, or the loss of the model's family if the key is empty.

    text: the text vectors of the training vocabulary, on the model's device.
    """
    inputs = InputPreparation(
        size_divisor=model.size_divisor,
        grey_padding=cfg.INPUT.PADDING == "grey",
        cache=cache,
    )
    return find_loss(cfg)(cfg, model, text, inputs)


@setting("SOLVER:", "; see WEIGHT_DECAY, WEIGHT_DECAY_NORM and WEIGHT_DECAY_EMBED")
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
    """Return the model with its optimiser, precision and moving average, at step 0."""
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
        precision=_precision_of_all(model.device, mixed=solver.AMP.ENABLED),
        seed=cfg.SEED,
        average=average,
        decay=decay_of(cfg),
    )


def _precision_of_all(device: torch.device, *, mixed: bool) -> Precision:
    """Return `Precision.for_training`, made equal in all processes: float16 in all if one needs it.

    Their GPUs may be of several kinds. Gradients in float16 are scaled and must not be averaged
    with unscaled ones.
    """
    own = Precision.for_training(device, mixed=mixed)
    return replace(own, dtype=torch.float16) if "fp16" in all_gather_json(own.name) else own


@setting("SOLVER:", "; see WEIGHT_DECAY and WEIGHT_DECAY_END")
def decay_of(cfg: CfgNode) -> CosineSchedule | None:
    """Return the function from a step to its weight decay; None if the weight decay is constant."""
    solver = cfg.SOLVER
    if solver.WEIGHT_DECAY_SCHEDULE == "constant":
        return None
    return CosineSchedule(
        base=solver.WEIGHT_DECAY, end=solver.WEIGHT_DECAY_END, total=solver.MAX_ITER
    )


@setting("SOLVER:", "; see BASE_LR, BASE_LR_END, GAMMA and WARMUP_FACTOR")
def schedule_of(cfg: CfgNode) -> Callable[[int], float]:
    """Return the function from a step to its learning rate."""
    solver = cfg.SOLVER
    rate: dict[str, Any] = {
        "base": solver.BASE_LR,
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
    }
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return CosineSchedule(end=solver.BASE_LR_END, total=solver.MAX_ITER, **rate)
    return Schedule(steps=tuple(solver.STEPS), gamma=solver.GAMMA, **rate)


def clip_norm_of(cfg: CfgNode) -> float | None:
    """Return the norm to which all gradients together are clipped; None without clipping."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED else None


def check_feature_cache(cfg: CfgNode) -> None:
    """Refuse a DATALOADER.FEATURE_CACHE without space, or if no view of an image is repeated."""
    loader = cfg.DATALOADER
    if not loader.FEATURE_CACHE:
        return
    if not cfg.INPUT.FIXED_VIEWS and training_transform(cfg).num_views is None:
        raise UserError(
            f"DATALOADER.FEATURE_CACHE {loader.FEATURE_CACHE}: each view of an image has a new "
            "random scale or crop; set INPUT.FIXED_VIEWS, or INPUT.MIN_SCALE and INPUT.MAX_SCALE "
            "to the same value of at most 1.0, or leave DATALOADER.FEATURE_CACHE empty"
        )
    if loader.FEATURE_CACHE_GB <= 0:
        raise UserError(f"DATALOADER.FEATURE_CACHE_GB {loader.FEATURE_CACHE_GB}: must be above 0")


def feature_cache(
    cfg: CfgNode, model: SegmentationModel, precision: Precision
) -> FeatureCache | None:
    """Return the feature cache on disk; None if DATALOADER.FEATURE_CACHE is empty.

    `check_feature_cache` must have checked the key.
    """
    loader = cfg.DATALOADER
    if not loader.FEATURE_CACHE:
        return None
    return FeatureCache(
        Path(loader.FEATURE_CACHE),
        fingerprint=feature_fingerprint(cfg, model, precision),
        limit=int(loader.FEATURE_CACHE_GB * 1e9),
        encode=model.encode,
        channels=model.feature_channels(),
        writers=world_size(),
    )
