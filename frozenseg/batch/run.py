"""Run a batch: list its images once, and make the shards that are not there yet."""

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

MOST_NAMED = 5  # images whose errors are kept as text; all are in the rows
Engine = Callable[[Plan, list[int], Seen], None]
"""Makes the shards of these numbers, and tells of every image."""


@dataclass
class Outcome:
    """What became of the images of a part.

    total: how many there are. earlier: how many of them earlier runs had done. earlier_failed: how
    many of these could not be segmented. failed: how many of the others could not. errors: why, of
    the first of the others.
    """

    total: int
    earlier: int = 0
    earlier_failed: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


def run(
    plan: Plan, items: Iterable[Item] | None, *, part: Part, shard_rows: int | None, engine: Engine
) -> Outcome:
    """Make the shards of a part that are not there yet.

    items: the images; None: those of the manifest that is there. shard_rows: images of a shard;
    None: as many as that manifest has. A run that is killed loses the
    shards that it was making, and the next one makes them.
    """
    # Another name than those of shards: for a moment there is a file of that name.
    check_writable(plan.folder / SHARDS / f"part_{part.number}_of_{part.total}")
    with _only_run(plan.folder, part):
        _refuse_shards_alone(plan.folder)
        check_about(plan)
        if items is None:
            manifest = Manifest(plan.folder)
            check_shard_rows(manifest, shard_rows or manifest.shard_rows)
        else:
            assert shard_rows is not None, "images come with the size of shards"
            manifest = write_manifest(plan.folder, items, shard_rows)
        for folder, name in ((SHARDS, "shard-*.parquet"), ("", "manifest.parquet")):
            remove_temporaries(plan.folder / folder, name, alone=part.total == 1)
        mine = [number for number in manifest.shards if number % part.total == part.number - 1]
        outcome = Outcome(sum(map(manifest.rows_of, mine)))
        left = [number for number in mine if not _is_done(plan, manifest, number, outcome)]
        if left:
            _make(plan, left, outcome, engine)
    return outcome


def _refuse_shards_alone(folder: Path) -> None:
    """Raise `UserError` if there are shards without the files that say of what they are."""
    if not any((folder / SHARDS).glob("shard-*.parquet")):
        return  # asked first: a part that has just begun writes its shards after those files
    for name, told in ((NAME, "of which images"), (ABOUT, "how they were made")):
        if not (folder / name).exists():
            raise UserError(
                f"{folder / SHARDS}: holds shards, but {name}, which says {told}, is gone; "
                "bring it back, or give another --output"
            )


def _is_done(plan: Plan, manifest: Manifest, number: int, outcome: Outcome) -> bool:
    """Whether an earlier run has made a shard, whose images are counted then."""
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
    """Keep a second run of this part, and runs that divide the images otherwise, out of the folder;
    raises `UserError` with the name of the run that is there."""
    own = f"part_{part.number}_of_{part.total}.lock"
    with only_writer(folder, own):
        for other in folder.glob("part_*.lock"):
            if other.name.rpartition("_of_")[2] != f"{part.total}.lock":
                with only_writer(folder, other.name):
                    pass
        yield
