from pathlib import Path

import pytest

from frozenseg.devtools.reference.model import load_fill
from frozenseg.errors import UserError

BOUND = 1e-3
"""Of every difference, relative to the largest number of the published side."""


@pytest.fixture(scope="module")
def published(reference: Path) -> Path:
    """The folder of what the published code put out in training, and its Fusioner."""
    folder = reference / "parity" / "data"
    if not folder.is_dir():
        pytest.skip(f"no outputs of the published training at {folder}")
    try:
        load_fill(reference)
    except UserError as error:
        pytest.skip(str(error))
    return folder
