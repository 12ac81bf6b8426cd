"""Build FrozenSeg from a configuration, and FC-CLIP, which is FrozenSeg without SAM."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from open_clip.pretrained import get_pretrained_cfg

from frozenseg.build.clip import said_quick_gelu, uses_quick_gelu
from frozenseg.build.device import build_device
from frozenseg.build.family import Identity
from frozenseg.build.setting import OR_RANDOM, setting
from frozenseg.checkpoints.frozen_weights import FrozenPart, clip_entries, find_clip, find_sam
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_text import has_quick_gelu
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.engine.training_loss import InputPreparation, MaskClassificationLoss
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path
from frozenseg.losses.region_loss import RegionLoss
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.models.mask_adapter import FINER, MaskAdapter
from frozenseg.models.mask_decoder import MaskDecoder
from frozenseg.models.pixel_decoder import PixelDecoder, Recompute, SAMPixelDecoder
from frozenseg.models.simple_pyramid import SimpleFeaturePyramid
from frozenseg.structures import TextEmbeddings

logger = logging.getLogger(__name__)


def build_frozenseg(cfg: CfgNode) -> FrozenSeg:
    """Build FrozenSeg with new weights; raise `UserError` for sizes that do not fit together."""
    frozen, mask = cfg.MODEL.FROZEN_SEG, cfg.MODEL.MASK_FORMER
    clip = build_clip(cfg)
    sam = build_sam(cfg) if frozen.QUERY_INJECTOR or frozen.FEATURE_INJECTOR else None
    if sam is not None and sam.channels != mask.HIDDEN_DIM:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM is {mask.HIDDEN_DIM}, but SAM {cfg.MODEL.SAM_NAME} "
            f"has {sam.channels} channels, and the Query Injector needs equal numbers"
        )
    _check_sizes(cfg)
    pyramid = _build_pyramid(clip, simple=frozen.CLIP_PYRAMID == "simple")
    model = FrozenSeg(
        clip=clip,
        sam=sam,
        pixel_decoder=_build_pixel_decoder(cfg, clip if pyramid is None else pyramid),
        sam_pixel_decoder=_build_sam_pixel_decoder(cfg, sam)
        if sam and frozen.FEATURE_INJECTOR
        else None,
        mask_decoder=_build_mask_decoder(cfg),
        ensemble_alpha=frozen.GEOMETRIC_ENSEMBLE_ALPHA,
        ensemble_beta=frozen.GEOMETRIC_ENSEMBLE_BETA,
        ensemble_on_valid_mask=frozen.ENSEMBLE_ON_VALID_MASK,
        size_divisor=mask.SIZE_DIVISIBILITY,
        pyramid=pyramid,
        void_factor=frozen.VOID_FACTOR,
        void_to_unseen=frozen.VOID_TO_UNSEEN,
        mask_adapter=_build_mask_adapter(cfg) if frozen.POOLING == "adapter" else None,
    )
    if frozen.MASK_ADAPTER.ALONE:
        if model.mask_adapter is None:
            raise UserError(
                f"MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE True: with POOLING {frozen.POOLING} there is "
                "no mask adapter; set MODEL.FROZEN_SEG.POOLING to adapter, or ALONE to False"
            )
        model.train_alone("mask_adapter")
    return model


def build_fc_clip(cfg: CfgNode) -> FrozenSeg:
    """Build FC-CLIP from its own configuration files, which set no keys of the injectors.

    FC-CLIP is FrozenSeg with both injectors off.
    """
    return build_frozenseg(_without_injectors(cfg))


def _without_injectors(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FROZEN_SEG.QUERY_INJECTOR = cfg.MODEL.FROZEN_SEG.FEATURE_INJECTOR = False
    return cfg


def frozenseg_encoders(cfg: CfgNode) -> dict[str, str]:
    """Return the names of CLIP and, if an injector uses it, of SAM."""
    frozen = cfg.MODEL.FROZEN_SEG
    sam = {"sam": cfg.MODEL.SAM_NAME} if frozen.QUERY_INJECTOR or frozen.FEATURE_INJECTOR else {}
    return {"clip": frozen.CLIP_MODEL_NAME, **sam}


def fc_clip_encoders(cfg: CfgNode) -> dict[str, str]:
    """Return the name of CLIP only, because FC-CLIP has no SAM."""
    return frozenseg_encoders(_without_injectors(cfg))


def build_clip(cfg: CfgNode) -> FrozenClip:
    """Build CLIP with the activation function that its weights need."""
    frozen = cfg.MODEL.FROZEN_SEG
    with setting("MODEL.FROZEN_SEG.CLIP_MODEL_NAME"):
        clip_config(frozen.CLIP_MODEL_NAME)
    quick_gelu = uses_quick_gelu(
        name=frozen.CLIP_MODEL_NAME,
        weights=resolve_packaged_path(frozen.CLIP_PRETRAINED_WEIGHTS),
        choice=frozen.CLIP_QUICK_GELU,
        key="MODEL.FROZEN_SEG.CLIP_QUICK_GELU",
        allow_random=cfg.MODEL.ALLOW_RANDOM_WEIGHTS,
    )
    with setting("MODEL.FROZEN_SEG.CLIP_MODEL_NAME"):
        clip = FrozenClip(
            model=build_clip_model(frozen.CLIP_MODEL_NAME, quick_gelu=quick_gelu),
            name=frozen.CLIP_MODEL_NAME,
            mean=cfg.MODEL.PIXEL_MEAN,
            std=cfg.MODEL.PIXEL_STD,
        )
    with setting("MODEL.FROZEN_SEG.CLIP_POOL_TEMPERATURE"):
        clip.set_pool_temperature(frozen.CLIP_POOL_TEMPERATURE)
    _warn_of_other_pixels(cfg)
    if clip.embed_dim != frozen.EMBED_DIM:
        raise UserError(
            f"MODEL.FROZEN_SEG.EMBED_DIM is {frozen.EMBED_DIM}, "
            f"but {frozen.CLIP_MODEL_NAME} has {clip.embed_dim}"
        )
    return clip


def _warn_of_other_pixels(cfg: CfgNode) -> None:
    """Warn if CLIP's weights were trained with another normalisation of the pixels."""
    frozen = cfg.MODEL.FROZEN_SEG
    row = get_pretrained_cfg(frozen.CLIP_MODEL_NAME, frozen.CLIP_PRETRAINED_WEIGHTS)
    for key, name in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std")):
        wanted = [round(255 * value, 3) for value in row.get(name, ())]
        if wanted and not np.allclose(wanted, cfg.MODEL[key], atol=0.5):
            said = "MODEL.%s %s: %s %s was trained with %s"
            weights = frozen.CLIP_PRETRAINED_WEIGHTS
            logger.warning(said, key, cfg.MODEL[key], frozen.CLIP_MODEL_NAME, weights, wanted)


def build_sam(cfg: CfgNode) -> FrozenSam:
    """Build the SAM model of MODEL.SAM_NAME with new weights."""
    with setting("MODEL.SAM_NAME"):
        model = build_sam_model(cfg.MODEL.SAM_NAME)
    return FrozenSam(model=model, view=cfg.MODEL.FROZEN_SEG.SAM_VIEW)


def _build_pyramid(clip: FrozenClip, *, simple: bool) -> SimpleFeaturePyramid | None:
    """Build the pyramid that makes four levels from one, for a ViT, which has only one level.

    simple: whether to build it for a CLIP with several levels, too.
    """
    if simple or len(clip.channels) == 1:
        return SimpleFeaturePyramid(channels=clip.channels["res4"])
    return None


def _build_pixel_decoder(cfg: CfgNode, levels: FrozenClip | SimpleFeaturePyramid) -> PixelDecoder:
    """levels: the module that outputs the levels that the decoder reads."""
    mask_dim = cfg.MODEL.SEM_SEG_HEAD.MASK_DIM
    return PixelDecoder(in_channels=levels.channels, mask_dim=mask_dim, **_deformable(cfg))


def _build_sam_pixel_decoder(cfg: CfgNode, sam: FrozenSam) -> SAMPixelDecoder:
    levels = cfg.MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS
    return SAMPixelDecoder(in_channels=sam.channels, num_levels=levels, **_deformable(cfg))


def _deformable(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of the deformable encoders, which both pixel decoders have."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "dim": head.CONVS_DIM,
        "num_layers": head.TRANSFORMER_ENC_LAYERS,
        "num_heads": head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        "num_points": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        "published_init": cfg.MODEL.PUBLISHED_INIT,
        "recompute": _recompute(cfg),
    }


def _recompute(cfg: CfgNode) -> Recompute:
    """Translate MODEL.RECOMPUTE; "auto" means entire layers on a CPU, else parts of them."""
    if cfg.MODEL.RECOMPUTE == "auto":
        return "layers" if build_device(cfg).type == "cpu" else "parts"
    return "layers" if cfg.MODEL.RECOMPUTE == "always" else "nothing"


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


def _build_mask_adapter(cfg: CfgNode) -> MaskAdapter:
    frozen = cfg.MODEL.FROZEN_SEG
    adapter = frozen.MASK_ADAPTER
    if adapter.MASK_IN_CHANNELS % 4:
        raise UserError(
            f"MODEL.FROZEN_SEG.MASK_ADAPTER.MASK_IN_CHANNELS {adapter.MASK_IN_CHANNELS}: must be a "
            "multiple of 4"
        )
    return MaskAdapter(
        embed_dim=frozen.EMBED_DIM,
        mask_channels=adapter.MASK_IN_CHANNELS,
        channels=adapter.NUM_CHANNELS,
        num_blocks=adapter.NUM_BLOCKS,
        num_maps=adapter.NUM_OUTPUT_MAPS,
    )


def _check_sizes(cfg: CfgNode) -> None:
    """Refuse values that are valid one by one but do not fit together."""
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


def frozenseg_parts(cfg: CfgNode, model: FrozenSeg) -> list[FrozenPart]:
    """Return the frozen encoders, CLIP and SAM, and where their weights are."""
    frozen = cfg.MODEL.FROZEN_SEG
    clip_weights = resolve_packaged_path(frozen.CLIP_PRETRAINED_WEIGHTS)
    sam_weights = resolve_packaged_path(cfg.MODEL.SAM_WEIGHTS)

    @setting("MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS", OR_RANDOM)
    def clip_file() -> Path:
        return find_clip(frozen.CLIP_MODEL_NAME, clip_weights)

    @setting("MODEL.SAM_WEIGHTS", OR_RANDOM)
    def sam_file() -> Path:
        return find_sam(cfg.MODEL.SAM_NAME, sam_weights)

    pick = partial(clip_entries, model.clip.model)
    parts = [FrozenPart("clip", model.clip.model, clip_file, pick)]
    if model.sam is not None:
        parts.append(FrozenPart("sam", model.sam.model, sam_file))
    return parts


REMEDIES = {
    "SAM encoder levels": "Set MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS to 3 for published weights, 1 "
    "for corrected.",
    "weights without injectors": "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to "
    "False for FC-CLIP weights.",
    "weights with injectors": "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to True "
    "for these weights.",
    "weights without mask adapter": "Set MODEL.FROZEN_SEG.POOLING to mask for these weights, or "
    "train a mask adapter for them with MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE True.",
    "weights with mask adapter": "Set MODEL.FROZEN_SEG.POOLING to adapter for these weights.",
}
"""What to do about a `WeightsMismatch`, by its field `difference`."""


def frozenseg_identity(cfg: CfgNode, model: FrozenSeg) -> Identity:
    """Return the settings and encoders that determine the features; see `Family.identity`."""
    visual = model.clip.model.visual
    identity: Identity = {
        "clip": ([cfg.MODEL.FROZEN_SEG.CLIP_MODEL_NAME, has_quick_gelu(visual)], visual)
    }
    if model.sam is not None:
        identity["sam"] = ([cfg.MODEL.SAM_NAME, model.sam.view], model.sam.model.image_encoder)
    return identity


def frozenseg_shared(cfg: CfgNode, model: FrozenSeg) -> dict[str, str]:
    """Return the key that CLIP's weights file would otherwise determine; see `Family.shared`."""
    return {"MODEL.FROZEN_SEG.CLIP_QUICK_GELU": said_quick_gelu(model.clip.model)}


def frozenseg_loss(
    cfg: CfgNode, model: FrozenSeg, text: TextEmbeddings, inputs: InputPreparation
) -> MaskClassificationLoss:
    """Build Mask2Former's loss on classes and masks, and the loss of the mask adapter, if any."""
    alone = cfg.MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE
    if alone and not cfg.MODEL.WEIGHTS:
        raise UserError(
            "MODEL.FROZEN_SEG.MASK_ADAPTER.ALONE True: the adapter needs trained decoders; name "
            "their weights in MODEL.WEIGHTS"
        )
    return MaskClassificationLoss(
        criterion=None if alone else _build_criterion(cfg, text.num_classes),
        text=text,
        num_queries=cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
        inputs=inputs,
        seed=cfg.SEED,
        regions=_build_region_loss(cfg, model, text),
    )


def _build_region_loss(cfg: CfgNode, model: FrozenSeg, text: TextEmbeddings) -> RegionLoss | None:
    """Build the losses of the mask adapter; None if the model has none."""
    if cfg.MODEL.FROZEN_SEG.POOLING != "adapter":
        return None
    if not cfg.MODEL.WEIGHTS:
        logger.warning(
            "MODEL.FROZEN_SEG.POOLING adapter: the decoders and the mask adapter both start "
            "untrained, and no gain was found with this; train the decoders with POOLING mask, "
            "and then the adapter with MASK_ADAPTER.ALONE True"
        )
    adapter = cfg.MODEL.FROZEN_SEG.MASK_ADAPTER
    return RegionLoss(
        embed=model.region_embeddings,
        classify=partial(model.class_logits_of_regions, text=text),
        finer=FINER,
        iou_threshold=adapter.IOU_THRESHOLD,
        class_weight=adapter.CLASS_WEIGHT,
        consistency_weight=adapter.COS_WEIGHT,
    )


def _build_criterion(cfg: CfgNode, num_classes: int) -> SetCriterion:
    mask = cfg.MODEL.MASK_FORMER
    return SetCriterion(
        num_classes=num_classes,
        num_points=mask.TRAIN_NUM_POINTS,
        oversample_ratio=mask.OVERSAMPLE_RATIO,
        importance_sample_ratio=mask.IMPORTANCE_SAMPLE_RATIO,
        class_weight=mask.CLASS_WEIGHT,
        mask_weight=mask.MASK_WEIGHT,
        dice_weight=mask.DICE_WEIGHT,
        no_object_weight=mask.NO_OBJECT_WEIGHT,
        annotated_only=mask.NO_OBJECT == "annotated",
    )
