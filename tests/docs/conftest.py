"""A folder in which the documents' commands run as in a checkout."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from frozenseg.build import families
from frozenseg.small_world.commands import make_small_world
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder: what commands read is linked to the repository, what they write is apart.
    The small world lies in `datasets`, with six scenes a split, enough for a mosaic."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "demo", "frozenseg", "logs", "tools"):
        (folder / name).symlink_to(ROOT / name)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DETECTRON2_DATASETS", raising=False)
        patch.setattr(families, "MODELS", dict(families.MODELS))  # pages add rows
        make_small_world.main(["--output", "datasets/small_world", "--count", "6"])
        yield folder
    os.chdir(before)
