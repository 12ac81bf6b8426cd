"""Recipes that change JSON files and pictures of the world."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.table import Make, World, copied

REMOVED = object()


def edited(name: str, *path: Any, to: Any, repeat: bool = False) -> Make:
    """A copy of a JSON file with one entry replaced, removed, or changed by a function.

    repeat: append the entry to its list once more instead, changed.
    """

    def make(world: World, folder: Path) -> None:
        content = json.loads((world / name).read_text())
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        if to is REMOVED:
            del holder[path[-1]]
        elif repeat:
            holder.append(to(copy.deepcopy(holder[path[-1]])))
        else:
            before = holder[path[-1]] if not isinstance(holder, dict) else holder.get(path[-1])
            holder[path[-1]] = to(before) if callable(to) else to
        (folder / Path(name).name).write_text(json.dumps(content))

    return make


def text_of(name: str, change: Callable[[str], str | bytes]) -> Make:
    """A copy of a file with another text."""

    def make(world: World, folder: Path) -> None:
        changed = change((world / name).read_text())
        data = changed if isinstance(changed, bytes) else changed.encode("utf-8", "surrogatepass")
        (folder / Path(name).name).write_bytes(data)

    return make


def inside(name: str, change: Callable[[Path], object]) -> Make:
    """A copy of a folder of the world, changed."""

    def make(world: World, folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copied(name)(world, folder)
        change(folder / name)

    return make
