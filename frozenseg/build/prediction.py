"""Build a predictor from a configuration: `load`, and the parts that only prediction needs."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from frozenseg.build.backend import build_point_decoder
from frozenseg.build.device import build_device, build_precision, prepare_for_inference
from frozenseg.build.hub import HubPredictor, with_absolute_paths
from frozenseg.build.models import build_text_classifier, load_model
from frozenseg.build.run_folder import model_config
from frozenseg.build.setting import OR_RANDOM, require_weights, setting
from frozenseg.build.vocabulary import build_training_vocabulary
from frozenseg.checkpoints.download import download as fetch_published
from frozenseg.checkpoints.frozen_weights import FrozenPart, find_sam, load_part
from frozenseg.checkpoints.published_files import AbsentWeights, find_published
from frozenseg.config import option_pairs
from frozenseg.encoders.frozen import keep_digest, weights_digest
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path, user_path
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposal_sources import OnlineProposals, ProposalSource, StoredProposals
from frozenseg.inference.proposals import ProposalSettings
from frozenseg.inference.segment import Pipeline
from frozenseg.models.base import RegionClassifier, SegmentationModel
from frozenseg.runtime.isolation import own_random_stream, plain_defaults

logger = logging.getLogger(__name__)


def load(
    model: str | Path | None = "small",
    *,
    weights: str | Path | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    device: str | torch.device | None = None,
    backend: str | None = None,
    download: bool = False,
) -> HubPredictor:
    """Load a model that is ready to segment.

    model: the name of a model that ships with the package ("small", "small-fusioner") or that
    others have published (`frozenseg download --list`); a YAML file; a folder with `config.yaml`
    and weights, e.g. the OUTPUT_DIR of a training; or a file of `frozenseg export` that ends in
    ".onnx" or ".xml". From a folder, its own weights are loaded, whatever MODEL.WEIGHTS the
    training began from.
    weights: a checkpoint to load in place of the model's own weights.
    options: KEY, VALUE, ... or a mapping of keys to values; they override the configuration.
    device: "cuda", "cpu" or "mps", in place of MODEL.DEVICE; for an exported model, an execution
    provider of ONNX Runtime ("cpu", "cuda", "coreml"), or "openvino" or "openvino-bf16".
    backend: "openvino", "onnxruntime" or "pytorch", in place of MODEL.BACKEND: the runtime that
    computes the model on a CPU.
    download: fetch published weights that are absent, as `frozenseg download` does. Otherwise
    nothing is ever fetched.

    Raises `UserError` for any input that cannot be used. The random streams, defaults and
    environment of the process do not change.

    Example:
        >>> segmenter = frozenseg.load("small", device="cpu")
        >>> result = segmenter("street.png", vocabulary=["car, truck", "road", "sky"])
        >>> result.panoptic.ids.shape == result.image.shape[:2]
        True
    """
    if not isinstance(model, str | os.PathLike | None):
        raise UserError(f"model {model!r}: must be the name of a model, or a path")
    device = None if device is None else str(device)
    if str(model).endswith((".onnx", ".xml")):
        if weights is not None or options or backend is not None:
            raise UserError(
                f"{model}: an exported model takes neither weights, options nor backend; set "
                "device to choose where it runs"
            )
        return _load_exported(str(model), device)
    if backend is not None:
        given = (part for pair in option_pairs(options) for part in pair)
        options = [*given, "MODEL.BACKEND", backend]
    fetched: set[str] = set()
    while True:
        try:
            name = "small" if model is None else model
            return build_predictor(
                model_config(name, weights=weights, options=options, device=device)
            )
        except AbsentWeights as error:
            if not download or error.name in fetched:
                raise
            fetch_published(find_published(error.name))
            fetched.add(error.name)


def _load_exported(path: str, device: str | None) -> HubPredictor:
    from frozenseg.build.exported import load_exported  # a circular import: it needs this module

    return load_exported(user_path(path), device)


def build_predictor(cfg: CfgNode, *, digest: bool = False) -> HubPredictor:
    """Build the predictor of a configuration and load its weights.

    digest: compute `weights_digest` of the model before its weights are prepared for the device.
    """
    with plain_defaults(), own_random_stream(cfg.SEED):
        return _build_predictor(cfg, digest)


def _build_predictor(cfg: CfgNode, digest: bool) -> HubPredictor:
    device = build_device(cfg)
    require_weights(cfg)
    network, random = load_model(cfg)
    note = note_of(random)
    if digest:
        keep_digest(network)
    kept = with_absolute_paths(cfg)
    predictor = predictor_of(cfg, network.to(device), note=note, rebuild=partial(_on_device, kept))
    predictor.cfg = kept
    return predictor


def note_of(random: list[str]) -> str | None:
    """Log and return the warning for the results of a model with random weights.

    random: the names of the parts that have random weights; None is returned if there are none.
    """
    if not random:
        return None
    note = f"random weights ({', '.join(random)}): the result means nothing"
    logger.warning(note)
    return note


def _on_device(cfg: CfgNode, device: str) -> HubPredictor:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    return build_predictor(cfg)


def predictor_of(
    cfg: CfgNode,
    model: SegmentationModel,
    *,
    note: str | None = None,
    rebuild: Callable[[str], HubPredictor] | None = None,
) -> HubPredictor:
    """Return a predictor with a model that is already on its device.

    The model is prepared for inference in place and cannot be trained afterwards.
    note, rebuild: as in `Predictor`.
    """
    model.eval()
    prepare_for_inference(cfg, model)
    test = cfg.MODEL.MASK_FORMER.TEST
    if not (test.PANOPTIC_ON or test.SEMANTIC_ON or test.INSTANCE_ON):
        logger.warning(
            "MODEL.MASK_FORMER.TEST: PANOPTIC_ON, SEMANTIC_ON and INSTANCE_ON are all False; "
            "results have nothing to draw until one is True"
        )
    if cfg.TEST.AUG.ENABLED:
        logger.warning(
            "TEST.AUG.ENABLED: only an evaluation averages several views of an image; it has no "
            "effect here, set it False"
        )
    pipeline = build_pipeline(cfg, model)
    if isinstance(pipeline.proposals, StoredProposals):  # they are found by ids of a data set
        raise UserError(
            "TEST.SAM_MASKS.FOLDER: only images of data sets have masks on disk; leave it empty"
        )
    return HubPredictor(
        pipeline=pipeline,
        text_classifier=build_text_classifier(cfg, model),
        training_vocabulary=build_training_vocabulary(cfg),
        short_side=cfg.INPUT.MIN_SIZE_TEST,
        long_side=cfg.INPUT.MAX_SIZE_TEST,
        batch_size=cfg.TEST.IMS_PER_BATCH,
        readers=max(1, cfg.DATALOADER.NUM_WORKERS),
        note=note,
        rebuild=rebuild,
    )


def build_pipeline(cfg: CfgNode, model: SegmentationModel) -> Pipeline:
    """Join a model with the post-processing of the configuration."""
    return Pipeline(
        model=model,
        post_processor=build_post_processor(cfg),
        precision=build_precision(cfg, model.device),
        proposals=build_sam_masks(cfg, model),
    )


def build_post_processor(cfg: CfgNode) -> PostProcessor:
    """Build the post-processor of MODEL.MASK_FORMER.TEST and TEST; it turns masks into results."""
    test = cfg.MODEL.MASK_FORMER.TEST
    return PostProcessor(
        panoptic=test.PANOPTIC_ON,
        semantic=test.SEMANTIC_ON,
        instances=test.INSTANCE_ON,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        duplicate_iou=test.DUPLICATE_IOU,
        covered_share=test.COVERED_SHARE,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        sam_epsilon=cfg.TEST.SAM_MASK_PRED_ALPHA,
        sam_threshold=cfg.TEST.SAM_MASKS.THRESHOLD,
        sam_weight=cfg.TEST.SAM_MASKS.WEIGHT,
        cells_inside=test.MASK_CELLS_INSIDE,
        masks_at_output_size=(
            test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
            or test.PANOPTIC_ON
            or test.INSTANCE_ON
            or test.RECALL_ON
        ),
    )


def build_sam_masks(cfg: CfgNode, model: SegmentationModel) -> ProposalSource | None:
    """Build the source of SAM's proposals; None without TEST.USE_SAM_MASKS."""
    if not cfg.TEST.USE_SAM_MASKS:
        return None
    if not isinstance(model, RegionClassifier):
        name = cfg.MODEL.META_ARCHITECTURE
        raise UserError(f"TEST.USE_SAM_MASKS: {name} cannot classify proposals; set it False")
    if cfg.TEST.AUG.ENABLED:
        raise UserError("TEST.USE_SAM_MASKS and TEST.AUG.ENABLED do not work together: choose one")
    online = build_online_proposals(cfg, model.sam, model.device)
    folder = cfg.TEST.SAM_MASKS.FOLDER
    if not folder:
        return online
    with setting("TEST.SAM_MASKS.FOLDER"):
        return StoredProposals(
            ProposalFolder(Path(folder), proposal_identity(cfg, online), create=False)
        )


def build_online_proposals(
    cfg: CfgNode, injected: FrozenSam | None, device: torch.device
) -> OnlineProposals:
    """Build the SAM that makes proposals.

    injected: the SAM of the injectors; it is used for proposals too if both are the same SAM.
    """
    masks = cfg.TEST.SAM_MASKS
    settings = ProposalSettings(
        points_per_side=masks.POINTS_PER_SIDE,
        predicted_iou=masks.PREDICTED_IOU,
        stability=masks.STABILITY,
        min_region_area=masks.MIN_REGION_AREA,
        max_masks=masks.MAX_MASKS,
    )
    name = cfg.TEST.PKL_SAM_MODEL_NAME
    own = name == cfg.MODEL.SAM_NAME and masks.WEIGHTS in ("", cfg.MODEL.SAM_WEIGHTS)
    if own and injected is not None:
        decoder = build_point_decoder(cfg, injected, own=False)
        return OnlineProposals(injected, decoder, settings, shared=injected.view == "keep_aspect")
    weights = masks.WEIGHTS or (cfg.MODEL.SAM_WEIGHTS if own else "")
    with setting("TEST.PKL_SAM_MODEL_NAME"):
        sam = build_sam_model(name)

    @setting("TEST.SAM_MASKS.WEIGHTS", OR_RANDOM)
    def sam_file() -> Path:
        return find_sam(name, resolve_packaged_path(weights))

    if not load_part(FrozenPart("sam", sam, sam_file), cfg.MODEL.ALLOW_RANDOM_WEIGHTS):
        logger.warning("SAM %s, which makes the proposals, has random weights", name)
    frozen = FrozenSam(model=sam, view="keep_aspect").to(device)
    decoder = build_point_decoder(cfg, frozen, own=True)
    return OnlineProposals(frozen, decoder, settings, shared=False)


def proposal_identity(cfg: CfgNode, online: OnlineProposals) -> dict[str, Any]:
    """Return everything besides the images that determines the proposals on disk."""
    return {
        "sam": cfg.TEST.PKL_SAM_MODEL_NAME,
        "weights": weights_digest(online.sam.model),
        **online.settings.identity(),
    }
