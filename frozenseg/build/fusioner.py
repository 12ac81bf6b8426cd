"""Build Fusioner from a configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor

from frozenseg.build.clip import said_quick_gelu, uses_quick_gelu
from frozenseg.build.family import Identity
from frozenseg.build.setting import OR_RANDOM, setting
from frozenseg.checkpoints.frozen_weights import (
    FrozenPart,
    clip_image_entries,
    clip_text_entries,
    find_clip,
    find_sam,
    find_vit,
    vit_entries,
)
from frozenseg.checkpoints.state_dict import check_tensors
from frozenseg.encoders.bert import BertText, load_bert
from frozenseg.encoders.clip import build_clip_model
from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_text import ClipText, has_quick_gelu, without_image_tower
from frozenseg.encoders.patches import (
    PatchEncoder,
    SamPatches,
    TimmPatches,
    build_timm_vit,
    clip_patches,
)
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.engine.training_loss import BinaryMaskLoss, InputPreparation
from frozenseg.errors import UserError, nearest
from frozenseg.files import resolve_packaged_path
from frozenseg.models.fusioner import EarlyFusion, Fusioner, LateFusion, UpsamplingDecoder
from frozenseg.structures import TextEmbeddings


@dataclass(frozen=True, kw_only=True)
class VisualEncoder:
    """A row of `VISUAL_ENCODERS`.

    build: builds the encoder named MODEL.FUSIONER.VISUAL_NAME, without loading weights.
    find: returns the file of its weights; the arguments are MODEL.FUSIONER.VISUAL_NAME and
        MODEL.FUSIONER.VISUAL_WEIGHTS, a path or "".
    pick: selects, from the entries of that file, those of `PatchEncoder.network`.
    """

    build: Callable[[str], PatchEncoder]
    find: Callable[[str, str], Path]
    pick: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict


def _sam_patches(name: str) -> SamPatches:
    return SamPatches(sam=FrozenSam(model=build_sam_model(name), view="keep_aspect"))


def _timm_patches(name: str) -> TimmPatches:
    return TimmPatches(model=build_timm_vit(name))


VISUAL_ENCODERS = {
    "sam": VisualEncoder(build=_sam_patches, find=find_sam),
    "dino": VisualEncoder(
        build=_timm_patches, find=lambda name, weights: find_vit("dino", weights), pick=vit_entries
    ),
    "moco": VisualEncoder(
        build=_timm_patches, find=lambda name, weights: find_vit("moco", weights), pick=vit_entries
    ),
}
"""MODEL.FUSIONER.VISUAL -> the encoder. "clip" has no row, because the text encoder may share its
model."""


def _visual_row(cfg: CfgNode) -> VisualEncoder:
    name = cfg.MODEL.FUSIONER.VISUAL
    if name not in VISUAL_ENCODERS:
        known = nearest(name, ["clip", *VISUAL_ENCODERS])
        raise UserError(f"MODEL.FUSIONER.VISUAL {name}: unknown; {known}")
    return VISUAL_ENCODERS[name]


def build_fusioner(cfg: CfgNode) -> Fusioner:
    """Build Fusioner with new weights; raise `UserError` for sizes that do not fit together."""
    node = cfg.MODEL.FUSIONER
    _check_fusioner(node)
    visual, text = _build_encoders(cfg)
    divisor = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    if divisor % visual.stride:
        raise UserError(
            f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY {divisor}: {node.VISUAL_NAME} needs a multiple "
            f"of {visual.stride}"
        )
    if node.WINDOW and node.VISUAL == "sam":
        raise UserError("MODEL.FUSIONER.WINDOW: SAM needs the entire image; set it to 0")
    if node.WINDOW < 0 or node.WINDOW % visual.stride:
        raise UserError(
            f"MODEL.FUSIONER.WINDOW {node.WINDOW}: {node.VISUAL_NAME} needs a multiple of "
            f"{visual.stride}, or 0 for no windows"
        )
    if node.WINDOW and not 1 <= node.WINDOW_STRIDE <= node.WINDOW:
        raise UserError(
            f"MODEL.FUSIONER.WINDOW_STRIDE {node.WINDOW_STRIDE}: must lie between 1 and WINDOW "
            f"{node.WINDOW}"
        )
    fusion_class = EarlyFusion if node.FUSION == "early" else LateFusion
    fusion = fusion_class(
        visual_channels=visual.channels,
        text_channels=text.embed_dim,
        dim=node.DIM,
        num_heads=node.NUM_HEADS,
        hidden_dim=node.HIDDEN_DIM,
        num_layers=node.NUM_LAYERS,
    )
    if cfg.MODEL.PUBLISHED_INIT:
        fusion.start_as_published()
    return Fusioner(
        visual=visual,
        text=text,
        fusion=fusion,
        decoder=UpsamplingDecoder(dim=node.DIM, doublings=node.DECODER_DOUBLINGS),
        temperature=node.TEMPERATURE,
        classes_at_once=node.CLASSES_AT_ONCE,
        size_divisor=divisor,
        window=node.WINDOW,
        window_stride=node.WINDOW_STRIDE,
        window_padding=node.WINDOW_PADDING,
    )


def _check_fusioner(node: CfgNode) -> None:
    """Refuse values that are valid one by one but do not fit together."""
    if node.DIM % node.NUM_HEADS:
        raise UserError(
            f"MODEL.FUSIONER.DIM {node.DIM}: must be a multiple of NUM_HEADS {node.NUM_HEADS}"
        )
    if node.FUSION == "late" and node.NUM_LAYERS % 2:
        raise UserError(
            f"MODEL.FUSIONER.NUM_LAYERS {node.NUM_LAYERS}: the two stacks of FUSION late have half "
            "of the layers each, so the number must be even"
        )
    if node.CLASSES_AT_ONCE and node.FEWEST_AT_ONCE > node.CLASSES_AT_ONCE:
        raise UserError(
            f"MODEL.FUSIONER.FEWEST_AT_ONCE {node.FEWEST_AT_ONCE}: must be at most CLASSES_AT_ONCE "
            f"{node.CLASSES_AT_ONCE}"
        )


def _build_encoders(cfg: CfgNode) -> tuple[PatchEncoder, ClipText | BertText]:
    """Build the two frozen encoders; they share one CLIP model if both belong to the same one."""
    node = cfg.MODEL.FUSIONER
    clips = {half: _clip_form(cfg, half) for half in ("VISUAL", "TEXT") if node[half] == "clip"}
    models = {}  # (name, QuickGELU or not) -> the CLIP model
    for half, (name, quick_gelu) in clips.items():
        if (name, quick_gelu) not in models:
            with setting(f"MODEL.FUSIONER.{half}_NAME"):
                models[name, quick_gelu] = build_clip_model(name, quick_gelu=quick_gelu)
    visual: PatchEncoder
    row = None if node.VISUAL == "clip" else _visual_row(cfg)
    with setting("MODEL.FUSIONER.VISUAL_NAME"):
        if row is None:
            visual = clip_patches(
                models[clips["VISUAL"]].visual,
                name=node.VISUAL_NAME,
                mean=cfg.MODEL.PIXEL_MEAN,
                std=cfg.MODEL.PIXEL_STD,
            )
        else:
            visual = row.build(node.VISUAL_NAME)
    if node.TEXT == "bert":
        with setting("MODEL.FUSIONER.TEXT_WEIGHTS"):
            bert = load_bert(resolve_packaged_path(node.TEXT_WEIGHTS))
        check_tensors(bert.model.state_dict(), node.TEXT_WEIGHTS)
        return visual, bert
    model = models[clips["TEXT"]]
    return visual, ClipText(model=without_image_tower(model), name=node.TEXT_NAME)


def _clip_form(cfg: CfgNode, half: str) -> tuple[str, bool]:
    """Return the name of an encoder's CLIP model, and whether it has QuickGELU.

    half: "VISUAL" or "TEXT", the prefix of the encoder's keys.
    """
    node = cfg.MODEL.FUSIONER
    name = node[f"{half}_NAME"]
    with setting(f"MODEL.FUSIONER.{half}_NAME"):
        clip_config(name)
    return name, uses_quick_gelu(
        name=name,
        weights=resolve_packaged_path(node[f"{half}_WEIGHTS"]),
        choice=node[f"{half}_QUICK_GELU"],
        key=f"MODEL.FUSIONER.{half}_QUICK_GELU",
        allow_random=cfg.MODEL.ALLOW_RANDOM_WEIGHTS,
    )


def fusioner_parts(cfg: CfgNode, model: Fusioner) -> list[FrozenPart]:
    """Return the frozen encoders and where their weights are, without BERT, which is built with
    its weights."""
    node, network = cfg.MODEL.FUSIONER, model.visual.network
    row = None if node.VISUAL == "clip" else _visual_row(cfg)
    name, weights = node.VISUAL_NAME, resolve_packaged_path(node.VISUAL_WEIGHTS)

    @setting("MODEL.FUSIONER.VISUAL_WEIGHTS", OR_RANDOM)
    def visual_file() -> Path:
        return find_clip(name, weights) if row is None else row.find(name, weights)

    @setting("MODEL.FUSIONER.TEXT_WEIGHTS", OR_RANDOM)
    def text_file() -> Path:
        return find_clip(node.TEXT_NAME, resolve_packaged_path(node.TEXT_WEIGHTS))

    pick = clip_image_entries if row is None else row.pick
    parts = [FrozenPart("visual", network, visual_file, pick)]
    if node.TEXT == "clip":
        parts.append(FrozenPart("text", model.text.model, text_file, clip_text_entries))
    return parts


def fusioner_identity(cfg: CfgNode, model: Fusioner) -> Identity:
    """Return the settings and encoder that determine the features; see `Family.identity`."""
    node = cfg.MODEL.FUSIONER
    settings = [node.VISUAL, node.VISUAL_NAME, has_quick_gelu(model.visual)]
    return {"visual": (settings, model.visual)}


def fusioner_shared(cfg: CfgNode, model: Fusioner) -> dict[str, str]:
    """Return the keys that CLIP's own weights files would otherwise determine; see `Family.shared`.

    Raises `UserError` for BERT, which consists of more files than its weights.
    """
    if cfg.MODEL.FUSIONER.TEXT == "bert":
        raise UserError(
            f"MODEL.FUSIONER.TEXT_WEIGHTS {cfg.MODEL.FUSIONER.TEXT_WEIGHTS}: a BERT is not saved "
            "with a model; share the run's folder and BERT's folder, or train with "
            "MODEL.FUSIONER.TEXT clip"
        )
    return {
        "MODEL.FUSIONER.VISUAL_QUICK_GELU": said_quick_gelu(model.visual),
        "MODEL.FUSIONER.TEXT_QUICK_GELU": said_quick_gelu(model.text),
    }


def fusioner_encoders(cfg: CfgNode) -> dict[str, str]:
    """Return the names of the visual and the text encoder."""
    return {"visual": cfg.MODEL.FUSIONER.VISUAL_NAME, "text": cfg.MODEL.FUSIONER.TEXT_NAME}


def fusioner_loss(
    cfg: CfgNode, model: Fusioner, text: TextEmbeddings, inputs: InputPreparation
) -> BinaryMaskLoss:
    """Build the loss on the binary masks, one for each queried class."""
    return BinaryMaskLoss(
        vectors=text.class_vectors(),
        classes_at_once=model.classes_at_once,
        fewest_at_once=cfg.MODEL.FUSIONER.FEWEST_AT_ONCE,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        inputs=inputs,
        seed=cfg.SEED,
    )
