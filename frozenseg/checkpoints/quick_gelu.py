"""Which activation a CLIP was trained with: GELU, or OpenAI's QuickGELU, x * sigmoid(1.702 x).

The two have no weights, so that a file fits either model, and the wrong one computes wrong features
without a word.
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
"""open_clip's tag of OpenAI's own weights, all of which have QuickGELU."""


def tell_quick_gelu(name: str, weights: str) -> bool | None:
    """Whether the weights of the CLIP `name` were trained with QuickGELU; None if nothing tells.

    weights: a tag of open_clip or a file. What the architecture is called, the tag, the file's name
    and then its entries decide, in this order.
    """
    if clip_config(name).get("quick_gelu", False):
        return True
    answer, reason = _tell(name, weights)
    if answer is not None and is_clip_file(weights):
        logger.info("%s with %s, by %s", name, "QuickGELU" if answer else "GELU", reason)
    return answer


def _tell(name: str, weights: str) -> tuple[bool | None, str]:
    """Return the answer, None if there is none, and what gave it."""
    tags = {tag: bool(_row(name, tag).get("quick_gelu")) for tag in _tags(name)}
    if not is_clip_file(weights):
        row = _row(name, weights)
        if row:
            return bool(row.get("quick_gelu")), f"its tag {weights}"
        if weights == OPENAI:  # whatever architecture they are asked for
            return True, f"its tag {weights}"
    else:
        for tag, answer in tags.items():
            if _is_called(Path(weights), name, tag):
                return answer, f"the name of its file, that of the tag {tag}"
        if os.path.isfile(weights) and set(CLIP_DESCRIPTIONS[:3]) <= read_state(weights).keys():
            return True, "the entries of its file, which are those of OpenAI's"
    if name in OWN:
        return False, "its architecture, one of ours"
    if len(set(tags.values())) == 1:
        return next(iter(tags.values())), "its architecture, of which all known weights have it"
    return None, ""


def _is_called(path: Path, name: str, tag: str) -> bool:
    """Whether a file is called as the weights of a tag are: NAME-TAG, or in the folder of their
    repository, as the Hugging Face hub's program makes it."""
    if _plain(path.stem) == _plain(f"{name}-{tag}"):
        return True
    repository = clip_repository(name, tag)[0].rpartition("/")[2]
    folders = (part.rpartition("--")[2] for part in path.parts[:-1])
    return bool(repository) and repository in folders


def _tags(name: str) -> list[str]:
    return list_pretrained_tags_by_model(name)


def _row(name: str, tag: str) -> dict[str, str]:
    """Return what open_clip knows of a tag's weights; empty where it does not know the tag."""
    return get_pretrained_cfg(name, tag)


def _plain(text: str) -> str:
    return text.lower().replace("-", "_")
