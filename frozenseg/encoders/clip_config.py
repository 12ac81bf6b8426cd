"""The sizes of CLIP models by name: open_clip's, and our own small ones, in open_clip's format."""

import json
from pathlib import Path
from typing import Any

import open_clip

from frozenseg.errors import UserError, nearest

OWN = {path.stem: path for path in (Path(__file__).parent / "clip_configs").glob("*.json")}


def clip_config(name: str) -> dict[str, Any]:
    """Return the arguments of `open_clip.CLIP` for a model; open_clip's registry, which the whole
    process shares, stays as it is."""
    if name in OWN:
        return json.loads(OWN[name].read_text(encoding="utf-8"))
    known = open_clip.list_models()
    if name not in known:
        raise UserError(f"{name}: unknown; {nearest(name, [*known, *OWN])}")
    return open_clip.get_model_config(name)
