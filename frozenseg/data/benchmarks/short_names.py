"""Short names of data sets that are named by their files, for pictures, tables and folders."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for each data set, all of them different: a name of the table as it is,
    and of files the end of the first path, e.g. "val/panoptic"."""
    names = list(dict.fromkeys(names))
    paths = {name: _first_path(name) for name in names if "/" in name or ":" in name}
    # The whole name says more than "." or "..", and "val/panoptic" more than "panoptic".
    parts = {name: path.parts for name, path in paths.items() if path.name not in ("", "..")}
    ends = different_ends(parts, least=2)
    return {name: ends.get(name, name) for name in names}


def different_ends(paths: Mapping[str, Sequence[str]], least: int = 1) -> dict[str, str]:
    """Of each path, given as its parts, the last few that tell it from the others: at least
    `least`, and the same number for all."""
    longest = max(map(len, paths.values()), default=0)
    for count in range(least, longest + 1):
        ends = {name: "/".join(parts[-count:]) for name, parts in paths.items()}
        if len(set(ends.values())) == len(ends):
            return ends
    return {name: name for name in paths}


def _first_path(name: str) -> PurePath:
    path = PurePath(name.partition(":")[2].split(":")[0] or name)
    return path.with_suffix("") if path.name else path
