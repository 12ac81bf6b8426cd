"""Load the weights of a model: one checkpoint, and the files of frozen encoders that it lacks.

Nothing is ever downloaded here. If weights are absent, an error says how to get them. Random
weights are used only on request, and every place that shows a result then states this.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import open_clip.pretrained
from huggingface_hub import try_to_load_from_cache
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from frozenseg.checkpoints.published_files import FOLDER, PUBLISHED, AbsentWeights
from frozenseg.checkpoints.state_dict import load_encoder, load_state, read_state
from frozenseg.errors import MissingFileError, UserError

logger = logging.getLogger(__name__)

SAM_NAMES = {"vit_b": "sam-vit-b", "vit_l": "sam-vit-l", "vit_h": "sam-vit-h"}
# Each method has a single row, for one model size and one length of training.
VIT_NAMES = {"dino": "dino-vit-b16", "moco": "moco-v3-vit-b16"}
"""Names in `PUBLISHED`, by the name of the encoder in a configuration, as in `SAM_NAMES`."""

CLIP_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

# Entries of OpenAI's CLIP files that describe the model and are not weights.
CLIP_DESCRIPTIONS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


@dataclass(frozen=True)
class FrozenPart:
    """A frozen encoder that has a weight file of its own.

    name: its name in `frozen_parts`.
    module: the module that the weights are loaded into.
    find: returns the path of the weight file. Raises `UserError` if there is none, and
        `MissingFileError` if a path was given that does not exist.
    pick: returns the entries of the module from all entries of the file.
    """

    name: str
    module: nn.Module
    find: Callable[[], Path]
    pick: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda state: state


def load_parts(
    model: nn.Module,
    *,
    weights: str,
    parts: list[FrozenPart],
    allow_random: bool,
    new: Collection[str] = (),
) -> list[str]:
    """Load all weights that can be found; returns the names of the parts left with random weights.

    weights: a checkpoint file, or "" to leave the trained parts, together called "decoder", as they
        are.
    parts: the frozen encoders that have weight files of their own.
    allow_random: whether a frozen encoder may keep random weights if it has no weight file;
        otherwise a `UserError` is raised. A given path that does not exist is always an error.
    new: trained parts that the checkpoint may lack.
    """
    random = ["decoder"] if not weights else []
    loaded: set[str] = set()
    if weights:
        loaded = load_state(model, read_state(weights), weights, new)
        logger.info("weights from %s", weights)
    for part in parts:
        if part.name not in loaded and not load_part(part, allow_random):
            random.append(part.name)
    for name in set(new) - loaded:
        logger.info("%s: new weights", name)
    return random


def load_part(part: FrozenPart, allow_random: bool) -> bool:
    """Load one frozen encoder; returns False if it was left with random weights."""
    try:
        path = part.find()
    except MissingFileError:  # random weights would hide a misspelt path
        raise
    except UserError:
        if allow_random:
            return False
        raise
    state = {
        name: tensor
        for name, tensor in part.pick(read_state(path)).items()
        if name not in CLIP_DESCRIPTIONS
    }
    load_encoder(part.module, state, str(path))
    logger.info("%s: weights from %s", part.name, path)
    return True


def clip_image_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a CLIP's image tower, under the tower's own names."""
    return {
        name.removeprefix("visual."): tensor
        for name, tensor in state.items()
        if name.startswith("visual.")
    }


def clip_entries(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return all entries of a CLIP under the names of `module`, which may hold its text tower in a
    submodule `text` of its own."""
    return convert_to_custom_text_state_dict(dict(state)) if hasattr(module, "text") else state


def clip_text_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all entries of a CLIP except those of its image tower."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}


def vit_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of the ViT in a file of DINO or MoCo v3.

    A file of DINO holds nothing else. A file of MoCo v3 holds two ViTs with heads; the one that is
    trained by gradients ("base_encoder") is taken without its head, as in MoCo's own evaluation.
    """
    prefix = "base_encoder."
    if not any(name.startswith(prefix) for name in state):
        return dict(state)
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}head.")
    }


def is_clip_file(weights: str) -> bool:
    """Tell whether `weights` names CLIP weights by a file rather than by a tag of open_clip."""
    return os.sep in weights or weights.endswith(CLIP_SUFFIXES)


def find_clip(name: str, weights: str) -> Path:
    """Return the weight file of a CLIP model.

    weights: a path, which is returned as it is, or an open_clip tag, whose file is looked up in
        `FOLDER` and in the cache of the Hugging Face hub. Raises `UserError` if the file is absent.
    """
    if is_clip_file(weights):
        if Path(weights).exists():  # its content is checked when it is read
            return Path(weights)
        raise MissingFileError(f"{weights}: no such file")
    if not weights:
        raise UserError("'': no weights of CLIP are named; give a tag or a file")
    for suffix in CLIP_SUFFIXES:
        path = FOLDER / f"{name}-{weights}{suffix}"
        if path.is_file():
            return path
    source, files = clip_repository(name, weights)
    if not source:
        raise UserError(
            f"{weights}: no such tag for {name}; known: "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(name)) or 'none'}, or give a file"
        )
    for file in files:
        cached = try_to_load_from_cache(source, file)
        if isinstance(cached, str):
            return Path(cached)
    absent = f"{weights}: these weights of {name} are not here"
    for row_name, row in PUBLISHED.items():
        if row.on_hub == (source, files[0]):
            raise AbsentWeights(row_name, absent)
    raise UserError(
        f"{absent}; fetch them with `hf download {source} {files[0]}`, or put the file at "
        f"{FOLDER / f'{name}-{weights}{Path(files[0]).suffix}'}"
    )


def clip_repository(name: str, tag: str) -> tuple[str, tuple[str, ...]]:
    """Return the hub repository of a CLIP's weights, and the names that their file may have there.

    The repository is "" if open_clip knows none for the tag.
    """
    address = open_clip.pretrained.get_pretrained_cfg(name, tag).get("hf_hub", "")
    source, _, file = address.rpartition("/")  # OWNER/NAME/ or, as for ViTamin, OWNER/NAME/FILE
    return source, (file,) if file else (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    )


def find_vit(method: str, weights: str) -> Path:
    """Return the weight file of a ViT: `weights` if it is not empty, else its file in `FOLDER`.

    method: "dino" or "moco" (MoCo v3).
    """
    return _given_or_published(weights, VIT_NAMES[method])


def find_sam(name: str, weights: str) -> Path:
    """Return the weight file of a SAM: `weights` if it is not empty, else its file in `FOLDER`."""
    if not weights and name not in SAM_NAMES:
        path = FOLDER / f"sam_{name}.safetensors"
        if path.exists():
            return path
        raise UserError(f"{path}: no such file; give the file of the encoder's weights")
    return _given_or_published(weights, SAM_NAMES.get(name, ""))


def _given_or_published(weights: str, row: str) -> Path:
    path = Path(weights) if weights else PUBLISHED[row].path
    if path.exists():
        return path
    if weights:
        raise MissingFileError(f"{path}: no such file; give the file of the encoder's weights")
    raise AbsentWeights(row, f"the weights of {PUBLISHED[row].holds} are not here")
