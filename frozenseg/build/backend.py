"""MODEL.BACKEND: the runtime that computes a model at inference."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode
from torch import nn

import frozenseg
from frozenseg.config import flat_config
from frozenseg.encoders.frozen import weights_digest
from frozenseg.encoders.sam import FrozenSam
from frozenseg.encoders.sam_decoder import PointDecoder
from frozenseg.errors import UserError, import_extra
from frozenseg.models.base import RegionClassifier, SegmentationModel
from frozenseg.text.classifier import cache_folder

if TYPE_CHECKING:
    from frozenseg.export.session import AnySession
    from frozenseg.export.store import GraphStore

PYTORCH = "pytorch"
# Backend -> its extra, and the device of its graphs as `open_session` takes it.
GRAPHS = {"onnxruntime": ("onnx", "cpu"), "openvino": ("openvino", "openvino")}
MAKERS = ("torch", "onnx", "onnxscript")
# Keys of MODEL that do not affect a graph. Weights count by their values, not by their paths.
WITHOUT_EFFECT = ("DEVICE", "PRECISION", "COMPILE", "CUDA_GRAPHS", "RECOMPUTE", "WEIGHTS")


def use_backend(cfg: CfgNode, model: SegmentationModel) -> bool:
    """Let the backend compute a model; return False if the backend is PyTorch."""
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
    store = _graph_store(cfg, model)
    from frozenseg.export.stand_in import stand_in  # slow to import, and seldom needed

    if isinstance(model, RegionClassifier) and model.sam is not None:
        _encode_by_graph(model.sam, _graph_store(cfg, model.sam))
    stand_in(model, store)
    return True


def build_point_decoder(cfg: CfgNode, sam: FrozenSam, *, own: bool) -> PointDecoder:
    """Build the decoder of SAM's proposals.

    own: whether the SAM is used only for proposals. If it is, the backend takes over its encoder
    here; otherwise `use_backend` has done so with the rest of the model.
    """
    if cfg.MODEL.BACKEND == PYTORCH:
        return PointDecoder(sam.model)
    from frozenseg.export.sam_parts import stand_in_for_decoder

    decoder, store = PointDecoder(sam.model), _graph_store(cfg, sam)
    if own:
        _encode_by_graph(sam, store)
    stand_in_for_decoder(decoder, *(_part(name, sam, store) for name in ("points", "masks")))
    return decoder


def _encode_by_graph(sam: FrozenSam, store: "GraphStore") -> None:
    from frozenseg.export.sam_parts import stand_in_for_encoder

    stand_in_for_encoder(sam, _part("encoder", sam, store))


def _part(name: str, sam: FrozenSam, store: "GraphStore") -> "AnySession":
    from frozenseg.export.sam_parts import write_part

    def make(path: Path) -> None:
        write_part(name, sam, path, {}, store.session)

    return store.open(f"SAM's {name}", make)


def _graph_store(cfg: CfgNode, module: nn.Module) -> "GraphStore":
    """Return the store on disk for the graphs that are made from a module."""
    name = cfg.MODEL.BACKEND
    extra, device = GRAPHS[name]
    import_extra(name, extra, f"MODEL.BACKEND {name}")
    folder = cache_folder()
    if folder is None:
        raise UserError(f"MODEL.BACKEND {name}: there is no home folder; set FROZENSEG_CACHE")
    from frozenseg.export.store import GraphStore

    settings = {
        key: str(value)
        for key, value in flat_config(cfg).items()
        if key.startswith("MODEL.") and not key.endswith(WITHOUT_EFFECT)
    }
    identity = {
        "frozenseg": frozenseg.__version__,
        **{package: version(package) for package in (*MAKERS, name)},
        "weights": weights_digest(module),
        "settings": settings,
    }
    return GraphStore(folder / "graphs", identity, device)
