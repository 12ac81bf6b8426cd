"""Write predictions to disk: panoptic PNGs, and JSON in the formats of COCO."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from frozenseg.data.coco_records import categories_of, instance_records, segment_record
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path, json_text, writing
from frozenseg.structures import InstanceResult, PanopticResult

WHOLE, LINES = "predictions.json", "predictions.jsonl"


def encode_panoptic(ids: np.ndarray) -> np.ndarray:
    """Encode ids (H, W) below 2^24 as (H, W, 3) uint8: id = R + 256 G + 256^2 B, as COCO does."""
    if ids.size and not (ids.min() >= 0 and ids.max() < 1 << 24):
        raise UserError(f"panoptic ids must lie in 0-16777215, got {ids.min()} to {ids.max()}")
    return ((ids[..., None] >> np.array([0, 8, 16])) & 255).astype(np.uint8)


def write_panoptic_png(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write (H, W) segment ids as a COCO panoptic PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(encode_panoptic(ids)).save(temporary)


class Predictions:
    """Writes the predictions of many images as they come, so that memory does not grow with them.

    The first line of `predictions.jsonl` is {"categories"}; each image adds a line {"image",
    "annotation", "instances", "note"}. `finish` makes `predictions.json` of it and removes it. If
    the run is killed, the lines remain, whole up to the last image.

    The JSON file is COCO panoptic JSON ("images", "annotations", "categories"). Its list
    "instances" has the objects as in COCO result files, without those that have no pixel. The id of
    a category is its position in the vocabulary plus 1, because tools for COCO take 0 for
    "nothing"; its name is its first synonym.

    A folder with predictions of an earlier run is refused unless `overwrite` is set. Then its lines
    are replaced at once, and its JSON file by `finish`. Call `close` in any case.
    """

    def __init__(
        self,
        folder: Path,
        *,
        names: Sequence[tuple[str, ...]],
        is_thing: Sequence[bool],
        overwrite: bool = False,
    ) -> None:
        self.categories = categories_of(names, is_thing)
        self.count = 0
        self._whole, self.lines = folder / WHOLE, folder / LINES
        with writing(self.lines):
            if not overwrite and (held := taken(folder)):
                raise UserError(
                    f"{folder}: holds the predictions of an earlier run ({', '.join(held)}); "
                    "choose another folder, or replace them with --overwrite"
                )
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a line that a full disk refuses is not written with the next one.
            self._file = open(self.lines, "wb" if overwrite else "xb", buffering=0)
        try:
            self._append({"categories": self.categories})
        except WriteError:
            self.close()
            raise

    def add(
        self,
        *,
        file_name: str,
        panoptic_file: str,
        panoptic: PanopticResult,
        instances: InstanceResult | None = None,
        note: str | None = None,
    ) -> None:
        """Add an image.

        file_name: the name of the image. panoptic_file: the path of its PNG below the folder of the
        JSON. note: a warning for readers of these numbers, e.g. that the weights are random.
        """
        image_id = self.count + 1
        height, width = panoptic.ids.shape
        self._append(
            {
                "image": {"id": image_id, "file_name": file_name, "height": height, "width": width},
                "annotation": {
                    "image_id": image_id,
                    "file_name": panoptic_file,
                    "segments_info": [segment_record(segment) for segment in panoptic.segments],
                },
                "instances": self._instances(image_id, instances),
                "note": note,
            }
        )
        self.count = image_id

    def _instances(self, image_id: int, instances: InstanceResult | None) -> list[dict[str, Any]]:
        records = [] if instances is None else instance_records(instances)
        names = [category["name"] for category in self.categories]
        return [
            {"image_id": image_id, "name": names[record["category_id"] - 1], **record}
            for record in records
        ]

    def finish(self) -> None:
        """Write the JSON file of all lines, if there is an image, and close."""
        if self.count:
            with atomic_path(self._whole) as temporary:
                with open(temporary, "w", encoding="utf-8") as file:
                    _write_whole(self.lines, file)
        self.count = 0
        self.close()

    def close(self) -> None:
        """Stop writing. Lines of which no JSON file was made stay, unless they hold no image."""
        self._file.close()
        if not self.count:
            self.lines.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        """Add a line as a whole, or leave the file as it was."""
        line = memoryview((json_text(entry) + "\n").encode("ascii"))
        before = self._file.tell()
        try:
            with writing(self.lines):
                while line:
                    line = line[self._file.write(line) :]
        except WriteError:
            self._file.truncate(before)
            self._file.seek(before)
            raise


def taken(folder: Path) -> list[str]:
    """List the files of predictions that a folder holds, finished or not."""
    return [name for name in (WHOLE, LINES) if (folder / name).exists()]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the entries of `predictions.jsonl` but a last line that is cut off by a killed run."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _write_whole(lines: Path, file: TextIO) -> None:
    """Write one JSON object of the lines, which are read once for each section."""
    images = itertools.islice(read_lines(lines), 1, None)
    notes = sorted({entry["note"] for entry in images if entry["note"]})
    about = {"description": "predictions of frozenseg", "notes": notes}
    file.write(f'{{"info": {json_text(about)}')
    file.write(f', "categories": {json_text(next(read_lines(lines))["categories"])}')
    for section, key in (("images", "image"), ("annotations", "annotation"), ("instances", "")):
        file.write(f', "{section}": [')
        separator = ""
        for entry in itertools.islice(read_lines(lines), 1, None):
            for row in [entry[key]] if key else entry[section]:
                file.write(f"{separator}{json_text(row)}")
                separator = ", "
        file.write("]")
    file.write("}\n")
