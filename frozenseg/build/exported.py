"""Export a configuration to files that run without this package, and load such a file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

import frozenseg
from frozenseg.build.hub import HubPredictor
from frozenseg.build.models import build_text_classifier, load_model
from frozenseg.build.prediction import build_online_proposals, build_post_processor, note_of
from frozenseg.build.setting import require_weights
from frozenseg.build.vocabulary import build_training_vocabulary
from frozenseg.data.transforms import image_tensor, resize_image
from frozenseg.encoders.clip_text import ClipText, has_own_tokenizer
from frozenseg.encoders.frozen import weights_digest
from frozenseg.errors import UserError
from frozenseg.export import openvino
from frozenseg.export.agreement import LIMITS, Agreement, Words, fitting
from frozenseg.export.metadata import check_model, check_text, of_another
from frozenseg.export.network import Network
from frozenseg.export.precision import lower_precision
from frozenseg.export.results import OUTPUTS, Results
from frozenseg.export.sam_parts import PARTS, sam_of_graphs, write_part
from frozenseg.export.session import AnySession, NoText, OnnxModel, OnnxText, Session, open_session
from frozenseg.export.text import read_vectors, vectors_digest, write_text_tower, write_vectors
from frozenseg.export.write import write_graph
from frozenseg.files import atomic_path
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_sources import OnlineProposals
from frozenseg.inference.proposals import ProposalSettings
from frozenseg.inference.segment import Pipeline
from frozenseg.models.base import RegionClassifier, SegmentationModel
from frozenseg.runtime.isolation import own_random_stream, plain_defaults
from frozenseg.runtime.precision import Precision
from frozenseg.text.classifier import TextClassifier
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

TEXT, VECTORS = ".text.onnx", ".vectors.npz"
"""Endings of the names of the files beside an exported model."""
OVER_ONNX = ("onnx", "openvino")
"""The formats that are made from an ONNX file."""
LARGEST_ONNX = 2_000_000_000
"""The limit for the weights in bytes. The format itself limits the entire file to 2**31 bytes."""


@dataclass(frozen=True)
class Order:
    """What to export.

    output: the file; with several windows, the size of each is added to the name.
    format: a key of `FORMATS`.
    precision: the precision of the weights, one of `export.precision.PRECISIONS`.
    windows: the input size of each graph, (height, width) in pixels.
    wanted: the results that each graph computes, of "panoptic", "semantic" and "instances"; None:
        panoptic and semantic results, if the configuration switches them on.
    vocabulary: the classes whose text vectors are written beside the model and used for its check.
    proposals: whether to export separate graphs for SAM's proposals as well.
    """

    output: Path
    format: str
    precision: str
    windows: Sequence[tuple[int, int]]
    wanted: Sequence[str] | None
    vocabulary: Vocabulary
    proposals: bool = False


def export_model(cfg: CfgNode, order: Order) -> dict[Path, list[Agreement]]:
    """Write a model as graphs that are checked against it, with its text tower and text vectors.

    Returns, for each graph's file, how well it agrees with the model. A graph that disagrees raises
    `UserError` and is not written.
    """
    with plain_defaults(), own_random_stream(cfg.SEED):
        require_weights(cfg)
        model, random = load_model(cfg)
        model.eval()
        _refuse_what_cannot_be(model, order)
        rules = build_post_processor(cfg)
        wanted = _wanted(rules, order.wanted)
        training = build_training_vocabulary(cfg)
        text = build_text_classifier(cfg, model).embed(order.vocabulary, training, plurals=True)
        words = Words(text, torch.tensor(order.vocabulary.is_thing))
        about = _about(cfg, model, rules, training) | {
            "format": order.format,
            "precision": order.precision,
            "results": list(wanted),
            "vectors": vectors_digest(order.vocabulary.flat_names, text.weight),
            "note": note_of(random),
        }
        if order.proposals:
            about |= {"sam": _write_sam(cfg, model, order)}
        network = Results(Network(model), rules, wanted)
        if not network.network.free_classes:
            about |= {"classes": len(text.seen), "names": len(text.weight)}
        found = {
            path: write_graph(
                network, words, path, about | _of_window(order, path, window), parts=order.proposals
            )
            for path, window in _paths(order).items()
        }
        write_vectors(_beside(order.output, VECTORS), order.vocabulary, text)
        if order.format in OVER_ONNX:
            _write_text(model.text_encoder, _beside(order.output, TEXT), about)
        return found


def _refuse_what_cannot_be(model: SegmentationModel, order: Order) -> None:
    """Raise `UserError` at once for an order that would otherwise fail after minutes of work."""
    for height, width in order.windows:
        if height % model.size_divisor or width % model.size_divisor or not height * width:
            raise UserError(f"--size {height}x{width}: must be multiples of {model.size_divisor}")
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if order.format in OVER_ONNX and size > LARGEST_ONNX:
        raise UserError(
            f"the model has {size / 1e9:.1f} GB of weights, and an ONNX file holds at most "
            f"{LARGEST_ONNX / 1e9:.1f} GB; take --format torch"
        )


def _write_sam(cfg: CfgNode, model: SegmentationModel, order: Order) -> dict[str, Any]:
    """Write the parts of SAM beside the model; return their metadata for readers of the model."""
    sam = model.sam if isinstance(model, RegionClassifier) else None
    if sam is None or order.format not in OVER_ONNX:
        raise UserError("--proposals: needs a model that has a SAM, and --format onnx or openvino")
    online = build_online_proposals(cfg, sam, model.device)
    if online.sam is not sam:
        raise UserError(
            "--proposals: TEST.PKL_SAM_MODEL_NAME and TEST.SAM_MASKS.WEIGHTS are not those "
            "of MODEL.SAM_NAME and MODEL.SAM_WEIGHTS; choose the same SAM for both"
        )
    about = {"name": cfg.MODEL.SAM_NAME, "view": sam.view, "settings": asdict(online.settings)}
    about |= {"weights": weights_digest(sam.model)}
    for part in PARTS:
        path = _beside(order.output, f".{part}.onnx")
        logger.info("%s: writing", path)
        with atomic_path(path) as temporary:
            write_part(part, sam, temporary, about, Session)
    return about


def _about(cfg: CfgNode, model: Any, rules: PostProcessor, training: Vocabulary) -> dict[str, Any]:
    """Return the metadata that a reader of the file needs; it is valid JSON."""
    text = model.text_encoder
    return {
        "version": frozenseg.__version__,
        "family": cfg.MODEL.META_ARCHITECTURE,
        "weights": weights_digest(model),
        "input": "RGB, 0-255, the image at the top left; the graph normalises it",
        "size_divisor": model.size_divisor,
        "rules": asdict(rules),
        "training_names": [list(names) for names in training.names],
        "training_is_thing": list(training.is_thing),
        "templates": list(build_text_classifier(cfg, model).templates),
        "clip": getattr(text, "name", None),
        "text_fingerprint": text.text_fingerprint(),
    }


def _wanted(rules: PostProcessor, asked: Sequence[str] | None) -> list[str]:
    made = [name for name in ("panoptic", "semantic", "instances") if getattr(rules, name)]
    if asked is None:
        return [name for name in made if name != "instances"]
    for name in asked:
        if name not in made:
            raise UserError(
                f"--results {name}: this model makes {', '.join(made) or 'none'} "
                "(MODEL.MASK_FORMER.TEST)"
            )
    return [name for name in made if name in asked]


def _paths(order: Order) -> dict[Path, tuple[int, int]]:
    if len(order.windows) == 1:
        return {order.output: order.windows[0]}
    return {
        order.output.with_stem(f"{order.output.stem}_{height}x{width}"): (height, width)
        for height, width in order.windows
    }


def _of_window(order: Order, path: Path, window: tuple[int, int]) -> dict[str, Any]:
    """Return the metadata of one graph alone: its window, and what `_paths` added to its name."""
    return {"window": list(window), "added": path.stem.removeprefix(order.output.stem)}


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


def _write_text(encoder: Any, path: Path, about: dict[str, Any]) -> None:
    if not isinstance(encoder, ClipText) or not has_own_tokenizer(encoder):
        logger.warning("%s: not written, since only CLIP's own text tower is exported", path)
        return
    more = {
        "context_length": encoder.model.context_length,
        "merges": [" ".join(pair) for pair in encoder.tokenizer.bpe_ranks],
    }
    texts = ["a photo of a cat", "sky", "There is the red circle in the scene"]
    with atomic_path(path) as temporary:
        write_text_tower(encoder, temporary, about | more)
        if about["precision"] != "fp32":
            lower_precision(temporary, about["precision"])
        vectors = OnnxText(Session(temporary)).encode_text(texts)
        likeness = float(F.cosine_similarity(vectors, encoder.encode_text(texts)).min())
        if not likeness > LIMITS[about["precision"]].vectors:
            raise UserError(
                f"{path}: its vectors differ from those of the text tower (smallest cosine "
                f"{likeness:.6f}); not written"
            )


class ExportedPredictor(HubPredictor):
    """A predictor whose network is an exported graph; images are resized to fit its window."""

    def resize(self, pixels: np.ndarray) -> Tensor:
        """Resize an image as `Predictor.resize` does, to the largest size that fits the window.

        The aspect ratio is kept.
        """
        model = self.model
        assert isinstance(model, OnnxModel), "`load_exported` passes such a model"
        return image_tensor(resize_image(pixels, fitting(pixels.shape[:2], model.window)))


def load_exported(path: Path, device: str | None) -> ExportedPredictor:
    """Load a model of `frozenseg export`, an ONNX or OpenVINO file, with the files beside it.

    device: as in `open_session`.
    """
    if device is None and path.suffix == openvino.SUFFIX:
        device = "openvino"
    session = open_session(path, device, [*OUTPUTS["logits"], *OUTPUTS["regions"]])
    about = session.about
    check_model(path, about, session.inputs)
    base = _base(path, about)
    proposals = _proposals(base, about.get("sam"), device)
    model = OnnxModel(session, proposals.sam if proposals else None)
    tower, vectors = _beside(base, TEXT), _beside(base, VECTORS)
    return ExportedPredictor(
        pipeline=Pipeline(
            model=model,
            post_processor=PostProcessor(**about["rules"]),
            precision=Precision(model.device),
            proposals=proposals,
        ),
        text_classifier=TextClassifier(
            _tower(tower, about, device) if tower.is_file() else NoText(tower),
            templates=about["templates"],
            folder=None,
            known=_vectors(vectors, session) if vectors.is_file() else {},
        ),
        training_vocabulary=Vocabulary(
            tuple(tuple(names) for names in about["training_names"]),
            tuple(about["training_is_thing"]),
        ),
        short_side=min(model.window),
        long_side=max(model.window),
        note=about.get("note"),
    )


def _tower(path: Path, about: Mapping[str, Any], device: str | None) -> OnnxText:
    session = open_session(path, device)
    check_text(path, session.about, about.get("text_fingerprint"))
    return OnnxText(session)


def _vectors(path: Path, session: AnySession) -> dict[str, Tensor]:
    shape = session.inputs.get("vectors", [None])
    return read_vectors(path, session.about.get("vectors"), shape[-1])


def _proposals(
    base: Path, about: Mapping[str, Any] | None, device: str | None
) -> OnlineProposals | None:
    """Return the source of SAM's proposals from the files beside a model; None without them."""
    if about is None:
        return None
    files = {part: _beside(base, f".{part}.onnx") for part in PARTS}
    sessions = {part: open_session(path, device) for part, path in files.items()}
    for part, path in files.items():
        if sessions[part].about != about:
            raise of_another(path)
    sam, decoder = sam_of_graphs(about["name"], about["view"], sessions)
    settings = ProposalSettings(**about["settings"])
    return OnlineProposals(sam, decoder, settings, shared=about["view"] == "keep_aspect")


def _base(path: Path, about: dict[str, Any]) -> Path:
    """Return the path from which the names of the files beside a model are derived.

    It is the path of the model without what the export added to its name. Older files do not say
    what that is: a size at the end of their name was taken for it.
    """
    height, width = about["window"]
    return path.with_stem(path.stem.removesuffix(about.get("added", f"_{height}x{width}")))
