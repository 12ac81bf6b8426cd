"""The one place where a configuration becomes objects; models never see a configuration."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from fvcore.common.config import CfgNode

from frozenseg.checkpoints.frozen_weights import (
    FrozenPart,
    clip_image_entries,
    clip_text_entries,
    find_clip,
    find_sam,
    find_vit,
    load_parts,
    load_weights,
    vit_entries,
)
from frozenseg.checkpoints.quick_gelu import uses_quick_gelu
from frozenseg.checkpoints.state_dict import check_tensors
from frozenseg.encoders.bert import BertText, load_bert
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_text import ClipText, has_quick_gelu, without_image_tower
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock
from frozenseg.encoders.frozen import weights_digest
from frozenseg.encoders.patches import (
    PatchEncoder,
    SamPatches,
    TimmPatches,
    build_timm_vit,
    clip_patches,
)
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.encoders.sam_attention import FusedBlock
from frozenseg.errors import UserError, nearest
from frozenseg.files import resolve_packaged_path
from frozenseg.models.base import SegmentationModel, Stage
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.models.fusioner import EarlyFusion, Fusioner, LateFusion, UpsamplingDecoder
from frozenseg.models.mask_decoder import MaskDecoder
from frozenseg.models.pixel_decoder import PixelDecoder, SAMPixelDecoder
from frozenseg.runtime.allocator import release_fragmented_memory
from frozenseg.runtime.compiling import compile_where_possible
from frozenseg.runtime.isolation import own_random_stream
from frozenseg.runtime.precision import Precision
from frozenseg.text.classifier import TextClassifier, cache_folder
from frozenseg.text.templates import find_templates

logger = logging.getLogger(__name__)


def build_device(cfg: CfgNode) -> torch.device:
    """The device of MODEL.DEVICE; "auto" takes CUDA, then Apple's, then the CPU."""
    name = cfg.MODEL.DEVICE
    if name == "auto":
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
        found = f"{counts[device.type] or 'no'} {device.type.upper()} device"
        raise UserError(f"MODEL.DEVICE {name}: this PyTorch finds {found}; use auto or cpu")
    return device


def build_precision(cfg: CfgNode, device: torch.device) -> Precision:
    """How the model computes at inference: MODEL.PRECISION."""
    return Precision.choose(device, cfg.MODEL.PRECISION)


def prepare_for_inference(cfg: CfgNode, model: SegmentationModel) -> None:
    """Make a model faster that only predicts from now on, on the device where it is.

    With MODEL.COMPILE its stages are compiled, each in its place. Sizes are symbols from the first
    call on: most stages compile once, the decoders again for a few shapes (traced at three sizes:
    no graph breaks, ten graphs for six stages). Otherwise, on a CPU in float32, the blocks of the
    frozen encoders lay out their weights for it.
    """
    if _compiles(cfg, model):
        for stage in model.stages():
            _compile(stage, dynamic=None if stage.fixed_size else True)
    elif model.device.type == "cpu" and build_precision(cfg, model.device).dtype is None:
        for part in model.modules():
            if isinstance(part, FusedConvNeXtBlock | FusedBlock):
                part.prepack()
        release_fragmented_memory()  # the plain weights left holes that no activation fits in


def compile_encoders(cfg: CfgNode, model: SegmentationModel) -> None:
    """With MODEL.COMPILE: the frozen encoders alone of a model that trains, each in its place.

    Images in training all have one size, for which they are compiled first; an evaluation in
    between compiles them again, with sizes as symbols.
    """
    if _compiles(cfg, model):
        for stage in model.stages():
            if stage.frozen:
                _compile(stage, dynamic=None)


def _compiles(cfg: CfgNode, model: SegmentationModel) -> bool:
    """MODEL.COMPILE, where it can be done."""
    compiler = os.environ.get("CXX", "")
    needed = cfg.MODEL.COMPILE and model.device.type == "cpu"
    if needed and not any(map(shutil.which, (compiler, "g++", "clang++"))):
        raise UserError("MODEL.COMPILE: a C++ compiler is needed on a CPU (g++); or set it False")
    return cfg.MODEL.COMPILE


def _compile(stage: Stage, *, dynamic: bool | None) -> None:
    """dynamic: True: sizes are symbols from the first call on; None: from the second size on."""
    method = getattr(stage.owner, stage.method)
    setattr(stage.owner, stage.method, compile_where_possible(method, stage.name, dynamic=dynamic))


def build_model(cfg: CfgNode) -> SegmentationModel:
    """The model of a configuration, with new weights everywhere (`load_model` loads them).

    The weights are those of SEED; the random streams of the process stay as they are.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in MODELS:
        raise UserError(f"MODEL.META_ARCHITECTURE {name}: unknown; {nearest(name, list(MODELS))}")
    with own_random_stream(cfg.SEED):
        return MODELS[name](cfg)


def build_frozenseg_model(cfg: CfgNode) -> FrozenSeg:
    """As `build_model`, for what only FrozenSeg can do."""
    model = build_model(cfg)
    if not isinstance(model, FrozenSeg):
        name = cfg.MODEL.META_ARCHITECTURE
        raise UserError(f"MODEL.META_ARCHITECTURE {name}: this works for FrozenSeg and FCCLIP only")
    return model


def load_model(cfg: CfgNode) -> tuple[SegmentationModel, list[str]]:
    """The model with weights, and the parts left with random ones: "decoder" (all that trains),
    and of the frozen ones "clip" and "sam", of Fusioner "text" and "visual"."""
    model = build_model(cfg)
    weights, allow_random = resolve_packaged_path(cfg.MODEL.WEIGHTS), cfg.MODEL.ALLOW_RANDOM_WEIGHTS
    if not isinstance(model, FrozenSeg):
        parts = _fusioner_parts(cfg, model)
        random = load_parts(model, weights=weights, parts=parts, allow_random=allow_random)
        return model, sorted(random)
    random = load_weights(
        model,
        weights=weights,
        clip_name=cfg.MODEL.FROZEN_SEG.CLIP_MODEL_NAME,
        clip_weights=resolve_packaged_path(cfg.MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS),
        sam_name=cfg.MODEL.SAM_NAME,
        sam_weights=resolve_packaged_path(cfg.MODEL.SAM_WEIGHTS),
        allow_random=allow_random,
    )
    return model, sorted(random)


def build_clip(cfg: CfgNode) -> FrozenClip:
    """CLIP, with the activation that its weights need."""
    frozen = cfg.MODEL.FROZEN_SEG
    quick_gelu = uses_quick_gelu(
        name=frozen.CLIP_MODEL_NAME,
        weights=resolve_packaged_path(frozen.CLIP_PRETRAINED_WEIGHTS),
        choice=frozen.CLIP_QUICK_GELU,
        key="MODEL.FROZEN_SEG.CLIP_QUICK_GELU",
        allow_random=cfg.MODEL.ALLOW_RANDOM_WEIGHTS,
    )
    model = build_clip_model(frozen.CLIP_MODEL_NAME, quick_gelu=quick_gelu)
    clip = FrozenClip(
        model=model,
        name=frozen.CLIP_MODEL_NAME,
        mean=cfg.MODEL.PIXEL_MEAN,
        std=cfg.MODEL.PIXEL_STD,
    )
    if clip.embed_dim != frozen.EMBED_DIM:
        raise UserError(
            f"MODEL.FROZEN_SEG.EMBED_DIM is {frozen.EMBED_DIM}, "
            f"but {frozen.CLIP_MODEL_NAME} has {clip.embed_dim}"
        )
    return clip


def build_sam(cfg: CfgNode) -> FrozenSam:
    return FrozenSam(model=build_sam_model(cfg.MODEL.SAM_NAME), view=cfg.MODEL.FROZEN_SEG.SAM_VIEW)


def build_frozenseg(cfg: CfgNode) -> FrozenSeg:
    frozen, mask = cfg.MODEL.FROZEN_SEG, cfg.MODEL.MASK_FORMER
    clip = build_clip(cfg)
    sam = build_sam(cfg) if frozen.QUERY_INJECTOR or frozen.FEATURE_INJECTOR else None
    if sam is not None and sam.channels != mask.HIDDEN_DIM:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM is {mask.HIDDEN_DIM}, but SAM {cfg.MODEL.SAM_NAME} "
            f"gives {sam.channels} channels and the Query Injector needs them equal"
        )
    _check_sizes(cfg)
    return FrozenSeg(
        clip=clip,
        sam=sam,
        pixel_decoder=_build_pixel_decoder(cfg, clip),
        sam_pixel_decoder=_build_sam_pixel_decoder(cfg, sam)
        if sam and frozen.FEATURE_INJECTOR
        else None,
        mask_decoder=_build_mask_decoder(cfg),
        ensemble_alpha=frozen.GEOMETRIC_ENSEMBLE_ALPHA,
        ensemble_beta=frozen.GEOMETRIC_ENSEMBLE_BETA,
        ensemble_on_valid_mask=frozen.ENSEMBLE_ON_VALID_MASK,
        size_divisor=mask.SIZE_DIVISIBILITY,
    )


def _check_sizes(cfg: CfgNode) -> None:
    """Numbers that each are in range, but do not go together."""
    head, mask = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    heads = head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
    if head.CONVS_DIM != mask.HIDDEN_DIM:
        raise UserError("MODEL.SEM_SEG_HEAD.CONVS_DIM must equal MODEL.MASK_FORMER.HIDDEN_DIM")
    for key, value, divisor, reason in (
        ("HIDDEN_DIM", mask.HIDDEN_DIM, mask.NHEADS, "NHEADS"),
        ("HIDDEN_DIM", mask.HIDDEN_DIM, heads, "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"),
        ("HIDDEN_DIM", mask.HIDDEN_DIM, 32, "the groups of the normalisation"),
        ("SIZE_DIVISIBILITY", mask.SIZE_DIVISIBILITY, 32, "the stride of CLIP's last stage"),
    ):
        if value % divisor:
            raise UserError(
                f"MODEL.MASK_FORMER.{key} {value}: must be a multiple of {divisor} ({reason})"
            )


def build_fc_clip(cfg: CfgNode) -> FrozenSeg:
    """FC-CLIP's own configuration files: FrozenSeg with both injectors off."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FROZEN_SEG.QUERY_INJECTOR = cfg.MODEL.FROZEN_SEG.FEATURE_INJECTOR = False
    return build_frozenseg(cfg)


def build_fusioner(cfg: CfgNode) -> Fusioner:
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
        raise UserError("MODEL.FUSIONER.WINDOW: SAM takes an image in one piece; set it to 0")
    if node.WINDOW < 0 or node.WINDOW % visual.stride:
        raise UserError(
            f"MODEL.FUSIONER.WINDOW {node.WINDOW}: {node.VISUAL_NAME} needs a multiple of "
            f"{visual.stride}; 0: none"
        )
    if node.WINDOW and not 1 <= node.WINDOW_STRIDE <= node.WINDOW:
        raise UserError(
            f"MODEL.FUSIONER.WINDOW_STRIDE {node.WINDOW_STRIDE}: must lie between 1 and WINDOW "
            f"{node.WINDOW}"
        )
    kind = EarlyFusion if node.FUSION == "early" else LateFusion
    fusion = kind(
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


MODELS = {"FrozenSeg": build_frozenseg, "FCCLIP": build_fc_clip, "Fusioner": build_fusioner}


def _check_fusioner(node: CfgNode) -> None:
    """Numbers that each are in range, but do not go together."""
    if node.DIM % node.NUM_HEADS:
        raise UserError(
            f"MODEL.FUSIONER.DIM {node.DIM}: must be a multiple of NUM_HEADS {node.NUM_HEADS}"
        )
    if node.FUSION == "late" and node.NUM_LAYERS % 2:
        raise UserError(
            f"MODEL.FUSIONER.NUM_LAYERS {node.NUM_LAYERS}: the two stacks of FUSION late share it, "
            "so it must be even"
        )


def _build_encoders(cfg: CfgNode) -> tuple[PatchEncoder, ClipText | BertText]:
    """The two frozen encoders of Fusioner; of one CLIP, where both are its halves."""
    node = cfg.MODEL.FUSIONER
    kinds = {half: _clip_kind(cfg, half) for half in ("VISUAL", "TEXT") if node[half] == "clip"}
    models = {}  # one of each kind
    for half, (name, quick_gelu) in kinds.items():
        if (name, quick_gelu) not in models:
            key = f"MODEL.FUSIONER.{half}_NAME"
            models[name, quick_gelu] = build_clip_model(name, quick_gelu=quick_gelu, key=key)
    visual: PatchEncoder
    if node.VISUAL == "clip":
        visual = clip_patches(
            models[kinds["VISUAL"]].visual,
            name=node.VISUAL_NAME,
            mean=cfg.MODEL.PIXEL_MEAN,
            std=cfg.MODEL.PIXEL_STD,
        )
    elif node.VISUAL == "sam":
        sam = build_sam_model(node.VISUAL_NAME, key="MODEL.FUSIONER.VISUAL_NAME")
        visual = SamPatches(sam=FrozenSam(model=sam, view="keep_aspect"))
    else:
        visual = TimmPatches(model=build_timm_vit(node.VISUAL_NAME))
    if node.TEXT == "bert":
        bert = load_bert(resolve_packaged_path(node.TEXT_WEIGHTS))
        check_tensors(bert.model.state_dict(), node.TEXT_WEIGHTS)
        return visual, bert
    model = models[kinds["TEXT"]]
    return visual, ClipText(model=without_image_tower(model), name=node.TEXT_NAME)


def _clip_kind(cfg: CfgNode, half: str) -> tuple[str, bool]:
    """What a half of Fusioner that is CLIP's is built as: its name, and whether with QuickGELU."""
    node = cfg.MODEL.FUSIONER
    name = node[f"{half}_NAME"]
    clip_config(name, f"MODEL.FUSIONER.{half}_NAME")
    return name, uses_quick_gelu(
        name=name,
        weights=resolve_packaged_path(node[f"{half}_WEIGHTS"]),
        choice=node[f"{half}_QUICK_GELU"],
        key=f"MODEL.FUSIONER.{half}_QUICK_GELU",
        allow_random=cfg.MODEL.ALLOW_RANDOM_WEIGHTS,
    )


def _fusioner_parts(cfg: CfgNode, model: SegmentationModel) -> list[FrozenPart]:
    """The frozen encoders of Fusioner that have weights in files; BERT has brought its own."""
    assert isinstance(model, Fusioner), "the model of this configuration"
    node, visual, key = cfg.MODEL.FUSIONER, model.visual, "MODEL.FUSIONER.VISUAL_WEIGHTS"
    name, weights = node.VISUAL_NAME, resolve_packaged_path(node.VISUAL_WEIGHTS)
    if node.VISUAL == "clip":
        found = FrozenPart(
            "visual", visual.network, lambda: find_clip(name, weights, key), clip_image_entries
        )
    elif node.VISUAL == "sam":
        found = FrozenPart("visual", visual.network, lambda: find_sam(name, weights, key))
    else:
        found = FrozenPart(
            "visual", visual.network, lambda: find_vit(node.VISUAL, weights), vit_entries
        )
    if node.TEXT == "bert":
        return [found]

    def find_text() -> Path:
        key = "MODEL.FUSIONER.TEXT_WEIGHTS"
        return find_clip(node.TEXT_NAME, resolve_packaged_path(node.TEXT_WEIGHTS), key)

    return [found, FrozenPart("text", model.text.model, find_text, clip_text_entries)]


def _build_pixel_decoder(cfg: CfgNode, clip: FrozenClip) -> PixelDecoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    return PixelDecoder(
        in_channels=clip.channels,
        dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        num_layers=head.TRANSFORMER_ENC_LAYERS,
        num_heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        num_points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        published_init=cfg.MODEL.PUBLISHED_INIT,
        recompute=_recompute(cfg),
    )


def _build_sam_pixel_decoder(cfg: CfgNode, sam: FrozenSam) -> SAMPixelDecoder:
    head, levels = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS
    return SAMPixelDecoder(
        in_channels=sam.channels,
        dim=head.CONVS_DIM,
        num_layers=head.TRANSFORMER_ENC_LAYERS,
        num_levels=levels,
        num_heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        num_points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        published_init=cfg.MODEL.PUBLISHED_INIT,
        recompute=_recompute(cfg),
    )


def _recompute(cfg: CfgNode) -> bool:
    """MODEL.RECOMPUTE, where "auto" is True on a CPU."""
    if cfg.MODEL.RECOMPUTE == "auto":
        return build_device(cfg).type == "cpu"
    return cfg.MODEL.RECOMPUTE == "always"


def _build_mask_decoder(cfg: CfgNode) -> MaskDecoder:
    frozen, mask = cfg.MODEL.FROZEN_SEG, cfg.MODEL.MASK_FORMER
    return MaskDecoder(
        num_queries=mask.NUM_OBJECT_QUERIES,
        dim=mask.HIDDEN_DIM,
        num_heads=mask.NHEADS,
        hidden_dim=mask.DIM_FEEDFORWARD,
        num_layers=mask.DEC_LAYERS - 1,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        embed_dim=frozen.EMBED_DIM,
        query_injector_level=mask.SAM_QUERY_FUSE_LAYER if frozen.QUERY_INJECTOR else None,
        feature_injector_level=mask.SAM_FEATURE_FUSE_LAYER if frozen.FEATURE_INJECTOR else None,
        keep_key_positions=frozen.KEEP_KEY_POSITIONS,
    )


def feature_fingerprint(cfg: CfgNode, model: SegmentationModel, precision: Precision) -> str:
    """A digest of all that decides `SegmentationModel.encode`, but for the images: which encoders,
    their settings and weights. Devices are not told apart: they differ by rounding."""
    about: dict[str, Any] = {
        "libraries": [open_clip.__version__, timm.__version__],
        "precision": precision.name,
        "pixels": [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD],
    }
    parts: dict[str, torch.nn.Module] = {}
    if isinstance(model, FrozenSeg):
        visual = model.clip.model.visual
        about["clip"] = [cfg.MODEL.FROZEN_SEG.CLIP_MODEL_NAME, has_quick_gelu(visual)]
        parts["clip"] = visual
        if model.sam is not None:
            about["sam"] = [cfg.MODEL.SAM_NAME, model.sam.view]
            parts["sam"] = model.sam.model.image_encoder
    else:
        assert isinstance(model, Fusioner), "one of the two families"
        node = cfg.MODEL.FUSIONER
        about["visual"] = [node.VISUAL, node.VISUAL_NAME, has_quick_gelu(model.visual)]
        parts["visual"] = model.visual
    about["weights"] = {name: weights_digest(part) for name, part in parts.items()}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def build_text_classifier(
    cfg: CfgNode, model: SegmentationModel, *, use_disk: bool = True
) -> TextClassifier:
    """The vectors of names with the sentences of MODEL.TEXT.TEMPLATES."""
    folder = cache_folder() if use_disk else None
    return TextClassifier(
        model.text_encoder,
        templates=find_templates(cfg.MODEL.TEXT.TEMPLATES),
        folder=folder / "text" if folder else None,
    )
