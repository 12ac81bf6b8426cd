"""Choose the device of a configuration, and prepare a model for it: precision, compilation."""

import os
import shutil

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.backend import PYTORCH, use_backend
from frozenseg.build.setting import setting
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock
from frozenseg.encoders.frozen import keep_digest
from frozenseg.encoders.sam_attention import FusedBlock
from frozenseg.engine.distributed import local_rank, world_size
from frozenseg.errors import UserError
from frozenseg.models.base import RegionClassifier, SegmentationModel, Stage
from frozenseg.runtime.allocator import release_fragmented_memory
from frozenseg.runtime.compiling import compile_where_possible
from frozenseg.runtime.cuda_graphs import StageGraphs
from frozenseg.runtime.precision import Precision


def build_device(cfg: CfgNode) -> torch.device:
    """Return the device of MODEL.DEVICE.

    "auto" chooses CUDA if available, then Apple's GPU (mps), then the CPU; with a MODEL.BACKEND
    other than PyTorch it always chooses the CPU. Raises `UserError` for a device that is unknown or
    absent.
    """
    name = cfg.MODEL.DEVICE
    if name == "auto":
        if cfg.MODEL.BACKEND != PYTORCH:
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}
    if device is None or device.type not in counts:
        raise UserError(f"MODEL.DEVICE {name}: unknown; use auto, cuda, mps or cpu")
    if (device.index or 0) >= counts[device.type]:
        count = counts[device.type] or "no"
        raise UserError(
            f"MODEL.DEVICE {name}: this PyTorch finds {count} {device.type.upper()} device; "
            "use auto or cpu"
        )
    return device


def build_precision(cfg: CfgNode, device: torch.device) -> Precision:
    """Return the precision of MODEL.PRECISION, in which the model computes at inference."""
    with setting("MODEL.PRECISION"):
        return Precision.choose(device, cfg.MODEL.PRECISION)


def prepare_for_inference(cfg: CfgNode, model: SegmentationModel) -> None:
    """Make a model faster on its device, in place; afterwards it can only predict.

    With MODEL.COMPILE, the stages of the model are compiled. Sizes are symbolic from the first call
    on: most stages compile once, and the decoders again for a few shapes (with three image sizes
    there were no graph breaks, and ten graphs for six stages). Without it, on a CPU in float32, the
    blocks of the frozen encoders store their weights in the layout that the CPU kernels need, or in
    8 bits. In half precision, the encoders and the matrix products of the decoders store their
    weights in half precision, so that they are not cast again for every image. With
    MODEL.CUDA_GRAPHS, the stages are launched as CUDA graphs. With a MODEL.BACKEND other than
    PyTorch, graphs of that runtime replace all of this.
    """
    sam = model.sam if isinstance(model, RegionClassifier) else None
    if sam is not None and cfg.TEST.USE_SAM_MASKS and cfg.TEST.SAM_MASKS.FOLDER:
        keep_digest(sam.model)  # the masks on disk are identified by this digest
    if use_backend(cfg, model):
        return
    precision = build_precision(cfg, model.device)
    dtype = precision.dtype
    if dtype is not None:
        model.cast_for_inference(dtype)
    if _compiles(cfg, model):
        for stage in model.stages():
            _compile(stage, dynamic=None if stage.fixed_size else True)
    elif model.device.type == "cpu" and dtype is None:
        for part in model.modules():
            if isinstance(part, FusedConvNeXtBlock | FusedBlock):
                part.prepack(int8=precision.int8)
        # The freed weights leave the heap fragmented; return it to the system.
        release_fragmented_memory()
    if cfg.MODEL.CUDA_GRAPHS and model.device.type == "cuda":
        graphs = StageGraphs()
        for stage in model.stages():
            method = getattr(stage.owner, stage.method)
            setattr(stage.owner, stage.method, graphs.wrap(method, stage.name))


def compile_encoders(cfg: CfgNode, model: SegmentationModel) -> None:
    """With MODEL.COMPILE, compile the frozen encoders of a model for training, in place.

    All training images have the same size, so the encoders are first compiled for that size. An
    evaluation during the training compiles them again with symbolic sizes.
    """
    if _compiles(cfg, model):
        for stage in model.stages():
            if stage.frozen:
                _compile(stage, dynamic=None)


def _compiles(cfg: CfgNode, model: SegmentationModel) -> bool:
    """Return MODEL.COMPILE; raise `UserError` if it cannot be used, e.g. without a compiler."""
    compiler = os.environ.get("CXX", "")
    if cfg.MODEL.COMPILE and cfg.MODEL.PRECISION == "int8":
        raise UserError("MODEL.COMPILE: not possible with MODEL.PRECISION int8; change one of them")
    needed = cfg.MODEL.COMPILE and model.device.type == "cpu"
    if needed and not any(map(shutil.which, (compiler, "g++", "clang++"))):
        raise UserError("MODEL.COMPILE: a C++ compiler is needed on a CPU (g++); or set it False")
    return cfg.MODEL.COMPILE


def _compile(stage: Stage, *, dynamic: bool | None) -> None:
    """Replace a stage's method by its compiled form.

    dynamic: True makes sizes symbolic from the first call on; None, from the second size on.
    """
    method, name = getattr(stage.owner, stage.method), f"MODEL.COMPILE: {stage.name}"
    setattr(stage.owner, stage.method, compile_where_possible(method, name, dynamic=dynamic))


def process_device(cfg: CfgNode) -> torch.device:
    """Return the device of this process.

    Each of several processes gets its own GPU, that of its local rank. A single process gets the
    device of MODEL.DEVICE.
    """
    device = build_device(cfg)
    if device.type != "cuda" or (world_size() == 1 and device.index is not None):
        return device
    return torch.device("cuda", local_rank())
