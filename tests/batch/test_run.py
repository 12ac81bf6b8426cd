"""Shards are made once, by whoever comes; what stops a run is one line, and loses nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from frozenseg.batch import read_rows
from frozenseg.batch.export import export_coco, export_masks
from frozenseg.batch.items import Item
from frozenseg.batch.manifest import DIGEST, SHARD_ROWS, Manifest, arrow
from frozenseg.batch.rows import error_row, shard_path, write_shard
from frozenseg.batch.run import Outcome, run
from frozenseg.batch.worker import Plan, Seen, _settle
from frozenseg.build.prediction_settings import settings_of
from frozenseg.build.run_folder import model_config
from frozenseg.data.prediction_lines import WHOLE, Part
from frozenseg.errors import UserError, WriteError
from frozenseg.notes import note
from frozenseg.text.vocabulary import Vocabulary
from tests.batch.runs import rows, shards
from tests.disk import files_end_at

pytest.importorskip("pyarrow", reason="pip install pyarrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
ITEMS = [Item(f"/images/{number}.png", size=number) for number in range(10)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "out", "small", Vocabulary.parse("lamp; wall"))


def settled(plan: Plan) -> dict[str, str]:
    """The digests of the rows of a model without weights."""
    settings = settings_of(model_config(plan.model, options=plan.options))
    return _settle(plan, {**settings, "weights": ""}, None)


def without_model(plan: Plan, numbers: list[int], seen: Seen) -> None:
    """An engine that fails at every image."""
    digests = settled(plan)
    for number in numbers:
        items = ITEMS[3 * number : 3 * number + 3]
        write_shard(
            plan.folder,
            number,
            [error_row(i, item, "no") for i, item in enumerate(items, 3 * number)],
            digests,
        )
        for _ in items:
            seen("no")


def make(
    plan: Plan, items: list[Item] | None = ITEMS, part: Part = WHOLE, size: int = 3
) -> Outcome:
    return run(plan, items, part=part, shard_rows=size, engine=without_model)


def test_each_shard_is_made_once(plan: Plan) -> None:
    first = make(plan, part=Part(1, 2))
    assert (first.total, first.earlier, first.failed, shards(plan.folder)) == (6, 0, 6, 2)
    assert len(first.errors) == 5
    times = {path: path.stat().st_mtime_ns for path in (plan.folder / "shards").iterdir()}
    second = make(plan, None, WHOLE)  # another division, and without listing anew
    assert (second.total, second.earlier, second.failed) == (10, 6, 4)
    assert (first.earlier_failed, second.earlier_failed) == (0, 6)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [row["id"] for row in rows(plan.folder)] == list(range(10))
    assert make(plan).earlier == 10


def test_shards_without_the_manifest_of_their_images_are_refused(plan: Plan) -> None:
    make(plan)
    (plan.folder / "manifest.parquet").rename(plan.folder / "away.parquet")
    others = [item._replace(path=f"/others{item.path}") for item in ITEMS]
    with pytest.raises(UserError, match="manifest.parquet, which lists their images, is missing"):
        make(plan, others)
    (plan.folder / "away.parquet").rename(plan.folder / "manifest.parquet")
    assert make(plan).earlier == 10


def test_shards_of_which_nothing_says_how_they_were_made_are_refused(plan: Plan) -> None:
    make(plan)
    (plan.folder / "about.json").rename(plan.folder / "away.json")
    others = replace(plan, vocabulary=Vocabulary.parse("cup"))
    for items in (ITEMS, None):
        with pytest.raises(
            UserError, match="about.json, which says how they were made, is missing"
        ):
            make(others, items)
    (plan.folder / "away.json").rename(plan.folder / "about.json")
    with pytest.raises(UserError, match="another vocabulary"):
        make(others)
    assert make(plan).earlier == 10


def test_other_seen_classes_are_refused_though_nothing_is_left_to_do(
    plan: Plan, tmp_path: Path
) -> None:
    listed = tmp_path / "seen.txt"
    options = ("DATASETS.TRAIN_VOCABULARY", str(listed))
    listed.write_text("circle")
    make(plan := replace(plan, options=options))
    assert make(plan).earlier == 10
    listed.write_text("zebra")
    with pytest.raises(UserError, match="made differently .seen classes [0-9a-f]{16}, now "):
        make(plan)


def test_a_file_of_others_in_the_place_of_a_shard_is_damaged(plan: Plan) -> None:
    make(plan)
    pyarrow, parquet = arrow()
    parquet.write_table(pyarrow.table({"id": [0, 1, 2]}), shard_path(plan.folder, 0))
    for read in (lambda: make(plan), lambda: rows(plan.folder)):
        with pytest.raises(UserError, match=r"0000000.parquet: damaged .it has no column error,"):
            read()


def test_rows_of_no_run_or_no_column_are_refused(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plan)
    assert [*read_rows(plan.folder, ["id"])] == [{"id": number} for number in range(10)]
    with pytest.raises(ValueError, match="column 'pth': does not exist; did you mean path"):
        read_rows(plan.folder, ["id", "pth"])
    with pytest.raises(FileNotFoundError, match="holds no run of frozenseg batch"):
        read_rows(plan.folder / "shards")
    monkeypatch.setenv("HOME", str(plan.folder.parent))
    assert len([*read_rows(f"~/{plan.folder.name}")]) == 10


def test_a_segment_without_a_score_has_none_in_an_export(plan: Plan, tmp_path: Path) -> None:
    code = {"size": [1, 2], "counts": "02"}
    segment = {"id": 1, "category_id": 2, "name": "wall", "isthing": 0, "area": 2}
    segment |= {"bbox": [0, 0, 2, 1], "segmentation": code}
    row = {"id": 0, "path": "a.png", "height": 1, "width": 2, "segments": [segment]}
    write_shard(plan.folder, 0, [row], {})
    about = {"categories": [], "model": "", "settings": {}, "task": "panoptic"}
    (plan.folder / "about.json").write_text(json.dumps(about))
    for write in (export_coco, export_masks):
        assert "score" not in write(plan.folder, tmp_path).read_text()


def test_changed_images_are_refused_unless_the_manifest_is_resumed(plan: Plan) -> None:
    with pytest.raises(UserError, match="no such file, so there is no run to continue"):
        make(plan, None)
    make(plan)
    with pytest.raises(UserError, match=r"the images have changed .* \(10 then, 9 now"):
        make(plan, ITEMS[1:])
    with pytest.raises(UserError, match="3 images per shard, now 4; give --shard-rows 3"):
        make(plan, size=4)
    with pytest.raises(UserError, match="no image among the inputs"):
        make(plan, [])
    assert make(plan, None).earlier == 10


def test_files_with_other_times_are_counted(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    make(plan)
    touched = [ITEMS[0], *(item._replace(mtime_ns=9) for item in ITEMS[1:])]
    line = "manifest.parquet: 9 of 10 images have other modification times than when it was made"
    for part in (Part(1, 2), Part(2, 2)):
        note.cache_clear()
        caplog.clear()
        assert make(plan, touched, part).failed == 0
        assert line in caplog.text
    caplog.clear()
    assert make(plan).earlier == 10
    assert make(plan, None).earlier == 10
    assert "modification times" not in caplog.text


def test_a_manifest_of_an_older_version_has_no_times(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    make(plan)
    path = plan.folder / "manifest.parquet"
    manifest, table = Manifest(plan.folder), parquet.read_table(path)
    old = [f"Item(path={i.path!r}, archive='', offset=0, size={i.size})\n" for i in ITEMS]
    assert manifest.digest == sha256("".join(old).encode()).hexdigest()
    about = {DIGEST: manifest.digest, SHARD_ROWS: "3"}
    table = table.drop_columns(["mtime_ns"]).replace_schema_metadata(about)
    parquet.write_table(table, path, row_group_size=3)
    assert Manifest(plan.folder).items(3) == ITEMS[9:]
    touched = [item._replace(mtime_ns=9) for item in ITEMS]
    assert make(plan, None).earlier == make(plan, touched).earlier == 10
    assert "modification times" not in caplog.text
    assert Manifest(plan.folder).items(3) == touched[9:]


def test_settings_that_are_none_are_no_run(plan: Plan) -> None:
    make(plan)
    about = {"categories": [], "model": "", "settings": [], "task": "panoptic"}
    (plan.folder / "about.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="holds no run of frozenseg batch .*its settings are not"):
        make(plan)


def test_a_damaged_shard_is_named_and_made_again(plan: Plan) -> None:
    make(plan)
    path = shard_path(plan.folder, 2)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"shard-0000002.parquet: damaged .* delete it"):
        make(plan)
    path.unlink()
    assert make(plan).earlier == 7
    middle = bytearray(path.read_bytes())
    middle[60] ^= 255
    path.write_bytes(middle)
    with pytest.raises(UserError, match="shard-0000002.parquet: damaged"):
        rows(plan.folder)


def test_images_that_failed_earlier_are_counted(plan: Plan) -> None:
    def half(plan: Plan, numbers: list[int], seen: Seen) -> None:
        """An engine that fails at every second image."""
        for number in numbers:
            found = [error_row(i, item, "no") for i, item in enumerate(ITEMS[:4])]
            found[0]["error"] = found[2]["error"] = None
            write_shard(plan.folder, number, found, settled(plan))

    for earlier in (0, 4):
        outcome = run(plan, ITEMS[:4], part=WHOLE, shard_rows=4, engine=half)
        assert (outcome.earlier, outcome.earlier_failed) == (earlier, earlier / 2)
        assert outcome.failed == 0 and outcome.errors == []


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(plan: Plan) -> None:
    make(plan, part=Part(1, 2))
    with files_end_at(1000), pytest.raises(WriteError, match="cannot be written"):
        make(plan, None)
    assert shards(plan.folder) == 2 and not list((plan.folder / "shards").glob(".*"))
    assert make(plan, None).earlier == 6


@pytest.fixture
def other_run(plan: Plan) -> Iterator[None]:
    """Another process that makes part 1 of 2."""
    plan.folder.mkdir()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, plan.folder / "part_1_of_2.lock"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.stdin.close()


@pytest.mark.usefixtures("other_run")
def test_two_runs_of_one_part_do_not_meet(plan: Plan) -> None:
    for part in (Part(1, 2), WHOLE, Part(1, 3)):
        with pytest.raises(UserError, match="another run is at work there"):
            make(plan, part=part)
    assert make(plan, part=Part(2, 2)).total == 4
