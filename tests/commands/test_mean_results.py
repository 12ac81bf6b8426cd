"""Means over folds: of one evaluation, and of several files."""

import json
import math
from pathlib import Path
from unittest.mock import Mock

import pytest

from frozenseg.commands.mean_results import main
from frozenseg.errors import UserError
from frozenseg.evaluation.means import family_means
from frozenseg.evaluation.results_file import table
from frozenseg.evaluation.runner import Evaluation

FOLDS = {f"pascal5i_fold{i}_val": {"oracle mIoU": 10.0 * i, "whole mIoU": 1.0} for i in range(4)}


def write(path: Path, summaries: dict[str, dict[str, float | None]]) -> str:
    path.write_text(json.dumps({name: {"summary": row} for name, row in summaries.items()}))
    return str(path)


def test_folds_of_one_run_have_a_mean() -> None:
    others = {"coco20i_fold0_val": {"oracle mIoU": 99.0}, "small_world_val": {"mIoU": 50.0}}
    assert family_means(FOLDS | others) == {
        "pascal5i, mean of 4": {"oracle mIoU": 15.0, "whole mIoU": 1.0}
    }
    found = {name: Evaluation(1, row, {}, 0, 0) for name, row in FOLDS.items()}
    assert table(found).splitlines()[-3:] == [
        "pascal5i, mean of 4", "  oracle mIoU   15.000", "  whole mIoU     1.000",
    ]  # fmt: skip
    one = dict(list(found.items())[:1])
    assert "mean" not in table(one)


def test_folds_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        write(tmp_path / f"{i}.json", {name: row}) for i, (name, row) in enumerate(FOLDS.items())
    ]
    assert main([*files, "--json", str(tmp_path / "out.json")]) is None
    assert "pascal5i, mean of 4\n  oracle mIoU   15.000" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {"pascal5i, mean of 4": {"oracle mIoU": 15.0, "whole mIoU": 1.0}}
    with pytest.raises(UserError, match="holds pascal5i_fold0_val, which another file holds"):
        main([files[0], files[0]])
    with pytest.raises(UserError, match="nothing to average"):
        main(files[:1])
    with pytest.raises(UserError, match=r"3\.json: is an input too, and would be overwritten"):
        main([*files, "--json", files[3]])
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(UserError, match=r"bad.json: is not the results.json"):
        main([str(tmp_path / "bad.json")])


def test_a_reader_that_has_gone_does_not_cost_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.print", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        main([write(tmp_path / "all.json", FOLDS), "--json", str(tmp_path / "out.json")])
    assert "pascal5i, mean of 4" in json.loads((tmp_path / "out.json").read_text())


def test_what_is_no_number_has_no_mean(tmp_path: Path) -> None:
    rows = {name: {"oracle mIoU": None} for name in list(FOLDS)[:2]}
    path = write(tmp_path / "r.json", rows)
    assert main([path, "--json", str(tmp_path / "out.json")]) is None
    (row,) = json.loads((tmp_path / "out.json").read_text()).values()
    assert row == {"oracle mIoU": None}
    nan = {name: {"x": math.nan} for name in FOLDS}
    assert math.isnan(family_means(nan)["pascal5i, mean of 4"]["x"])
