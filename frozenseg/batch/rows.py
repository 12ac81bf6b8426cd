"""The results of a batch run: one row for each image, in Parquet shards."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from frozenseg.batch.items import Item
from frozenseg.batch.manifest import Manifest, arrow
from frozenseg.data.coco_records import instance_records, segment_record
from frozenseg.data.rle import decode_masks, encode_ids
from frozenseg.errors import MissingFileError, UserError, UserValueError, nearest
from frozenseg.files import read_json, user_path, write_whole
from frozenseg.results.hosts import supervision_detections
from frozenseg.results.result import SegmentationResult, Task
from frozenseg.structures import InstanceResult

ABOUT, SHARDS = "about.json", "shards"
Row = dict[str, Any]


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / SHARDS / f"shard-{number:07d}.parquet"


def row_of(number: int, item: Item, result: SegmentationResult, task: Task) -> Row:
    """Return the row of a segmented image. number: the id of the image."""
    height, width = result.image.shape[:2]
    segments = _regions(result) if task == "panoptic" else _instances(result)
    found = {"height": height, "width": width, "segments": segments, "seconds": result.seconds}
    return {"id": number, "path": item.path, **found, "error": None}


def error_row(number: int, item: Item, reason: str) -> Row:
    """Return the row of an image that could not be segmented. number: the id of the image."""
    nothing: Row = {"height": None, "width": None, "segments": [], "seconds": None}
    return {"id": number, "path": item.path, **nothing, "error": reason}


def _regions(result: SegmentationResult) -> list[Row]:
    regions = result.regions
    codes = encode_ids(regions.ids, [segment.id for segment in regions.segments])
    return [
        {**segment_record(segment), "name": segment.name, "segmentation": code}
        for segment, code in zip(regions.segments, codes, strict=True)
    ]


def _instances(result: SegmentationResult) -> list[Row]:
    """Return the instances, which may overlap; each has at least one pixel."""
    found = result.objects("instances")
    return [
        {**record, "id": number, "name": name, "isthing": 1}
        for number, (record, name) in enumerate(
            zip(instance_records(found), found.names, strict=True), 1
        )
    ]


def write_shard(folder: Path, number: int, rows: list[Row], digests: Mapping[str, str]) -> None:
    """Write a shard atomically, and flush it to disk.

    digests: columns with the same value in all rows.
    """
    pyarrow, parquet = arrow()
    table = pyarrow.Table.from_pylist([{**row, **digests} for row in rows], _schema())
    whole = io.BytesIO()
    parquet.write_table(table, whole, compression="zstd", write_page_checksum=True)
    write_whole(shard_path(folder, number), whole.getbuffer())


def _schema() -> Any:
    pyarrow, _ = arrow()
    whole, text = pyarrow.int32(), pyarrow.string()
    code = pyarrow.struct([("size", pyarrow.list_(whole)), ("counts", text)])
    segment = pyarrow.struct(
        [
            ("id", whole),
            ("category_id", whole),
            ("name", text),
            ("isthing", pyarrow.int8()),
            ("score", pyarrow.float32()),
            ("area", pyarrow.int64()),
            ("bbox", pyarrow.list_(pyarrow.float32())),
            ("segmentation", code),
        ]
    )
    digest = pyarrow.dictionary(whole, text)
    return pyarrow.schema(
        [
            ("id", pyarrow.int64()),
            ("path", text),
            ("height", whole),
            ("width", whole),
            ("segments", pyarrow.list_(segment)),
            ("error", text),
            ("seconds", pyarrow.float32()),
            ("model_digest", digest),
            ("vocabulary_digest", digest),
            ("settings_digest", digest),
        ]
    )


def shard_errors(folder: Path, manifest: Manifest, number: int) -> list[str | None] | None:
    """Return, for each image of a shard, why it could not be segmented, or None if it could.

    Returns None instead of a list if the shard does not exist. Raises `UserError` if it is damaged.
    """
    path = shard_path(folder, number)
    if not path.exists():
        return None
    with _opened(path) as file:  # only this column and the footer of the file are read
        errors: list[str | None] = file.read(columns=["error"])["error"].to_pylist()
    if len(errors) != manifest.rows_of(number):
        raise _damaged(path, f"{len(errors)} rows instead of {manifest.rows_of(number)}")
    return errors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a shard; errors of Parquet inside become a `UserError` that names the shard."""
    pyarrow, parquet = arrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if absent := sorted({*_schema().names}.difference(file.schema_arrow.names)):
                raise _damaged(path, f"it has no column {', '.join(absent)}")
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: damaged ({' '.join(reason.split())}); delete it, and give the command of the "
        "run again, which makes it anew"
    )


def read_rows(folder: str | PathLike[str], columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a run in the order of their ids; missing shards are left out.

    folder: the output of `frozenseg batch`. columns: the columns to read, e.g. ["path", "error"];
        None: all.

    A row has "id", "path", "height", "width" in pixels, "segments", "error" (why there are none, or
    None), "seconds" and digests. A segment is a COCO annotation with "name": "id", "category_id",
    "isthing", "score" (0-1), "area" in pixels, "bbox" (x, y, width, height), "segmentation" (RLE).

    Raises `UserError` for a folder without a run, for an unknown column, and for a damaged shard.

    Example:
        >>> rows = frozenseg.batch.read_rows("output/batch")
        >>> dogs = [r["path"] for r in rows if any(s["name"] == "dog" for s in r["segments"])]
    """
    known = _schema().names
    for name in columns or ():
        if name not in known:
            raise UserValueError(f"column {name!r}: does not exist; {nearest(name, known)}")
    return rows_in(shard_files(user_path(folder)), columns)


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a run that exist now, in their order."""
    if not (folder / SHARDS).is_dir():
        raise MissingFileError(f"{folder}: holds no run of frozenseg batch; correct the path")
    return sorted((folder / SHARDS).glob("shard-*.parquet"))


def rows_in(shards: list[Path], columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of these shards, as `read_rows` does."""
    for path in shards:
        with _opened(path) as file:
            for batch in file.iter_batches(batch_size=100, columns=columns):
                yield from batch.to_pylist()


def read_about(folder: Path) -> dict[str, Any]:
    """Return how the rows of a run were made: "categories", "model", "settings", "task"."""
    try:
        about = read_json(folder / ABOUT)
        found = {name: about[name] for name in ("categories", "model", "settings", "task")}
        if not isinstance(found["settings"], dict):
            raise UserError(f"{ABOUT}: its settings are not a JSON object")
        return found
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: holds no run of frozenseg batch ({error})") from None


def segments_of(row: Row) -> InstanceResult:
    """Return the segments of a row with their masks (N, H, W); needs hotcoco."""
    segments = row["segments"]
    size = (row["height"] or 0, row["width"] or 0)
    corners = np.array([segment["bbox"] for segment in segments], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    scores = [np.nan if s["score"] is None else s["score"] for s in segments]
    return InstanceResult(
        boxes=corners,
        masks=decode_masks([segment["segmentation"] for segment in segments], size),
        scores=np.array(scores, np.float32),
        class_ids=np.array([s["category_id"] - 1 for s in segments], np.int64),
        names=[segment["name"] for segment in segments],
    )


def detections_of(row: Row) -> Any:
    """Return a row of `read_rows` as `supervision.Detections`; needs supervision and hotcoco."""
    return supervision_detections(segments_of(row))


def as_text(value: Any) -> str:
    """Return a value as JSON in a canonical form, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
