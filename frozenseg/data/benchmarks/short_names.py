"""Short names of data sets that are named by their files, for pictures, tables and folders."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for each data set, all of them different.

    A benchmark of the table keeps its name. A data set that is named by its files gets the end of
    its first path, e.g. "val/panoptic".
    """
    names = list(dict.fromkeys(names))
    paths = {name: _first_path(name) for name in names if "/" in name or ":" in name}
    # The full name says more than "." or "..", and "val/panoptic" says more than "panoptic".
    parts = {name: path.parts for name, path in paths.items() if path.name not in ("", "..")}
    ends = different_ends(parts, least=2)
    return {name: ends.get(name, name) for name in names}


def different_ends(paths: Mapping[str, Sequence[str]], least: int = 1) -> dict[str, str]:
    """Return the end of each path, long enough to distinguish it from the others.

    paths: the parts of each path. The ends have at least `least` parts, all the same number.
    """
    longest = max(map(len, paths.values()), default=0)
    for count in range(least, longest + 1):
        ends = {name: "/".join(parts[-count:]) for name, parts in paths.items()}
        if len(set(ends.values())) == len(ends):
            return ends
    return {name: name for name in paths}


def _first_path(name: str) -> PurePath:
    path = PurePath(name.partition(":")[2].split(":")[0] or name)
    return path.with_suffix("") if path.name else path
