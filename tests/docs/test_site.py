"""The site of the documents is built without a warning, by zensical or by MkDocs."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

BUILDER = next((name for name in ("zensical", "mkdocs") if importlib.util.find_spec(name)), None)


@pytest.mark.slow
@pytest.mark.skipif(
    BUILDER is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="no builder of the documents; install them with: pip install 'frozenseg[docs]'",
)
def test_the_strict_build_passes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # zensical follows no link out of its folder
    (tmp_path / "frozenseg").symlink_to(ROOT / "frozenseg")
    command = [sys.executable, "-m", str(BUILDER), "build", "--strict", "-f", "mkdocs.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "output/site/api/python/index.html").read_text(encoding="utf-8")
    assert "SegmentationResult" in index and "::: frozenseg" not in index
