"""detectron2's DefaultTrainer with our optimiser and transforms, and detectron2's evaluators."""

import logging
import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    SemSegEvaluator,
)
from torch import nn

from frozenseg.adapters.detectron2.datasets import ensure_registered, scored_tasks, table_row
from frozenseg.adapters.detectron2.mapper import FrozenSegMapper
from frozenseg.build.evaluator import wanted_tasks
from frozenseg.build.optimization import training_groups
from frozenseg.config import select_config
from frozenseg.data.annotations import VOID_CLASS, load_semantic
from frozenseg.data.benchmarks import data_root, read_benchmark
from frozenseg.engine.optim import adamw
from frozenseg.errors import UserError

logger = logging.getLogger(__name__)

# detectron2's `evaluator_type` -> the tasks that are scored, for data sets that others registered.
TASKS = {
    "coco_panoptic_seg": ("panoptic", "semantic", "instances"),
    "sem_seg": ("semantic",),
    "coco": ("instances",),
    "lvis": ("lvis",),
}
PANOPTIC_API = "git+https://github.com/cocodataset/panopticapi.git"


class Trainer(DefaultTrainer):
    """The trainer of `frozenseg detectron2_train_net`."""

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.SOLVER.ACCUMULATE != 1:
            raise UserError(
                "SOLVER.ACCUMULATE: detectron2's trainer does not accumulate gradients; set it to "
                "1 and lower SOLVER.IMS_PER_BATCH, or use frozenseg train"
            )
        for key, meant in (("CONSTANT_DECODER", False), ("WEIGHT_DECAY_SCHEDULE", "constant")):
            if cfg.SOLVER[key] != meant:
                raise UserError(
                    f"SOLVER.{key}: detectron2's trainer has only one schedule, for the learning "
                    f"rates of all parameters; set it to {meant}, or use frozenseg train"
                )
        if cfg.DATASETS.PAIRS:
            raise UserError("DATASETS.PAIRS: not under detectron2; use frozenseg train")
        if cfg.MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE:
            raise UserError(
                "MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE: not under detectron2; use frozenseg train"
            )
        if cfg.SOLVER.EMA:
            logger.warning("SOLVER.EMA has no effect under detectron2's trainer")
        if cfg.DATALOADER.FEATURE_CACHE:
            logger.warning("DATALOADER.FEATURE_CACHE has no effect under detectron2's trainer")
        super().__init__(cfg)

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint, if `resume` is True and there is one.

        MODEL.WEIGHTS is not loaded here, because it was loaded when the model was built.
        """
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume=True)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of our recipe; see the function `build_optimizer` of this module."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """Return detectron2's training loader with our mapper."""
        ensure_registered(cfg.DATASETS.TRAIN)
        return build_detection_train_loader(cfg, mapper=FrozenSegMapper(cfg, True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """Return detectron2's test loader with our mapper."""
        ensure_registered((dataset_name,))
        mapper = FrozenSegMapper(cfg, False, names=(dataset_name,))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluators of this module's `build_evaluators`, joined into one."""
        folder = re.sub(r"[^\w.-]+", "_", dataset_name)[-80:]
        output = os.path.join(cfg.OUTPUT_DIR, "inference", folder)
        return DatasetEvaluators(build_evaluators(cfg, dataset_name, output))


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW for our parameter groups; all gradients are clipped together before a step."""
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    return adamw(
        training_groups(cfg, model),
        cfg.SOLVER.BASE_LR,
        max_norm=clipping.CLIP_VALUE if clipping.ENABLED else None,
    )


def build_evaluators(cfg: CfgNode, name: str, output: str) -> list[DatasetEvaluator]:
    """Return detectron2's evaluators of the tasks that the data set allows and `cfg` switches on.

    output: the folder into which they write their files.
    """
    ensure_registered((name,))
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    evaluators: list[DatasetEvaluator] = []
    for task in _tasks(cfg, name):
        if task == "panoptic":
            if find_spec("panopticapi") is None:
                raise UserError(
                    "panopticapi is not installed, and detectron2 scores panoptic results with it: "
                    f"pip install {PANOPTIC_API}, or set MODEL.MASK_FORMER.TEST.PANOPTIC_ON False"
                )
            evaluators.append(COCOPanopticEvaluator(name, output))
        elif task == "semantic":
            evaluators.append(_semantic_evaluator(name, output))
        elif task == "instances":
            evaluators.append(COCOEvaluator(name, output_dir=output, max_dets_per_image=limit))
        elif task == "lvis":
            evaluators.append(LVISEvaluator(name, output_dir=output))
        elif task == "cityscapes":
            evaluators.append(CityscapesInstanceEvaluator(name))
    if not evaluators:
        raise UserError(f"{name}: nothing to score; see MODEL.MASK_FORMER.TEST.*_ON")
    return evaluators


def _tasks(cfg: CfgNode, name: str) -> tuple[str, ...]:
    row, metadata = table_row(name), MetadataCatalog.get(name)
    if row is not None:
        return scored_tasks(row, wanted_tasks(select_config(cfg), row))
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type not in TASKS:
        raise UserError(
            f"{name}: evaluator_type {evaluator_type} in its metadata; known: {', '.join(TASKS)}"
        )
    test = cfg.MODEL.MASK_FORMER.TEST
    switches = {"panoptic": test.PANOPTIC_ON, "semantic": test.SEMANTIC_ON}
    return tuple(task for task in TASKS[evaluator_type] if switches.get(task, test.INSTANCE_ON))


def _semantic_evaluator(name: str, output: str) -> SemSegEvaluator:
    """Return the evaluator of semantic segmentation.

    If a row of our table has no label maps on disk, they are derived from its panoptic annotation.
    """
    row = table_row(name)
    entries = DatasetCatalog.get(name)
    if row is None or "sem_seg_file_name" in entries[0]:
        return SemSegEvaluator(name, output_dir=output)
    derived = f"{name} (derived)"
    if derived not in DatasetCatalog:
        rows = [entry | {"sem_seg_file_name": entry["pan_seg_file_name"]} for entry in entries]
        DatasetCatalog.register(derived, lambda: rows)
        MetadataCatalog[derived] = MetadataCatalog.get(name)
    records, _ = read_benchmark(row, data_root())
    by_path = {record.panoptic_path: record for record in records}
    ignore = MetadataCatalog.get(name).ignore_label

    def load_truth(path: str, dtype: Any) -> np.ndarray:
        labels = load_semantic(by_path[path]).astype(dtype)
        return np.where(labels == VOID_CLASS, ignore, labels)

    return SemSegEvaluator(derived, output_dir=output, sem_seg_loading_fn=load_truth)
