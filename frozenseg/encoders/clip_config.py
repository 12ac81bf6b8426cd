"""The architectures of CLIP models by name: open_clip's, and the small ones of this package."""

import json
from pathlib import Path
from typing import Any

import open_clip

from frozenseg.errors import UserError, nearest

OWN = {path.stem: path for path in (Path(__file__).parent / "clip_configs").glob("*.json")}


def clip_config(name: str) -> dict[str, Any]:
    """Return the arguments of `open_clip.CLIP` for a model; raises `UserError` for an unknown name.

    The small models of this package are not added to open_clip's registry, because the entire
    process shares that registry.
    """
    if name in OWN:
        return json.loads(OWN[name].read_text(encoding="utf-8"))
    known = open_clip.list_models()
    if name not in known:
        raise UserError(f"{name}: unknown; {nearest(name, [*known, *OWN])}")
    return open_clip.get_model_config(name)
