"""The command that measures tracks prints its table and writes all measures."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import frozenseg
from frozenseg.results.result import SegmentationResult
from frozenseg.small_world.commands.measure_video import main
from frozenseg.structures import PanopticResult, Segment
from frozenseg.text.vocabulary import Vocabulary


def test_a_table_of_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stream(images: Iterable, vocabulary: Vocabulary, *, threshold: float) -> Iterator:
        for image in images:
            ids = np.ones(image.shape[:2], np.int32)
            whole = (0, 0, ids.shape[1], ids.shape[0])
            label = vocabulary.labels.index("grass")
            segment = Segment(1, label, "grass", False, 0.9, ids.size, whole)
            found = PanopticResult(ids, [segment])
            yield SegmentationResult(image, vocabulary, found, None, None)

    model = SimpleNamespace(stream=stream)
    monkeypatch.setattr(frozenseg, "load", lambda *_, **__: contextlib.nullcontext(model))
    argv = [
        "--clips",
        "1",
        "--frames",
        "3",
        "--seeds",
        "0",
        "1",
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert main(argv) is None
    printed = capsys.readouterr().out
    assert "| | without tracks | with tracks |" in printed and "| STQ | 0.0 (0.0-0.0) |" in printed
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["with tracks"]["frames"] == 9
    assert main([*argv[:-2], "--reuse-still", "3"]) is None
