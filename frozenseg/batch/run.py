"""Run a batch: list its images once, and make the shards that do not exist yet."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from frozenseg.batch.items import Item
from frozenseg.batch.manifest import NAME, Manifest, check_shard_rows, write_manifest
from frozenseg.batch.rows import ABOUT, SHARDS, shard_errors
from frozenseg.batch.worker import Plan, Seen, check_about
from frozenseg.data.prediction_lines import Part
from frozenseg.engine.lock import only_writer
from frozenseg.errors import UserError
from frozenseg.files import check_writable, remove_temporaries

MOST_NAMED = 5  # number of errors that are reported; the rows have all of them
Engine = Callable[[Plan, list[int], Seen], None]
"""Makes the shards with these numbers, and reports each image."""


@dataclass
class Outcome:
    """What was done with the images of a part.

    total: number of images.
    earlier: how many of them had been done by earlier runs.
    earlier_failed: how many of those could not be segmented.
    failed: how many of the other images could not be segmented, in this run.
    errors: the reasons for the first `MOST_NAMED` of the images that failed in this run.
    """

    total: int
    earlier: int = 0
    earlier_failed: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


def run(
    plan: Plan, items: Iterable[Item] | None, *, part: Part, shard_rows: int | None, engine: Engine
) -> Outcome:
    """Make the shards of a part that do not exist yet.

    If a run is killed, the shards that it was making are lost, and the next run makes them.

    items: the images; None: those of the existing manifest. shard_rows: number of images in a
    shard; None: that of the existing manifest.
    """
    # The check writes a file for a moment, whose name must not be that of a shard.
    check_writable(plan.folder / SHARDS / f"part_{part.number}_of_{part.total}")
    with _only_run(plan.folder, part):
        _refuse_shards_alone(plan.folder)
        check_about(plan)
        if items is None:
            manifest = Manifest(plan.folder)
            check_shard_rows(manifest, shard_rows or manifest.shard_rows)
        else:
            assert shard_rows is not None, "`items` needs `shard_rows`"
            manifest = write_manifest(plan.folder, items, shard_rows)
        for folder, name in ((SHARDS, "shard-*.parquet"), ("", "manifest.parquet")):
            remove_temporaries(plan.folder / folder, name, alone=part.total == 1)
        mine = [number for number in manifest.shards if number % part.total == part.number - 1]
        outcome = Outcome(sum(map(manifest.rows_of, mine)))
        left = [number for number in mine if not _count_done(plan, manifest, number, outcome)]
        if left:
            _make(plan, left, outcome, engine)
    return outcome


def _refuse_shards_alone(folder: Path) -> None:
    """Raise `UserError` if there are shards without the files that describe them."""
    # Shards are looked for first: another part that starts now writes them after those files.
    if not any((folder / SHARDS).glob("shard-*.parquet")):
        return
    for name, content in ((NAME, "lists their images"), (ABOUT, "says how they were made")):
        if not (folder / name).exists():
            raise UserError(
                f"{folder / SHARDS}: holds shards, but {name}, which {content}, is missing; "
                "restore it, or give another --output"
            )


def _count_done(plan: Plan, manifest: Manifest, number: int, outcome: Outcome) -> bool:
    """Return whether a shard exists; if so, count its images as done by earlier runs."""
    errors = shard_errors(plan.folder, manifest, number)
    if errors is None:
        return False
    outcome.earlier += len(errors)
    outcome.earlier_failed += sum(error is not None for error in errors)
    return True


def _make(plan: Plan, numbers: list[int], outcome: Outcome, engine: Engine) -> None:
    with tqdm(total=outcome.total, initial=outcome.earlier, unit=" images", disable=None) as bar:

        def seen(error: str | None) -> None:
            bar.update()
            if error is not None:
                outcome.failed += 1
                if len(outcome.errors) < MOST_NAMED:
                    outcome.errors.append(error)

        engine(plan, numbers, seen)


@contextmanager
def _only_run(folder: Path, part: Part) -> Iterator[None]:
    """Inside, no other run of this part, and none with another number of parts, uses the folder.

    Raises `UserError` that names the process of such a run, if there is one.
    """
    own = f"part_{part.number}_of_{part.total}.lock"
    with only_writer(folder, own):
        for other in folder.glob("part_*.lock"):
            if other.name.rpartition("_of_")[2] != f"{part.total}.lock":
                with only_writer(folder, other.name):
                    pass
        yield
