"""Find out which activation a CLIP was trained with: GELU or OpenAI's QuickGELU.

QuickGELU is x * sigmoid(1.702 x). Activations have no weights, so a weight file fits a model with
either of them, and with the wrong one the model silently computes wrong features.
"""

import logging
import os
from pathlib import Path

from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from frozenseg.checkpoints.frozen_weights import CLIP_DESCRIPTIONS, clip_repository, is_clip_file
from frozenseg.checkpoints.state_dict import read_state
from frozenseg.encoders.clip_config import OWN, clip_config

logger = logging.getLogger(__name__)

OPENAI = "openai"
"""open_clip's tag of OpenAI's own weights, all of which were trained with QuickGELU."""


def tell_quick_gelu(name: str, weights: str) -> bool | None:
    """Tell whether the weights of the CLIP `name` were trained with QuickGELU; None if unknown.

    The name of the architecture, the tag, the name of the file and the file's entries decide, in
    this order. weights: a tag of open_clip or a file.
    """
    if clip_config(name).get("quick_gelu", False):
        return True
    answer, reason = _tell(name, weights)
    if answer is not None and is_clip_file(weights):
        logger.info("%s: %s, according to %s", name, "QuickGELU" if answer else "GELU", reason)
    return answer


def _tell(name: str, weights: str) -> tuple[bool | None, str]:
    """Return the answer of `tell_quick_gelu`, and what it was inferred from, for the log."""
    tags = {tag: bool(_row(name, tag).get("quick_gelu")) for tag in _tags(name)}
    if not is_clip_file(weights):
        row = _row(name, weights)
        if row:
            return bool(row.get("quick_gelu")), f"its tag {weights}"
        if weights == OPENAI:  # for any architecture, also one without such weights
            return True, f"its tag {weights}"
    else:
        for tag, answer in tags.items():
            if _is_named_after(Path(weights), name, tag):
                return answer, f"the name of its file, which is that of the tag {tag}"
        if os.path.isfile(weights) and set(CLIP_DESCRIPTIONS[:3]) <= read_state(weights).keys():
            return True, "the entries of its file, which has the format of OpenAI's files"
    if name in OWN:
        return False, "its architecture, which is defined in this package"
    if len(set(tags.values())) == 1:
        return next(iter(tags.values())), "its architecture, all known weights of which have it"
    return None, ""


def _is_named_after(path: Path, name: str, tag: str) -> bool:
    """Tell whether the path of a file names the weights of a tag.

    This is the case if the file is called NAME-TAG, or if it is in a folder that is named after the
    repository of the weights, as the program of the Hugging Face hub names it.
    """
    if _plain(path.stem) == _plain(f"{name}-{tag}"):
        return True
    repository = clip_repository(name, tag)[0].rpartition("/")[2]
    folders = (part.rpartition("--")[2] for part in path.parts[:-1])
    return bool(repository) and repository in folders


def _tags(name: str) -> list[str]:
    return list_pretrained_tags_by_model(name)


def _row(name: str, tag: str) -> dict[str, str]:
    """Return what open_clip knows about the weights of a tag; empty for an unknown tag."""
    return get_pretrained_cfg(name, tag)


def _plain(text: str) -> str:
    return text.lower().replace("-", "_")
