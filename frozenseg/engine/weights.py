"""Weights on disk: published checkpoints and our own safetensors, loaded strictly and safely.

A published `.pth` holds everything under detectron2's names, frozen parts included. Ours hold only
what was trained. `RENAMES` is the one place that knows how the two sets of names correspond.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for all that `weights_only` refuses
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from frozenseg.encoders.frozen import FROZEN_PARTS
from frozenseg.errors import UserError
from frozenseg.files import atomic_path

# Published name, ours; `#` stands for a number, `*` for the rest of a name. The first row that fits
# counts, in both directions. A name that no row fits is unexpected.
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

# detectron2 keeps the schedule's numbers beside the weights, as numpy scalars; building these runs
# no code of a file. Both names of the module are met: numpy 1 and 2.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

# Entries of published checkpoints that are state of the training, not of the model.
TRAINING_STATE = ("criterion.",)

# The Query Injector shares its projection with the class embedding; one name is enough on disk.
SHARED = "mask_decoder.query_injector.projection."


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names; unknown entries are an error that lists them."""
    kept = {name: value for name, value in state.items() if not name.startswith(TRAINING_STATE)}
    return _renamed(kept, RENAMES)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our entries under the published names."""
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
        raise UserError(f"not entries of a FrozenSeg checkpoint: {_listed(unknown)}")
    return renamed


def _filled(pattern: str, parts: tuple[str, ...]) -> str:
    """The pattern with its marks replaced by `parts`, in order."""
    remaining = iter(parts)
    return re.sub(r"[#*]", lambda _: next(remaining), pattern)


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are detectron2's rather than ours."""
    return any(name.startswith("sem_seg_head.") for name in state)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's entries, shared ones once."""
    return {name: tensor for name, tensor in model.state_dict().items() if SHARED not in name}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The entries of `model_state` that training changes."""
    return {
        name: tensor
        for name, tensor in model_state(model).items()
        if name.split(".")[0] not in FROZEN_PARTS
    }


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> set[str]:
    """Copy a state dict, published or ours, into the model; returns the frozen parts it contained.

    Strict: every missing, unexpected or mis-shaped entry is named in one `UserError`, and the model
    is unchanged then. A frozen part may be absent as a whole (it has files of its own), not in
    part.
    """
    if is_published(state):
        try:
            state = from_published(state)
        except UserError as error:
            raise UserError(f"weights {origin}: {error}") from None
    wanted = model_state(model)
    parts = {name.split(".")[0] for name in state} & set(FROZEN_PARTS)
    missing = [
        name
        for name in wanted
        if name not in state
        and (name.split(".")[0] not in FROZEN_PARTS or name.split(".")[0] in parts)
        and not name.endswith(
            "num_batches_tracked"
        )  # counts of training steps; old files lack them
    ]
    unexpected = [name for name in state if name not in wanted]
    misshaped = [
        f"{name} {tuple(state[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind} ({_listed(names)})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"weights {origin} do not fit the model: entries {'; '.join(problems)}. "
            f"{_hint(missing, unexpected, misshaped)}"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name in state:
                tensor.copy_(state[name])
    return parts


# Suffixes of a table stored without its zero rows: places (n,), values (n, D), rows in all (1,).
_PLACES, _VALUES, _LENGTH = "@places", "@values", "@length"
LONGEST_TABLE = 10_000_000  # rows; a file must not make us allocate what it likes


def packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its tables of mostly zero rows stored sparsely; `read_state` undoes it.

    Of the small CLIP's 49,408 tokens, captions of the small world use a few hundred.
    """
    small: dict[str, Tensor] = {}
    for name, tensor in state.items():
        used = tensor.flatten(1).any(dim=1) if tensor.ndim == 2 else torch.ones(1, dtype=torch.bool)
        if used.float().mean() > 0.5:
            small[name] = tensor
            continue
        places = used.nonzero()[:, 0]
        small[name + _PLACES] = places.int()
        small[name + _VALUES] = tensor[places]
        small[name + _LENGTH] = torch.tensor([len(tensor)], dtype=torch.int32)
    return small


def _unpacked(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    whole = {name: tensor for name, tensor in state.items() if "@" not in name}
    for name, places in state.items():
        if name.endswith(_PLACES):
            table = name.removesuffix(_PLACES)
            values, length = state.get(table + _VALUES), state.get(table + _LENGTH)
            if values is None or length is None or not _fits(places, values, int(length)):
                raise UserError(f"weights {path}: the rows of {table} do not fit; get it anew")
            whole[table] = values.new_zeros(int(length), values.shape[1])
            whole[table][places.long()] = values
    return whole


def _fits(places: Tensor, values: Tensor, length: int) -> bool:
    in_range = bool(((places >= 0) & (places < length)).all())
    return in_range and values.ndim == 2 and len(values) == len(places) and length <= LONGEST_TABLE


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU: safetensors, or a `torch.save` file read without executing
    it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return _unpacked(load_file(path), path)
        except safetensors.SafetensorError as error:
            raise UserError(f"weights {path}: damaged or no safetensors file ({error})") from None
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = _first_line(error)  # a truncated file gives any of these
        raise UserError(f"weights {path}: cannot be read, perhaps not whole ({reason})") from None
    except UnpicklingError:
        raise UserError(
            f"weights {path}: no checkpoint, or one that holds more than tensors and would have to "
            "execute code; save its state dict alone"
        ) from None
    # detectron2's and open_clip's wrappers, and our training checkpoints, the average first
    for key in ("model", "state_dict", "average", "weights"):
        if isinstance(content, dict) and isinstance(content.get(key), dict) and content[key]:
            content = content[key]
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise UserError(f"weights {path}: a state dict (names and tensors) was expected")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def write_state(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _hint(missing: list[str], unexpected: list[str], misshaped: list[str]) -> str:
    if any(entry.startswith("sam_branch.encoder") for entry in misshaped):
        return (
            "Set MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS to 3 for published weights, 1 for corrected."
        )
    if any(name.startswith(("sam_branch", "mask_decoder.feature_injector")) for name in missing):
        return (
            "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to False for FC-CLIP weights."
        )
    if any(name.startswith(("sam", "mask_decoder.feature_injector")) for name in unexpected):
        return "Set MODEL.FROZEN_SEG.QUERY_INJECTOR and FEATURE_INJECTOR to True for these weights."
    return "Use the configuration that the weights were trained with."


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
