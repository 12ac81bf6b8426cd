"""Write predictions in the standard formats: panoptic PNGs, COCO panoptic and COCO instance JSON.

A folder of predictions holds `lines.jsonl` (see `frozenseg.data.prediction_lines`) and the files
that `write_standard_files` makes from it: `panoptic.json`, whose PNGs lie in `panoptic/`, where
panopticapi looks for them, and `instances.json`.
"""

import functools
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.prediction_lines import (
    PANOPTIC,
    as_text,
    has_ended,
    images_of,
    line_files,
    read_header,
)
from frozenseg.data.video_results import VIPSEG, YOUTUBE_VIS, write_video_files
from frozenseg.errors import UserError
from frozenseg.files import atomic_path, write_json_pieces

FOLDER, INSTANCES = "predictions", "instances"
FRAMES = "[0-9]" * 6 + "*.png"  # the label maps of the frames of a video


def panoptic_path(output: Path, png: str) -> Path:
    """Return the path of a panoptic PNG below the output folder of a run.

    png: the name in the prediction lines, "NAME.png".
    """
    return output / FOLDER / PANOPTIC / png


def has_label_maps(output: Path, name: str, film: bool) -> bool:
    """Tell whether there are label maps for the results of this name.

    They are written before NAME.png or NAME.mp4, so their presence shows that this file is a result
    of FrozenSeg. film: whether the result is a video.
    """
    return any(label_maps(output, name, film))


def label_maps(output: Path, name: str, film: bool) -> Iterator[Path]:
    """Yield the label maps of an image, or of the frames of a video, that exist."""
    path = panoptic_path(output, f"{name}.png")
    return path.with_suffix("").glob(FRAMES) if film else filter(Path.exists, [path])


def without_results(files: list[Path], root: Path) -> list[Path]:
    """Leave out the files that earlier runs have written into `root` or folders below it."""
    holds_lines = functools.cache(lambda folder: bool(line_files(folder / FOLDER)))

    def is_result(file: Path) -> bool:
        for folder in file.parents:
            if not folder.is_relative_to(root):
                return False
            below = file.relative_to(folder)
            name, film = below.with_suffix("").as_posix(), file.suffix == ".mp4"
            if holds_lines(folder) and (
                below.parts[0] == FOLDER
                or (file.suffix in (".png", ".mp4") and has_label_maps(folder, name, film))
            ):
                return True
        return False

    return [file for file in files if not is_result(Path(os.path.abspath(file)))]


def encode_panoptic(ids: np.ndarray) -> np.ndarray:
    """Encode ids (H, W) below 2^24 as (H, W, 3) uint8: id = R + 256 G + 256^2 B, as COCO does."""
    if ids.size and not (ids.min() >= 0 and ids.max() < 1 << 24):
        raise UserError(f"panoptic ids must lie in 0-16777215, got {ids.min()} to {ids.max()}")
    return ((ids[..., None] >> np.array([0, 8, 16])) & 255).astype(np.uint8)


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    with io.BytesIO() as file:
        # This takes a quarter of the time of Pillow's default level; files are a tenth larger.
        picture.save(file, "PNG", compress_level=1)
        return file.getvalue()


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as a PNG file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(picture))


def write_panoptic_png(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write (H, W) segment ids as a COCO panoptic PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(encode_panoptic(ids)).save(temporary)


def missing_parts(folder: Path) -> list[int]:
    """Return the numbers of the parts of a run that have not done all their inputs."""
    files = line_files(folder)
    total = max((part.total for part in files), default=1)
    ended = {part.number for part, path in files.items() if has_ended(path)}
    return [number for number in range(1, total + 1) if number not in ended]


def standard_files(folder: Path, tracked: bool = False) -> list[Path]:
    """Return the paths of `panoptic.json` and `instances.json`.

    tracked: whether those of the files of tracked videos follow.
    """
    names = [f"{name}.json" for name in (PANOPTIC, INSTANCES)]
    return [folder / name for name in (names + [YOUTUBE_VIS, VIPSEG] if tracked else names)]


def check_own(folder: Path) -> None:
    """Raise `UserError` if a folder has files of these names that no FrozenSeg run has written."""
    names = (PANOPTIC, *(path.name for path in standard_files(folder, tracked=True)))
    there = [name for name in names if (folder / name).exists()]
    if there and not line_files(folder):
        raise UserError(
            f"{folder}: holds {', '.join(there)}, but no lines*.jsonl of an earlier run; another "
            "program may have made it: choose another --output, or replace it with --overwrite"
        )


def write_standard_files(folder: Path) -> None:
    """Write `panoptic.json` and `instances.json` from all prediction lines, and files of videos.

    The lines are read once for each list in these files, so that memory does not grow with the
    number of lines.
    """
    headers = map(read_header, line_files(folder).values())
    header = next(found for found in headers if found is not None)
    notes = sorted({entry["note"] for _, entry in _images(folder) if entry["note"]})
    info = {"description": "predictions of frozenseg", "root": as_text(header.root), "notes": notes}
    start = {"info": info, "licenses": [], "categories": header.categories}
    contents = (_panoptic_entry, _instance_entries)
    for path, entries in zip(standard_files(folder), contents, strict=True):
        images = (line["image"] for _, line in _images(folder))
        found = (entry for number, line in _images(folder) for entry in entries(number, line))
        write_document(path, start, images=images, annotations=found)
    write_video_files(folder, header)


def write_document(path: Path, start: dict[str, Any], **lists: Iterable[dict[str, Any]]) -> None:
    """Write a COCO JSON atomically; its lists need not fit in memory.

    start: the fields before the lists. lists: their entries; those without an "id" are numbered
    from 1.
    """
    numbered = {
        name: ({"id": number, **entry} for number, entry in enumerate(entries, 1))
        for name, entries in lists.items()
    }
    write_json_pieces(path, {**start, **numbered})


def _images(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of images with their ids, which are counted from 1 over all parts."""
    lines = (line for path in line_files(folder).values() for line in images_of(path))
    return enumerate(lines, 1)


def _panoptic_entry(image_id: int, line: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"image_id": image_id, **line["panoptic"]}]


def _instance_entries(image_id: int, line: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"image_id": image_id, **entry} for entry in line["instances"]]
