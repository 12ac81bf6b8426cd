"""An evaluation whose images are shared, e.g. among the machines of a cluster, is that of one."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

import frozenseg
from frozenseg.build.evaluation import Found
from frozenseg.data.prediction_lines import Part
from frozenseg.errors import UserError
from tests.engine.tiny import TinyRun


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    return TinyRun(tmp_path)


def configured(run: TinyRun, output: str) -> CfgNode:
    options = run.arguments(output, "TEST.SAVE_PREDICTIONS", "True")[2:]
    return frozenseg.load_config(str(run.config), options)


def in_parts(work: Callable[[Part], Found], total: int = 6) -> list[Found]:
    """Call the work in a form that was sent, and send what it returns."""
    sent, parts = pickle.loads(pickle.dumps(work)), range(1, total + 1)
    return [pickle.loads(pickle.dumps(sent(Part(number, total)))) for number in parts]


def files(run: TinyRun, output: str) -> dict[Path, bytes]:
    folder = run.root / output / "predictions"
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_parts_give_the_scores_and_the_files_of_one_process(run: TinyRun) -> None:
    frozenseg.evaluate(configured(run, "whole"))
    stray = run.root / "parts" / "predictions" / "data_panoptic" / "panoptic" / "of_before.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"")
    frozenseg.evaluate(configured(run, "parts"), spread=in_parts)  # the last one has no image
    found, expected = run.results("parts"), run.results("whole")
    assert {"panoptic", "semantic"} <= set(found["details"])
    assert repr(found) == repr(expected)  # NaN too, and every digit
    assert files(run, "parts") == files(run, "whole") and len(files(run, "whole")) > 10


def test_machines_with_other_weights_are_refused(run: TinyRun) -> None:
    def one_differs(work: Callable[[Part], Found]) -> list[Any]:
        found = in_parts(work, 2)
        found[1][1][run.dataset]["provenance"]["weights"]["frozen"] = {"CLIP": "another"}
        return found

    with pytest.raises(UserError, match="two machines differ in their weights"):
        frozenseg.evaluate(configured(run, "parts"), spread=one_differs)
    assert not (run.root / "parts" / "results.json").exists()
