"""Runs side by side: tables, classes, curves, and what is no run."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image

from frozenseg.commands.compare import main
from frozenseg.errors import UserError

SET = "coco_panoptic:/data/val/panoptic.json:/data/png:/data/images"


def entry(pq: float, cat: float, dog: float | None, **provenance: Any) -> dict[str, Any]:
    classes = {"7": {"pq": cat / 100}, "9": {"pq": None if dog is None else dog / 100}}
    return {
        "images": 2,
        "summary": {"PQ": pq, "APl": None},
        "details": {
            "panoptic": {"per_class": classes},
            "semantic": {"mIoU": 1.0, "IoU-cat": cat, "ACC-cat": 0.0},
        },
        "classes": {"7": "cat", "9": "dog"},
        "provenance": provenance,
    }


def write_run(folder: Path, found: dict[str, Any] | None, losses: list[float]) -> str:
    folder.mkdir(parents=True)
    if found is not None:
        (folder / "results.json").write_text(json.dumps({SET: found}))
    rows: list[dict[str, Any]] = [
        {"step": step, "total_loss": loss, "loss_ce": loss} for step, loss in enumerate(losses, 1)
    ]
    rows += [{"step": len(losses), "evaluation": {SET: {"PQ": 5.0}}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    noted = {"code": {"version": "1", "commit": "abc"}, "data": {"panoptic.json": "x"}}
    settings = {"SOLVER.BASE_LR": 0.1, "SEED": 1, "OUTPUT_DIR": "a", "DATASETS.TEST": [SET]}
    first = entry(40.0, 50.0, 30.0, **noted, configuration=settings)
    second = entry(41.5, 45.0, 42.0, **noted, configuration={**settings, "SOLVER.BASE_LR": 0.2})
    return [
        write_run(tmp_path / "runs" / "base", first, [3.0, 2.0]),
        write_run(tmp_path / "runs" / "fast", second, [3.0, 1.0, 0.5]),
    ]


def test_scores_settings_and_classes(runs: list[str], capsys) -> None:
    assert main(runs) is None
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "val/panoptic base fast",
        "PQ 40.000 41.500 (+1.500)",
        "APl nan nan",
        "",
        "classes of val/panoptic, fast beside base",
        "PQ, largest gains: dog 30.0 -> 42.0 (+12.0)",
        "PQ, largest losses: cat 50.0 -> 45.0 (-5.0)",
        "IoU, largest losses: cat 50.0 -> 45.0 (-5.0)",
        "",
        "settings that differ base fast",
        "SOLVER.BASE_LR 0.1 0.2",
    ]


def test_json_and_curves(runs: list[str], tmp_path: Path) -> None:
    files = tmp_path / "out.json", tmp_path / "curves.png"
    main([*runs, "--json", str(files[0]), "--curves", str(files[1])])
    found = json.loads(files[0].read_text())
    assert found["runs"] == ["base", "fast"]
    assert found["scores"][SET] == {"PQ": [40.0, 41.5], "APl": [None, None]}
    assert found["settings"] == {"SOLVER.BASE_LR": [0.1, 0.2]}
    assert found["classes"]["fast"][SET]["PQ"]["dog"] == [30.0, 42.0]
    with Image.open(files[1]) as picture:
        assert picture.width > 1000


def test_a_reader_that_has_gone_does_not_cost_the_files(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.print", Mock(side_effect=BrokenPipeError))
    files = tmp_path / "out.json", tmp_path / "curves.png"
    with pytest.raises(BrokenPipeError):
        main([*runs, "--json", str(files[0]), "--curves", str(files[1])])
    assert json.loads(files[0].read_text())["runs"] == ["base", "fast"] and files[1].is_file()


def test_objects_by_both_rules_stand_apart(tmp_path: Path, capsys) -> None:
    runs = []
    for name, coco, lvis in (("a", 0.1, 0.5), ("b", 0.2, 0.5)):
        both = {"instances": {"per_class": {"7": coco}}, "lvis": {"per_class": {"7": lvis}}}
        runs.append(write_run(tmp_path / name, entry(1.0, 1.0, 1.0) | {"details": both}, [1.0]))
    main(runs)
    assert "AP, largest gains: cat 10.0 -> 20.0 (+10.0)" in capsys.readouterr().out


def test_other_data_is_told(tmp_path: Path, capsys) -> None:
    one = write_run(tmp_path / "a", entry(1.0, 1.0, 1.0, data={"p.json": "x"}), [1.0])
    two = write_run(tmp_path / "b", entry(1.0, 1.0, 1.0, data={"p.json": "y"}), [1.0])
    main([one, f"{two}/results.json"])
    shown = capsys.readouterr().out
    assert "the annotations of val/panoptic differ, so its scores are not comparable" in shown
    assert "data p.json" in shown


def test_a_run_of_an_older_version_and_one_at_work(runs: list[str], tmp_path: Path, capsys) -> None:
    older = {key: value for key, value in entry(39.0, 1.0, None).items() if key != "provenance"}
    del older["classes"], older["details"]
    old = write_run(tmp_path / "old", older, [1.0])
    Path(old, "config.yaml").write_text("SOLVER:\n  BASE_LR: 0.3\nSEED: 1\n")
    at_work = write_run(tmp_path / "at_work", None, [1.0])
    main([runs[0], old, at_work])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "PQ 40.000 39.000 (-1.000) 5.000 (-35.000)" in shown
    assert "SOLVER.BASE_LR 0.1 0.3 ?" in shown
    assert not any("was scored with" in line for line in shown)


def test_the_runs_are_not_written_over(runs: list[str]) -> None:
    results = Path(runs[0], "results.json")
    before = results.read_text()
    for given in (runs, [str(results)]):
        for name in ("results.json", "metrics.jsonl"):
            with pytest.raises(UserError, match=f"{name}: is an input too, and would"):
                main([*given, "--json", str(Path(runs[0], name))])
    assert results.read_text() == before
    main([*runs, "--json", str(Path(runs[0], "compared.json"))])


def test_what_is_no_run_ends_in_one_line(runs: list[str], tmp_path: Path) -> None:
    def refused(*paths: str, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            main([runs[0], *paths])
        assert "\n" not in str(caught.value)

    refused(str(tmp_path / "absent"), match="absent: no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), match=r"holds no run, neither results.json nor metrics.jsonl")
    for path in (runs[0], f"{runs[0]}/results.json", f"{runs[1]}/../base"):
        refused(path, match="is given twice")
    refused(runs[1], "--classes", "-1", match="--classes -1: give 0 or more")
    (tmp_path / "none.json").write_text("{}")
    refused(str(tmp_path / "none.json"), match=r"none\.json: holds no evaluation")
    for text in ("[1]", "{", '{"set": {"summary": {"PQ": "x"}}}', '{"set": 1}'):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        refused(str(bad), match=r"bad\.json: ")
    for details in ({"panoptic": {"per_class": 3}}, {"panoptic": {"per_class": {"7": None}}}):
        row = {"summary": {}, "details": details}
        bad.write_text(json.dumps({SET: row}))
        refused(str(bad), match=r"bad\.json: ")
