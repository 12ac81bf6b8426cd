"""Build models from a configuration, load their weights and compute text vectors.

The models themselves never see a configuration.
"""

import hashlib
import json
import logging
from collections.abc import Mapping

import open_clip
import timm
import torch
from fvcore.common.config import CfgNode

from frozenseg.build.families import find_family
from frozenseg.build.setting import setting
from frozenseg.checkpoints.frozen_weights import load_parts
from frozenseg.checkpoints.state_dict import WeightsMismatch, trainable_state
from frozenseg.config import load_config
from frozenseg.encoders.frozen import weights_digest
from frozenseg.engine.distributed import barrier, is_main
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path
from frozenseg.models.base import SegmentationModel
from frozenseg.recipes import packaged_models, published_models
from frozenseg.runtime.isolation import own_random_stream
from frozenseg.runtime.precision import Precision
from frozenseg.structures import TextEmbeddings
from frozenseg.text.classifier import TextClassifier, cache_folder
from frozenseg.text.templates import find_templates
from frozenseg.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> SegmentationModel:
    """Build the model of a configuration with new weights everywhere; `load_model` loads them.

    The new weights depend on SEED only; the random streams of the process do not change.
    """
    family = find_family(cfg)
    with own_random_stream(cfg.SEED):
        return family.build(cfg)


def load_model(cfg: CfgNode, *, training: bool = False) -> tuple[SegmentationModel, list[str]]:
    """Build the model and load its weights.

    training: whether a training begins with these weights. The checkpoint may then lack a part that
        is to be trained alone.

    Returns the model and the names of the parts that are left with random weights: "decoder" stands
    for all trained parts; the frozen parts are "clip" and "sam", or "text" and "visual" for
    Fusioner.
    """
    family, model = find_family(cfg), build_model(cfg)
    try:
        random = load_parts(
            model,
            weights=resolve_packaged_path(cfg.MODEL.WEIGHTS),
            parts=family.frozen_parts(cfg, model),
            allow_random=cfg.MODEL.ALLOW_RANDOM_WEIGHTS,
            new=model.alone if training else (),
        )
    except WeightsMismatch as error:
        if error.difference in family.remedies:
            raise UserError(f"{error.problems}. {family.remedies[error.difference]}") from None
        owner = _model_with(error.shapes)
        if owner is None:
            raise
        raise UserError(
            f"weights {cfg.MODEL.WEIGHTS}: not those of this model; they look like those of "
            f"`{owner}`"
        ) from None
    return model, sorted(random)


def _model_with(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the shipped or published model whose trained parts have these shapes, or None."""
    for name in (*packaged_models(), *published_models()):
        with torch.device("meta"):
            parts = trainable_state(build_model(load_config(name)))
        if all(shapes.get(part) == tuple(tensor.shape) for part, tensor in parts.items()):
            return name
    return None


def feature_fingerprint(cfg: CfgNode, model: SegmentationModel, precision: Precision) -> str:
    """Return a digest of everything besides the images that determines the output of
    `SegmentationModel.encode`: the encoders, their settings and their weights.

    The device is not included, because devices differ by rounding only.
    """
    identity = find_family(cfg).identity(cfg, model)
    about = {
        "libraries": [open_clip.__version__, timm.__version__],
        "precision": precision.name,
        "pixels": [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD],
        **{name: settings for name, (settings, _) in identity.items()},
        "weights": {name: weights_digest(encoder) for name, (_, encoder) in identity.items()},
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def build_text_classifier(cfg: CfgNode, model: SegmentationModel) -> TextClassifier:
    """Build the classifier that turns names into text vectors with MODEL.TEXT.TEMPLATES."""
    folder = cache_folder()
    return TextClassifier(
        model.text_encoder,
        templates=build_templates(cfg),
        folder=folder / "text" if folder else None,
    )


def build_templates(cfg: CfgNode) -> tuple[str, ...]:
    """Return the templates of MODEL.TEXT.TEMPLATES."""
    with setting("MODEL.TEXT.TEMPLATES:"):
        return find_templates(cfg.MODEL.TEXT.TEMPLATES)


def loaded_model(
    cfg: CfgNode, device: torch.device, *, training: bool = False
) -> SegmentationModel:
    """Load the model onto the device; log a warning about frozen parts with random weights.

    training: as in `load_model`.
    """
    model, random = load_model(cfg, training=training)
    frozen = [part for part in random if part != "decoder"]
    if frozen and is_main():
        logger.warning("frozen parts have random weights (%s), as allowed", ", ".join(frozen))
    return model.to(device)


def embed(
    cfg: CfgNode, model: SegmentationModel, vocabulary: Vocabulary, training: Vocabulary
) -> TextEmbeddings:
    """Return the text vectors of a vocabulary, on the model's device.

    training: the seen classes.

    The first process encodes the names; the others then read them from the cache on disk.
    """
    classifier = build_text_classifier(cfg, model)
    if not is_main():
        barrier()
    text = classifier.embed(vocabulary, training)
    if is_main():
        barrier()
    return text.to(model.device)
