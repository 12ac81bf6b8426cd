"""Adapter for detectron2. Importing this package registers our models and data sets there.

    from detectron2.config import get_cfg
    from frozenseg.adapters.detectron2 import add_frozenseg_config

    cfg = get_cfg()
    add_frozenseg_config(cfg)
    cfg.merge_from_file("convnext_large.yaml")  # or a published file
    model = detectron2.modeling.build_model(cfg)  # with weights

The adapter is thin: the model, the losses, the post-processing and the transforms are those of
`frozenseg`. detectron2 is not a requirement of `frozenseg` and is on no package index; without it,
importing this package raises an error that says how to install it.
"""

from frozenseg.adapters.detectron2.available import MissingDetectron2
from frozenseg.adapters.detectron2.config import HostConfig, add_frozenseg_config, frozenseg_config
from frozenseg.adapters.detectron2.datasets import register_dataset, register_datasets
from frozenseg.adapters.detectron2.mapper import FrozenSegMapper
from frozenseg.adapters.detectron2.meta_arch import HostModel
from frozenseg.adapters.detectron2.trainer import Trainer, build_evaluators, build_optimizer

__all__ = [
    "FrozenSegMapper",
    "HostConfig",
    "HostModel",
    "MissingDetectron2",
    "Trainer",
    "add_frozenseg_config",
    "build_evaluators",
    "build_optimizer",
    "frozenseg_config",
    "register_dataset",
    "register_datasets",
]

register_datasets()
