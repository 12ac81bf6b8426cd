"""What all preparations share: processes, progress, and the handling of existing files."""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from frozenseg.errors import UserError
from frozenseg.files import atomic_path, read_text

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PreparationOptions:
    """How a preparation is done.

    processes: how many processes work in parallel; the files do not depend on their number.
    again: whether existing files are written again.
    count: how many samples are drawn at random; None for the usual number.
    full_size: whether images and labels keep their size where the published preparation shrinks
        them.
    """

    processes: int = 1
    again: bool = False
    count: int | None = None
    full_size: bool = False

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], title: str
    ) -> list[Result]:
        """Return the results in the order of the jobs; a terminal shows a progress bar."""
        with tqdm(total=len(jobs), desc=title, unit=" files", disable=None) as bar:
            if self.processes == 1 or len(jobs) < 2:
                return [_ticked(bar, function(job)) for job in jobs]
            chunk = max(1, min(32, len(jobs) // self.processes))
            with ProcessPoolExecutor(self.processes) as pool:
                results = pool.map(function, jobs, chunksize=chunk)
                return [_ticked(bar, result) for result in results]

    def must_write(self, path: Path) -> bool:
        """Tell whether `path` has to be written."""
        return self.again or not path.exists()


def _ticked(bar: Any, result: Result) -> Result:
    bar.update()
    return result


def source_folder(path: Path, remedy: str) -> Path:
    """Return `path`, which must be a folder of the published data.

    remedy: how to get the folder, for the error message.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; {remedy}")
    return path


def files_by_stem(folder: Path, suffix: str, remedy: str) -> dict[str, Path]:
    """List the files of a folder with this suffix, {stem: file}, in the order of their names."""
    paths = sorted(source_folder(folder, remedy).glob(f"*{suffix}"))
    if not paths:
        raise UserError(f"{folder}: holds no {suffix} files; {remedy}")
    return {path.name.removesuffix(suffix): path for path in paths}


def remove_others(targets: Collection[Path]) -> None:
    """Remove files beside `targets`, of the same suffix, that earlier runs with other lists made.

    targets: all files that a preparation makes in a folder.
    """
    for folder, suffix in {(path.parent, path.suffix) for path in targets}:
        others = set(folder.glob(f"[!.]*{suffix}")).difference(targets)
        for path in others:
            path.unlink()
        if others:
            logger.warning(
                "%s: %d files removed that are no longer among the published ones, such as %s",
                *(folder, len(others), min(others).name),
            )


def write_source(
    path: Path, text: str, made: Collection[Path], options: PreparationOptions, refusal: str
) -> None:
    """Write what files are made from, before they are made; refuse if it has changed.

    Whenever a run is stopped, the files that are there are of the source that is written: files of
    another source, or of an unknown one, are removed before it is replaced.

    made: the files that are there. refusal: the message for a changed source without `again`.
    """
    if path.exists():
        if read_text(path) == text:
            return
        if not options.again:
            raise UserError(refusal)
    for file in made:
        file.unlink()
    if made:
        logger.warning("%s: %d files of another or an unknown source removed", path, len(made))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write labels (H, W) of 8 or 16 bits, or colours (H, W, 3) uint8, in the suffix's format."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def place_image(source: Path, target: Path) -> None:
    """Put a file at a second place: as a hard link if the disk supports links, else as a copy.

    An existing file at `target` stays until it is replaced: it may be the last copy of an image.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            linked = Path(folder) / target.name
            os.link(source.resolve(), linked)  # the image, not a link that leads to it
            os.replace(linked, target)
    except FileNotFoundError:
        raise UserError(f"{source}: no such image; unpack the data set again") from None
    except OSError:  # another disk, or one without links
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def regions(ids: np.ndarray) -> list[dict[str, Any]]:
    """List id, area and bbox (x, y, width, height) of all ids but 0 in a map (H, W), by id."""
    values, positions = np.unique(ids, return_inverse=True)
    positions = positions.reshape(ids.shape)
    areas = np.bincount(positions.ravel(), minlength=len(values))
    boxes = ndimage.find_objects(positions + 1)
    return [
        {"id": int(value), "area": int(area), "bbox": _box(box)}
        for value, area, box in zip(values, areas, boxes, strict=True)
        if value
    ]


def _box(slices: tuple[slice, slice]) -> list[int]:
    rows, columns = slices
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
