"""`frozenseg batch` with a model: rows, bad images, other settings, exports."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from frozenseg.batch import export
from frozenseg.batch.items import Item
from frozenseg.batch.manifest import Manifest
from frozenseg.commands import batch
from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.errors import UserError
from tests.batch.runs import ROOT, arguments, make_images, rows, shards

pytest.importorskip("pyarrow", reason="pip install pyarrow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over six images: one is noise, one is missing, and the last is in a tar file."""
    folder = tmp_path_factory.mktemp("batch")
    images = make_images(folder / "in", 5)
    (images / "00002.png").write_bytes(b"noise")
    listed = [*(f"0000{number}.png" for number in range(4)), "none.png"]
    (images / "all.txt").write_text("\n".join(listed))
    with tarfile.open(images / "more.tar", "w") as file:
        file.add(images / "00004.png", "00004.png")
    words = (images / "all.txt", images / "more.tar", "--output", folder / "out", "--shard-rows", 4)
    assert batch.main(arguments(*words)) == 1
    return folder


def test_a_row_for_each_image_and_the_reason_of_a_bad_one(folder: Path) -> None:
    found = rows(folder / "out")
    assert [row["id"] for row in found] == list(range(6)) and shards(folder / "out") == 2
    assert "not an image" in found[2]["error"] and "did not exist" in found[4]["error"]
    assert [row["error"] is None for row in found] == [True, True, False, True, False, True]
    good = found[0]
    assert (good["height"], good["width"]) == (64, 64) and good["segments"]
    assert len({row["model_digest"] for row in found}) == 1
    best = max(good["segments"], key=lambda segment: segment["score"])
    assert best["name"] in ("lamp", "wall", "sky") and 0 < best["score"] <= 1
    assert best["segmentation"]["size"] == [64, 64] and best["area"] > 0


def test_the_same_command_goes_on_and_another_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(folder / "out", tmp_path / "out")
    (copy / "shards" / "shard-0000001.parquet").unlink()
    assert batch.main(arguments("--resume", "--output", copy)) == 1
    assert "2 of 6 images" in capsys.readouterr().out and rows(copy) == rows(folder / "out")
    words = ("--resume", "--output", copy)
    with pytest.raises(UserError, match="4 images per shard, now 3; give --shard-rows 4"):
        batch.main(arguments(*words, "--shard-rows", 3))
    assert batch.main(arguments(*words, "--shard-rows", 4)) == 1
    other = arguments(*words)
    other[other.index("--vocabulary") + 1] = "lamp; wall; sky; floor"
    with pytest.raises(UserError, match="made differently .*another vocabulary"):
        batch.main(other)  # though nothing is left to do
    (copy / "shards" / "shard-0000001.parquet").unlink()
    other = arguments(*words)
    other[other.index("--threshold") + 1] = "0.5"
    with pytest.raises(UserError, match="made differently .*threshold 0.0, now 0.5"):
        batch.main(other)
    shutil.move(folder / "in", tmp_path / "in")
    try:
        with pytest.raises(UserError, match="more.tar: can no longer be reached"):
            batch.main(arguments(*words))
    finally:
        shutil.move(tmp_path / "in", folder / "in")
    assert shards(copy) == 1


def test_a_later_run_says_that_images_failed_in_an_earlier_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch.main(arguments("--resume", "--output", folder / "out")) == 1
    line = "; 6 were done before, 2 of them could not be read (their rows say why)\n"
    assert capsys.readouterr().out.endswith(line)


def test_a_folder_or_a_glob_in_a_list_is_one_image_that_cannot_be_read(tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 4)
    (images / "00001.png").rename(images / "0000[1].png")
    (images / "all.txt").write_text("00000.png\n.\n0000[1].png\n00002.png\n")
    words = arguments(images / "all.txt", "--output", tmp_path / "out")
    manifest = Manifest.items

    def items(self: Manifest, shard: int) -> list[Item]:
        (images / "0000[1].png").rename(images / "00001.png")  # which the glob matches
        return manifest(self, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "items", items)
        assert batch.main(words) == 1
    errors = [row["error"] for row in rows(tmp_path / "out")]
    assert [error is None for error in errors] == [True, False, False, True]
    assert "is a folder" in errors[1] and "0000[1].png: no such file" in errors[2]


def test_a_drive_that_drops_out_ends_the_run_and_no_image_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output, answer = make_images(tmp_path / "in", 5), tmp_path / "out", Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".png" and shards(output):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        return answer(path, **options)

    words = arguments(images, "--output", output, "--shard-rows", 2)
    with monkeypatch.context() as drive:
        drive.setattr(Path, "stat", stat)
        line = "00002.png: cannot be reached .Transport endpoint .* give the same command, which co"
        with pytest.raises(UserError, match=line):
            batch.main(words)
    assert shards(output) == 1
    assert batch.main(words) is None
    assert [row["error"] for row in rows(output)] == [None] * 5


def test_exports_hold_every_segment(folder: Path, tmp_path: Path) -> None:
    found = [row for row in rows(folder / "out") if row["error"] is None]
    for form in ("coco", "supervision"):
        words = ["export", str(folder / "out"), "--to", form, "--output", str(tmp_path)]
        assert batch.main(words) is None
    coco = json.loads((tmp_path / "coco.json").read_text())
    count = sum(len(row["segments"]) for row in found)
    assert [image["id"] for image in coco["images"]] == [row["id"] + 1 for row in found]
    assert [entry["id"] for entry in coco["annotations"]] == list(range(1, count + 1))
    assert {entry["image_id"] for entry in coco["annotations"]} <= {1, 2, 4, 6}
    with open(tmp_path / "detections.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == count
    with pytest.raises(UserError, match="instances may overlap"):
        batch.main(["export", str(folder / "out"), "--to", "masks"])


def test_an_export_says_how_many_images_it_holds(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    argv = ["export", str(folder / "out"), "--to", "coco", "--output", str(tmp_path)]
    assert batch.main(argv) is None
    assert capsys.readouterr().out == f"{tmp_path / 'coco.json'}: 4 images\n"
    assert "2 images could not be read and are left out" in caplog.text


def test_an_export_of_a_run_at_work_names_each_image_of_an_annotation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(folder / "out", tmp_path / "out")
    last = run / "shards" / "shard-0000001.parquet"
    last.rename(tmp_path / last.name)
    write = export.write_document

    def write_document(path: Path, start: dict, *, images: Iterable, annotations: Iterable) -> None:
        def listed() -> Iterator[dict]:
            yield from images
            (tmp_path / last.name).rename(last)  # made while the images are written

        write(path, start, images=listed(), annotations=annotations)

    monkeypatch.setattr(export, "write_document", write_document)
    assert batch.main(["export", str(run), "--to", "coco"]) is None
    coco = json.loads((run / "coco.json").read_text())
    assert {a["image_id"] for a in coco["annotations"]} == {i["id"] for i in coco["images"]}


def test_names_are_utf_8_in_a_table_whatever_the_locale(tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 1)
    (images / "00000.png").rename(images / "\u65e5.png")
    assert batch.main(arguments(images, "--output", tmp_path / "out")) is None
    argv = [sys.executable, "-m", "frozenseg", "batch", "export", tmp_path / "out"]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*argv, "--to", "supervision"], cwd=ROOT, env=ascii_only)
    assert done.returncode == 0
    assert "\u65e5.png" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")


def test_masks_are_panoptic_pngs(tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 2)
    words = arguments(images, "--output", tmp_path / "out", "--task", "panoptic")
    place = words.index("--opts")
    del words[words.index("instances") - 1 : words.index("instances") + 1]
    lenient = ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]
    assert batch.main([*words, *lenient]) is None and place
    assert batch.main(["export", str(tmp_path / "out"), "--to", "masks"]) is None
    document = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    for entry, row in zip(document["annotations"], rows(tmp_path / "out"), strict=True):
        ids = read_panoptic_ids(tmp_path / "out" / "panoptic" / entry["file_name"])
        areas = {info["id"]: info["area"] for info in entry["segments_info"]}
        assert areas == {s["id"]: s["area"] for s in row["segments"]}
        assert areas == {i: int((ids == i).sum()) for i in np.unique(ids).tolist() if i}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--vocabulary", "a"], "nothing to segment"),
        (["in", "--resume", "--vocabulary", "a"], "give no inputs with it"),
        (["in", "SEED", "1", "--vocabulary", "a"], "SEED: is a setting, not an input; .* --opts"),
        (["in", "--shard-rows", "0", "--vocabulary", "a"], "must lie in 1-100000"),
        (["in", "--actors", "2", "--vocabulary", "a"], "only applies to --engine ray"),
        (["in", "--wait", "9", "--vocabulary", "a"], "--wait: only applies to --engine ray"),
        (["in", "--engine", "ray", "--wait", "nan", "--vocabulary", "a"], "--wait nan: must be"),
        (["in", "--engine", "ray", "--wait", "-1", "--vocabulary", "a"], "--wait -1: must be"),
        (["in", "--device", "cpu", "SEED", "0"], "--device SEED: use auto, cuda, cuda:1, mps or"),
        (["in"], "name the classes"),
    ],
)
def test_bad_arguments_are_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        batch.main([*words, "--output", str(tmp_path)])
