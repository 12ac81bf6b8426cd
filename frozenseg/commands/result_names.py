"""The inputs of `frozenseg demo`, and the names of their results."""

import itertools
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frozenseg.data.image_files import is_video
from frozenseg.data.prediction_lines import PredictionLines, as_text
from frozenseg.data.results import has_label_maps, panoptic_path
from frozenseg.data.video import without_password

logger = logging.getLogger(__name__)

# Largest number of bytes in the name of a result; file systems allow 255, with the suffix.
LONGEST_NAME = 200


class Input(NamedTuple):
    """A file, camera or stream to segment.

    number: its position among the inputs.
    path: the path of a file, or the name of a camera or stream as text.
    source: the path of a file relative to the root of the predictions, or its absolute path if it
        lies elsewhere, in UTF-8 (`as_text`); for a camera or stream, its kind, name and start time.
    name: the path of its results below the output folder, without suffixes.
    """

    number: int
    path: Path | str
    source: str
    name: str

    @property
    def picture(self) -> str:
        """The path of its picture or output video, below the output folder."""
        return _picture(self.name, is_film(self.path))


def named_inputs(paths: list[Path | str], output: Path, lines: PredictionLines) -> list[Input]:
    """Choose names for the inputs and their results.

    A result is named after its input, without the suffix. If its files would replace an input, the
    results of another input, or a file that no run of `frozenseg demo` has written, the name
    keeps the suffix (`a.JPEG.png`) or gets a number. A folder with the name of a video gets a
    number too (`clip_2/1.png`), because the frames of the video are stored in a folder of that
    name.
    """
    whole_paths = [_whole_path(path, lines.root) for path in paths]
    taken = _Taken(output, whole_paths, lines.continued)
    known = {**lines.others(), **lines.done}
    for source, name in known.items():
        # For a camera or stream, the source and the name of the results are the same.
        taken.add(name, film=is_film(Path(source)) or source == name)
    if lines.begun is not None:
        taken.add(lines.begun.name, film=True)
    inputs = []
    for number, (path, whole) in enumerate(zip(paths, whole_paths, strict=True)):
        below = whole.relative_to(lines.root) if whole.is_relative_to(lines.root) else None
        source = as_text((below or whole).as_posix())
        begun = lines.begun
        resumed = begun.name if begun is not None and begun.source == source else ""
        name = known.get(source, resumed)
        if not name:
            text, film = Path(source), is_film(path)
            folder = text.parent if below is not None else Path(text.parent.name)
            candidates = _candidates(taken.beside_films(folder), text)
            name = next(name for name in candidates if taken.leaves_room(name, film))
            taken.add(name, film)
            if Path(name).name != text.stem:
                logger.info("%s: its results are named %s", path, _picture(name, film))
        inputs.append(Input(number, path, source, name))
    return inputs


def _picture(name: str, film: bool) -> str:
    return f"{name}.mp4" if film else f"{name}.png"


def is_film(path: Path | str) -> bool:
    """Tell whether an input is a video, camera or stream, as opposed to an image."""
    return isinstance(path, str) or is_video(path)


def _whole_path(path: Path | str, root: Path) -> Path:
    """Return the absolute path of a file, or a made-up, unused path for a camera or stream."""
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


class _Taken:
    """The paths that inputs and results occupy.

    They are compared without regard to case, because some file systems ignore it. The frames of a
    video are stored in a folder with the video's name, which holds nothing else.
    """

    def __init__(self, output: Path, inputs: list[Path], continued: bool) -> None:
        """continued: whether the output folder holds predictions of an earlier run."""
        self.output, self.continued = output, continued
        self.files = set(map(_place, inputs))
        self.folders_of_files: set[str] = set()
        self.folders_of_films: set[str] = set()

    def leaves_room(self, name: str, film: bool) -> bool:
        """Whether results of this name would not collide with any input or other result."""
        label_map = self._label_map(name)
        return (
            self.files.isdisjoint(self._files_of(name))
            and not (film and _place(label_map.with_suffix("")) in self.folders_of_files)
            and not self._foreign_files(name, film)
        )

    def _foreign_files(self, name: str, film: bool) -> bool:
        """Whether files exist that would be replaced and that no earlier run has written."""
        if self.continued and has_label_maps(self.output, name, film):
            return False
        label_map = self._label_map(name)
        frames = label_map.with_suffix("").glob("[!.]*")
        there = any(frames) if film else os.path.lexists(label_map)
        return there or os.path.lexists(self.output / _picture(name, film))

    def beside_films(self, folder: Path) -> Path:
        """Return a folder for results, relative to the output folder.

        It is `folder`, or a numbered variant of it if `folder` is, or lies in, that of a video.
        """
        first, *others = folder.parts or [""]
        numbered = (f"{first}_{number}" for number in itertools.count(2))
        names = itertools.chain([first], numbered)
        return next(f for f in (Path(name, *others) for name in names) if not self._of_film(f))

    def _of_film(self, folder: Path) -> bool:
        inside = self._label_map((folder / "any").as_posix())
        return not self.folders_of_films.isdisjoint(_folders(inside))

    def add(self, name: str, film: bool) -> None:
        """Keep others away from the results of this name."""
        self.files |= self._files_of(name)
        label_map = self._label_map(name)
        self.folders_of_files.update(_folders(label_map))
        if film:
            self.folders_of_films.add(_place(label_map.with_suffix("")))

    def _files_of(self, name: str) -> set[str]:
        places = [self.output / f"{name}{ending}" for ending in (".png", ".mp4")]
        label_map = self._label_map(name)
        return set(map(_place, [*places, label_map, label_map.with_suffix("")]))

    def _label_map(self, name: str) -> Path:
        return panoptic_path(self.output, f"{name}.png")


def _place(path: Path) -> str:
    return str(path.resolve()).casefold()


def _folders(path: Path) -> Iterator[str]:
    """Return the folders that a file lies in."""
    return (str(folder).casefold() for folder in path.resolve().parents)


def _shortened(name: str) -> str:
    """Shorten a name so that there is room for a suffix."""
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name
