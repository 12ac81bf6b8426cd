"""Names of inputs and of their results."""

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frozenseg.data.prediction_lines import PredictionLines
from frozenseg.data.results import FOLDER, PANOPTIC

logger = logging.getLogger(__name__)

# Bytes of the names of results; file systems take 255, endings included.
LONGEST_NAME = 200


class Input(NamedTuple):
    """A file to segment.

    number: its position among the inputs.
    source: its path below the root of the predictions, or its whole path if it is not below.
    name: the path of its results below the output folder, without endings.
    """

    number: int
    path: Path
    source: str
    name: str


def named_inputs(paths: list[Path], output: Path, lines: PredictionLines) -> list[Input]:
    """Choose names for the inputs and their results.

    A result is named as its input without the suffix. Where its files would replace an input, or
    the results of another input, it keeps the suffix (`a.JPEG.png`), or has a number behind it.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    used = {str(path.resolve()).casefold() for path in paths}  # some file systems fold case
    for name in lines.done.values():
        used |= _files_of(name, output)
    inputs = []
    for number, (path, whole) in enumerate(zip(paths, absolute, strict=True)):
        below = whole.relative_to(lines.root) if whole.is_relative_to(lines.root) else None
        source = (below or whole).as_posix()
        name = lines.done.get(source, "")
        if not name:
            folder = (below or Path(whole.parent.name, whole.name)).parent
            name = next(
                name
                for name in _candidates(folder, whole)
                if used.isdisjoint(_files_of(name, output))
            )
            used |= _files_of(name, output)
            if Path(name).name != path.stem:
                logger.info("%s: its results are named %s", path, name)
        inputs.append(Input(number, path, source, name))
    return inputs


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
