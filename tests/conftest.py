"""Fixtures shared by all tests. Nothing here needs a network, a GPU or pretrained weights."""

import os
from pathlib import Path

import pytest
import torch

REFERENCE = Path(
    os.environ.get(
        "FROZENSEG_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"
    )
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference vectors; tests that need it are skipped where it is absent."""
    if not (REFERENCE / "README.md").is_file():
        pytest.skip(f"no reference vectors at {REFERENCE} (set FROZENSEG_REFERENCE)")
    return REFERENCE


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
