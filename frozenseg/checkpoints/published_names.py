"""The names of the entries in published checkpoints, and this package's names for the same tensors.

Only `RENAMES` says how the two correspond.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from frozenseg.errors import UserError, listed

# (published name, our name). `#` stands for a number, `*` for the rest of a name. In both
# directions, the first row that matches is used; a name that matches no row is an error.
_HEAD, _PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
RENAMES: list[tuple[str, str]] = [
    ("backbone.clip_model.*", "clip.model.*"),
    ("sam.*", "sam.model.*"),
    ("void_embedding.weight", "void_embedding"),
    (_HEAD + "input_proj.*", "pixel_decoder.input_projections.*"),
    (_HEAD + "transformer.level_embed", "pixel_decoder.encoder.level_embedding"),
    (_HEAD + "transformer.encoder.*", "pixel_decoder.encoder.*"),
    (_HEAD + "mask_features.*", "pixel_decoder.mask_features.*"),
    (_HEAD + "adapter_1.norm.*", "pixel_decoder.lateral.1.*"),
    (_HEAD + "adapter_1.*", "pixel_decoder.lateral.0.*"),
    (_HEAD + "layer_1.norm.*", "pixel_decoder.output.1.*"),
    (_HEAD + "layer_1.*", "pixel_decoder.output.0.*"),
    (_HEAD + "fpn3.*", "sam_branch.downsample.*"),
    (_HEAD + "sam_transformer.level_embed", "sam_branch.encoder.level_embedding"),
    (_HEAD + "sam_transformer.encoder.*", "sam_branch.encoder.*"),
    (
        _PREDICTOR + "transformer_cross_attention_layers_sam.#.multihead_attn.*",
        "mask_decoder.feature_injector.blocks.#.attention.*",
    ),
    (
        _PREDICTOR + "transformer_cross_attention_layers_sam.#.norm.*",
        "mask_decoder.feature_injector.blocks.#.norm.*",
    ),
    (
        _PREDICTOR + "transformer_cross_attention_layers.#.multihead_attn.*",
        "mask_decoder.layers.#.cross_attention.attention.*",
    ),
    (
        _PREDICTOR + "transformer_cross_attention_layers.#.norm.*",
        "mask_decoder.layers.#.cross_attention.norm.*",
    ),
    (
        _PREDICTOR + "transformer_self_attention_layers.#.self_attn.*",
        "mask_decoder.layers.#.self_attention.attention.*",
    ),
    (
        _PREDICTOR + "transformer_self_attention_layers.#.norm.*",
        "mask_decoder.layers.#.self_attention.norm.*",
    ),
    (_PREDICTOR + "transformer_ffn_layers.#.*", "mask_decoder.layers.#.feed_forward.*"),
    (_PREDICTOR + "decoder_norm.*", "mask_decoder.norm.*"),
    (_PREDICTOR + "query_feat.weight", "mask_decoder.query_features"),
    (_PREDICTOR + "query_embed.weight", "mask_decoder.query_positions"),
    (_PREDICTOR + "level_embed.weight", "mask_decoder.level_embedding"),
    (_PREDICTOR + "mask_embed.*", "mask_decoder.mask_embedding.*"),
    (_PREDICTOR + "_mask_pooling_proj.*", "mask_decoder.pooling_projection.*"),
    (_PREDICTOR + "class_embed.*", "mask_decoder.class_embedding.*"),
    (_PREDICTOR + "logit_scale", "mask_decoder.logit_scale"),
]

# Prefixes of entries in published checkpoints that belong to the training, not to the model.
TRAINING_STATE = ("criterion.",)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict under our names; raises `UserError` that lists unknown
    entries."""
    kept = {name: value for name, value in state.items() if not name.startswith(TRAINING_STATE)}
    return _renamed(kept, RENAMES)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with our names under the published names; raises `UserError` that lists
    unknown entries."""
    return _renamed(state, [(ours, published) for published, ours in RENAMES])


def _renamed(state: Mapping[str, Tensor], rows: list[tuple[str, str]]) -> dict[str, Tensor]:
    patterns = [(re.compile(_expression(source)), target) for source, target in rows]
    renamed, unknown = {}, []
    for name, tensor in state.items():
        for pattern, target in patterns:
            if match := pattern.fullmatch(name):
                renamed[_filled(target, match.groups())] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"not entries of a FrozenSeg checkpoint: {listed(unknown)}")
    return renamed


def _filled(pattern: str, parts: tuple[str, ...]) -> str:
    """Return the pattern with each `#` and `*` replaced by the next of `parts`."""
    remaining = iter(parts)
    return re.sub(r"[#*]", lambda _: next(remaining), pattern)


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the entries have the published names, those of the detectron2 model."""
    return any(name.startswith("sem_seg_head.") for name in state)
