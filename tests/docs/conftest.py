"""A folder in which the documents' commands run as in a checkout."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from frozenseg.build.families import LOSSES, MODELS
from frozenseg.build.fusioner import VISUAL_ENCODERS
from frozenseg.data.benchmarks import BENCHMARKS
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
        make_small_world.main(["--output", "datasets/small_world", "--count", "6"])
        with ExitStack() as stack:
            for table in (BENCHMARKS, LOSSES, MODELS, VISUAL_ENCODERS):  # pages add rows
                stack.enter_context(mock.patch.dict(table))
            yield folder
    os.chdir(before)
