"""detectron2 as a host: importing this package registers our models and data sets there.

    from detectron2.config import get_cfg
    from frozenseg.adapters.detectron2 import add_frozenseg_config

    cfg = get_cfg()
    add_frozenseg_config(cfg)
    cfg.merge_from_file("configs/coco/frozenseg/convnext_large.yaml")  # or a published file
    model = detectron2.modeling.build_model(cfg)  # with weights

It is thin: the model, the losses, the post-processing and the transforms are those of `frozenseg`.
detectron2 is no requirement of ours and is on no package index; INSTALL.md says how to get it.
"""

from frozenseg.errors import UserError


class MissingDetectron2(UserError, ImportError):
    """detectron2 cannot be imported: said in one line by our commands, an `ImportError` to code."""


try:
    import detectron2.data  # its compiled part, too
except ImportError as error:
    reason = (
        "is not installed"
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2"
        else f"cannot be loaded ({str(error).splitlines()[0]})"
    )
    raise MissingDetectron2(
        f"detectron2 {reason}: get it with `git clone https://github.com/facebookresearch/"
        "detectron2` and `pip install --no-build-isolation ./detectron2` (INSTALL.md, detectron2)"
    ) from None

from frozenseg.adapters.detectron2.config import add_frozenseg_config
from frozenseg.adapters.detectron2.datasets import register_dataset, register_datasets
from frozenseg.adapters.detectron2.mapper import FrozenSegMapper
from frozenseg.adapters.detectron2.meta_arch import FCCLIP, FrozenSeg, Fusioner
from frozenseg.adapters.detectron2.trainer import Trainer, build_evaluators, build_optimizer

__all__ = [
    "FCCLIP",
    "FrozenSeg",
    "FrozenSegMapper",
    "Fusioner",
    "MissingDetectron2",
    "Trainer",
    "add_frozenseg_config",
    "build_evaluators",
    "build_optimizer",
    "register_dataset",
    "register_datasets",
]

register_datasets()
