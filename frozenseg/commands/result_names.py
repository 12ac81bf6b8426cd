"""Names of inputs and of their results."""

import itertools
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import FOLDER, PANOPTIC
from frozenseg.data.video import without_password

logger = logging.getLogger(__name__)

# Bytes of the names of results; file systems take 255, endings included.
LONGEST_NAME = 200


class Input(NamedTuple):
    """A file, camera or stream to segment.

    number: its position among the inputs.
    path: of the file; of a camera or stream its name as text.
    source: the path below the root of the predictions, or the whole path if it is not below; of a
        camera or stream what it is and when it began.
    name: the path of its results below the output folder, without endings.
    """

    number: int
    path: Path | str
    source: str
    name: str


def named_inputs(paths: list[Path | str], output: Path, lines: PredictionLines) -> list[Input]:
    """Choose names for the inputs and their results.

    A result is named as its input without the suffix. Where its files would replace an input, or
    the results of another input, it keeps the suffix (`a.JPEG.png`), or has a number behind it.
    """
    whole_paths = [_whole_path(path, lines.root) for path in paths]
    used = {str(path.resolve()).casefold() for path in whole_paths}  # some file systems fold case
    for name in [*lines.done.values(), *([lines.begun.name] if lines.begun else [])]:
        used |= _files_of(name, output)
    inputs = []
    for number, (path, whole) in enumerate(zip(paths, whole_paths, strict=True)):
        below = whole.relative_to(lines.root) if whole.is_relative_to(lines.root) else None
        source = (below or whole).as_posix()
        begun = lines.begun
        resumed = begun.name if begun is not None and begun.source == source else ""
        name = lines.done.get(source, resumed)
        if not name:
            folder = (below or Path(whole.parent.name, whole.name)).parent
            name = next(
                name
                for name in _candidates(folder, whole)
                if used.isdisjoint(_files_of(name, output))
            )
            used |= _files_of(name, output)
            if Path(name).name != whole.stem:
                logger.info("%s: its results are named %s", path, name)
        inputs.append(Input(number, path, source, name))
    return inputs


def _whole_path(path: Path | str, root: Path) -> Path:
    """Return the absolute path of a file; of a camera or stream, one that no file has."""
    if isinstance(path, Path):
        return Path(os.path.abspath(path))
    words = re.sub(r"\W+", "_", without_password(path)).strip("_")
    kind = "camera" if words.isdecimal() else "stream"
    return root / f"{kind}_{words}_{time.strftime('%Y%m%d_%H%M%S')}"


def _candidates(folder: Path, path: Path) -> Iterator[str]:
    stem = _shortened(path.stem)
    numbered = (f"{stem}_{number}" for number in itertools.count(2))
    for name in itertools.chain([stem, _shortened(path.name)], numbered):
        yield (folder / name).as_posix()


def _files_of(name: str, output: Path) -> set[str]:
    """Return the paths, in one case, that the results of this name take."""
    places = [output / f"{name}{ending}" for ending in (".png", ".mp4")]
    places += [output / FOLDER / PANOPTIC / f"{name}{ending}" for ending in (".png", "")]
    return {str(place.resolve()).casefold() for place in places}


def _shortened(name: str) -> str:
    """Cut a name that leaves no room for an ending."""
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name
