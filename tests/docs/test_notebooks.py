"""The notebooks run from an empty folder, and what is committed of their outputs is small."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.docs.notebooks import NOTEBOOKS, run


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    committed = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for found, kept in zip(run(path)["cells"], committed, strict=True):
        kinds = [output["output_type"] for output in found.get("outputs", [])]
        assert kinds == [output["output_type"] for output in kept.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_small(path: Path) -> None:
    assert path.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("nbclient") is None,
    reason="needs nbclient: pip install nbclient ipykernel",
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyter(path: Path, tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
