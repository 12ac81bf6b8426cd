"""Write a batch run as files for other tools: COCO JSON, panoptic PNGs, supervision's table."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.batch.rows import Row, read_about, rows_in, segments_of, shard_files
from frozenseg.data.results import PANOPTIC, write_document, write_panoptic_png
from frozenseg.errors import UserError
from frozenseg.files import atomic_path

BOX = ("x_min", "y_min", "x_max", "y_max")


def export_coco(run: Path, target: Path) -> Path:
    """Write coco.json in `target`, one COCO JSON whose annotations have RLE masks and scores."""
    path, shards = target / "coco.json", shard_files(run)
    annotations = (record for row in _good(shards) for record in _records(row))
    write_document(path, _start(run), images=map(_image, _good(shards)), annotations=annotations)
    return path


def export_masks(run: Path, target: Path) -> Path:
    """Write a COCO panoptic JSON, and a PNG for each image, named after its id.

    Raises `UserError` if the run has instances, which may overlap.
    """
    path = target / f"{PANOPTIC}.json"
    if read_about(run)["task"] != "panoptic":
        raise UserError(
            f"{run}: its instances may overlap, which a PNG cannot store; use --to coco"
        )
    shards = shard_files(run)
    images = (_image(row) for row in _good(shards))
    write_document(path, _start(run), images=images, annotations=_panoptic(shards, target))
    return path


def export_supervision(run: Path, target: Path) -> Path:
    """Write a table as `supervision.CSVSink` does: one line for each segment, with its box."""
    path = target / "detections.csv"
    columns = (*BOX, "class_id", "confidence", "tracker_id", "class_name", "file_name")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in _good(shard_files(run)):
            for s in row["segments"]:
                x, y, width, height = s["bbox"]
                box = (x, y, x + width, y + height)
                table.writerow([*box, s["category_id"] - 1, s["score"], "", s["name"], row["path"]])
    return path


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "coco": export_coco,
    "masks": export_masks,
    "supervision": export_supervision,
}
"""Format -> the function that writes a run into a folder and returns the path of its main file."""


def _good(shards: list[Path]) -> Iterator[Row]:
    """Yield the rows of the images that could be segmented.

    Exports read the rows several times. `shards` is the same list each time, because a run in
    progress adds shards in the meantime.
    """
    return (row for row in rows_in(shards) if row["error"] is None)


def _start(run: Path) -> dict[str, Any]:
    info = {"description": "predictions of frozenseg"}
    return {"info": info, "licenses": [], "categories": read_about(run)["categories"]}


def _image(row: Row) -> Row:
    size = {"height": row["height"], "width": row["width"]}
    return {"id": row["id"] + 1, "file_name": row["path"], **size}


def _records(row: Row) -> Iterator[Row]:
    """Yield the segments of a row as annotations. Their own ids are left out.

    `write_document` numbers the annotations over all images.
    """
    for segment in row["segments"]:
        kept = _without(("id", "isthing"), segment)
        yield {"image_id": row["id"] + 1, **kept, "iscrowd": 0}


def _without(names: tuple[str, ...], segment: Row) -> Row:
    """Leave out these entries of a segment, and those that are None, such as a missing score."""
    return {k: v for k, v in segment.items() if k not in names and v is not None}


def _panoptic(shards: list[Path], target: Path) -> Iterator[Row]:
    for row in _good(shards):
        name = f"{row['id'] + 1:012d}.png"
        ids = np.zeros((row["height"], row["width"]), np.int32)
        for segment, mask in zip(row["segments"], segments_of(row).masks, strict=True):
            ids[mask] = segment["id"]
        write_panoptic_png(target / PANOPTIC / name, ids)
        infos = [_without(("name", "segmentation"), segment) for segment in row["segments"]]
        yield {"image_id": row["id"] + 1, "file_name": name, "segments_info": infos}
