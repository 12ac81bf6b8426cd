import json

import pytest

from frozenseg.devtools.commands.benchmark_deformable import main
from frozenseg.errors import UserError


def test_every_row_compares_both_ways(tmp_path, capsys):
    out = tmp_path / "out.json"
    small = "--levels 3x4 2x2 --heads 2 --channels 4 --points 1 --threads 1 --repeats 2".split()
    main([*small, "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["settings"]["levels"] == ["3x4", "2x2"]
    assert len({row["what"] for row in report["rows"]}) == 3
    for row in report["rows"]:
        assert row["threads"] == 1 and row["ratio_of_best"] > 0
        assert row["ratio"] == pytest.approx(row["loop_s"] / row["ours_s"])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_levels_are_height_x_width():
    with pytest.raises(UserError, match="'100' is not HEIGHTxWIDTH"):
        main(["--levels", "100"])
