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
    """Return the device of MODEL.DEVICE; "auto" takes CUDA, then Apple's, then the CPU, and
    always this for MODEL.BACKEND."""
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
    """How the model computes at inference: MODEL.PRECISION."""
    with setting("MODEL.PRECISION"):
        return Precision.choose(device, cfg.MODEL.PRECISION)


def prepare_for_inference(cfg: CfgNode, model: SegmentationModel) -> None:
    """Make a model that only predicts from now on faster on the device where it is.

    With MODEL.COMPILE its stages are compiled in place. Sizes are symbolic from the first call on:
    most stages compile once, the decoders again for a few shapes (at three sizes there were no
    graph breaks, and ten graphs for six stages). Otherwise, on a CPU in float32, the blocks of the
    frozen encoders store their weights in the layout that its kernels need, or in 8 bits. In half
    precision the encoders and the products of the decoders keep their weights in it, so that
    nothing is cast anew for every image. With MODEL.CUDA_GRAPHS the stages are launched as CUDA
    graphs. With MODEL.BACKEND, graphs of other runtimes do all of that.
    """
    sam = model.sam if isinstance(model, RegionClassifier) else None
    if sam is not None and cfg.TEST.USE_SAM_MASKS and cfg.TEST.SAM_MASKS.FOLDER:
        keep_digest(sam.model)  # by which the masks on disk are recognised
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
    """With MODEL.COMPILE, compile the frozen encoders of a model that trains, in place.

    All training images have one size, for which the encoders are compiled first. An evaluation in
    between compiles them again with symbolic sizes.
    """
    if _compiles(cfg, model):
        for stage in model.stages():
            if stage.frozen:
                _compile(stage, dynamic=None)


def _compiles(cfg: CfgNode, model: SegmentationModel) -> bool:
    """MODEL.COMPILE; raises `UserError` where there is no compiler."""
    compiler = os.environ.get("CXX", "")
    if cfg.MODEL.COMPILE and cfg.MODEL.PRECISION == "int8":
        raise UserError("MODEL.COMPILE: not with MODEL.PRECISION int8; set one of them otherwise")
    needed = cfg.MODEL.COMPILE and model.device.type == "cpu"
    if needed and not any(map(shutil.which, (compiler, "g++", "clang++"))):
        raise UserError("MODEL.COMPILE: a C++ compiler is needed on a CPU (g++); or set it False")
    return cfg.MODEL.COMPILE


def _compile(stage: Stage, *, dynamic: bool | None) -> None:
    """Replace a stage's method by its compiled form.

    dynamic: True: sizes are symbolic from the first call on; None: from the second size on.
    """
    method, name = getattr(stage.owner, stage.method), f"MODEL.COMPILE: {stage.name}"
    setattr(stage.owner, stage.method, compile_where_possible(method, name, dynamic=dynamic))


def process_device(cfg: CfgNode) -> torch.device:
    """Return the device of this process: each of several processes has a GPU of its own. A process
    alone has the one that MODEL.DEVICE says."""
    device = build_device(cfg)
    if device.type != "cuda" or (world_size() == 1 and device.index is not None):
        return device
    return torch.device("cuda", local_rank())
