"""MODEL.BACKEND: what computes a model that only predicts."""

from importlib.metadata import version

from fvcore.common.config import CfgNode

import frozenseg
from frozenseg.config import flat_config
from frozenseg.encoders.frozen import weights_digest
from frozenseg.errors import UserError, import_extra
from frozenseg.models.base import SegmentationModel
from frozenseg.text.classifier import cache_folder

PYTORCH = "pytorch"
# By the name of the backend: its extra, and where a graph runs, as `open_session` is told.
GRAPHS = {"onnxruntime": ("onnx", "cpu"), "openvino": ("openvino", "openvino")}
PARTS = ("torch", "onnx", "onnxscript")  # which make the graphs
# Of the keys of a model, those that decide no graph. Weights count by their values.
WITHOUT_EFFECT = ("DEVICE", "PRECISION", "COMPILE", "CUDA_GRAPHS", "RECOMPUTE", "WEIGHTS")


def use_backend(cfg: CfgNode, model: SegmentationModel) -> bool:
    """Let a backend compute a model, if MODEL.BACKEND is another than PyTorch; returns whether."""
    name = cfg.MODEL.BACKEND
    if name == PYTORCH:
        return False
    if model.device.type != "cpu":
        raise UserError(f"MODEL.BACKEND {name}: computes on the CPU; set MODEL.DEVICE cpu")
    if cfg.MODEL.PRECISION not in ("auto", "fp32") or cfg.MODEL.COMPILE:
        raise UserError(
            f"MODEL.BACKEND {name}: computes in float32; leave MODEL.PRECISION auto and "
            "MODEL.COMPILE False"
        )
    extra, device = GRAPHS[name]
    import_extra(name, extra, f"MODEL.BACKEND {name}")
    folder = cache_folder()
    if folder is None:
        raise UserError(f"MODEL.BACKEND {name}: there is no home folder; set FROZENSEG_CACHE")
    from frozenseg.export.stand_in import stand_in  # which needs much, and seldom
    from frozenseg.export.store import GraphStore

    settings = {
        key: str(value)
        for key, value in flat_config(cfg).items()
        if key.startswith("MODEL.") and not key.endswith(WITHOUT_EFFECT)
    }
    identity = {
        "versions": {"frozenseg": frozenseg.__version__, **{part: version(part) for part in PARTS}},
        name: version(name),
        "weights": weights_digest(model),
        "settings": settings,
    }
    stand_in(model, GraphStore(folder / "graphs", identity, device))
    return True
