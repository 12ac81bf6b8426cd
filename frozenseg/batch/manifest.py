"""The manifest of a batch run: all its images in a fixed order, written before any image is read.

The position of an image in the manifest is its id. A row group lists the images of one shard.
"""

import hashlib
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frozenseg.batch.items import Item
from frozenseg.errors import UserError, import_extra, reason_of
from frozenseg.files import atomic_path
from frozenseg.notes import note

NAME = "manifest.parquet"
TIME = "mtime_ns"  # the column of modification times, which older versions did not write
DIGEST, SHARD_ROWS = b"frozenseg.digest", b"frozenseg.shard_rows"


def arrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module; raises `UserError` if they are not installed."""
    purpose = "frozenseg batch"
    return (
        import_extra("pyarrow", "batch", purpose),
        import_extra("pyarrow.parquet", "batch", purpose),
    )


class Manifest:
    """An open manifest. total: number of images. shard_rows: number of images in a full shard."""

    def __init__(self, folder: Path, name: str = NAME) -> None:
        """Open the manifest in the folder of a run; raises `UserError` if there is none."""
        self.path = folder / name
        pyarrow, parquet = arrow()
        try:
            self._file = parquet.ParquetFile(self.path)
            about = self._file.metadata.metadata or {}
            self.digest = about[DIGEST].decode()
            self.shard_rows = int(about[SHARD_ROWS])
        except FileNotFoundError:
            raise UserError(
                f"{self.path}: no such file, so there is no run to continue; correct --output"
            ) from None
        except (KeyError, OSError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{self.path}: damaged, or not written by frozenseg batch ({reason_of(error)}); "
                "give another --output"
            ) from None
        self.total = self._file.metadata.num_rows

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(self._file.metadata.num_row_groups)

    def rows_of(self, shard: int) -> int:
        """Return the number of images of a shard."""
        return self._file.metadata.row_group(shard).num_rows

    def items(self, shard: int) -> list[Item]:
        """Return the images of a shard; the first one has the id shard * shard_rows."""
        columns = self._file.read_row_group(shard).to_pydict()
        known = [columns[name] for name in Item._fields if name in columns]
        return list(map(Item, *known))

    def times(self, shard: int) -> Any:
        """Return the modification times of the files of a shard as an array."""
        return self._file.read_row_group(shard, columns=[TIME]).column(0).to_numpy()

    @property
    def has_times(self) -> bool:
        """Whether the manifest holds modification times; those of older versions do not."""
        return TIME in self._file.schema_arrow.names


def write_manifest(folder: Path, items: Iterable[Item], shard_rows: int) -> Manifest:
    """Write the manifest; if the folder has one, check that it is the same.

    A warning counts the files with other modification times. They may be copies, so this is no
    error, and the existing manifest stays, so that later runs and other parts say it too.

    Raises `UserError` if it lists other images or has another `shard_rows`, or if there is no
    image.
    """
    path = folder / NAME
    with atomic_path(path) as temporary:
        _write(temporary, items, shard_rows)
        if path.exists():
            before = Manifest(folder)
            _check(before, temporary, shard_rows)
            if before.has_times:
                _compare_times(before, Manifest(folder, temporary.name))
                shutil.copyfile(path, temporary)
    return Manifest(folder)


def check_shard_rows(before: Manifest, shard_rows: int) -> None:
    """Raise `UserError` if the shards of a manifest have a different number of images."""
    if before.shard_rows != shard_rows:
        raise UserError(
            f"{before.path}: has {before.shard_rows} images per shard, now {shard_rows}; give "
            f"--shard-rows {before.shard_rows}, or another --output"
        )


def _check(before: Manifest, temporary: Path, shard_rows: int) -> None:
    check_shard_rows(before, shard_rows)
    _, parquet = arrow()
    now = parquet.read_metadata(temporary)
    if before.digest != now.metadata[DIGEST].decode():
        raise UserError(
            f"{before.path}: the images have changed since it was made ({before.total} then, "
            f"{now.num_rows} now, or files of other sizes); give --resume in place of the inputs "
            "to continue with the images that it lists, or give another --output"
        )


def _compare_times(before: Manifest, now: Manifest) -> None:
    shards = before.shards
    changed = sum(int((before.times(n) != now.times(n)).sum()) for n in shards)
    if changed:
        note(
            f"{before.path}: {changed} of {before.total} images have other modification times than "
            "when it was made; results that exist are not made again: if the images have changed, "
            "give another --output"
        )


def _write(path: Path, items: Iterable[Item], shard_rows: int) -> None:
    pyarrow, parquet = arrow()
    schema = pyarrow.schema(
        [
            ("id", pyarrow.int64()),
            ("path", pyarrow.string()),
            ("archive", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
            ("offset", pyarrow.int64()),
            ("size", pyarrow.int64()),
            (TIME, pyarrow.int64()),
        ]
    )
    digest, first, left = hashlib.sha256(), 0, iter(items)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while block := list(itertools.islice(left, shard_rows)):
            for item in block:
                digest.update(_identity(item).encode("utf-8", "surrogateescape"))
            ids = range(first, first + len(block))
            columns = [list(ids), *map(list, zip(*block, strict=True))]
            arrays = [
                pyarrow.array(values, field.type)
                for values, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema), row_group_size=shard_rows)
            first += len(block)
        if not first:
            raise UserError("no image among the inputs")
        writer.add_key_value_metadata({DIGEST: digest.hexdigest(), SHARD_ROWS: str(shard_rows)})


def _identity(item: Item) -> str:
    """Return what must not change, in the form that manifests of all versions have in common."""
    path, archive, offset, size, _ = item
    return f"Item({path=}, {archive=}, {offset=}, {size=})\n"
