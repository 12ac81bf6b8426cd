"""Fixtures shared by all tests. Nothing here needs a network, a GPU or pretrained weights."""

import os
from pathlib import Path

import pytest
import torch

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.devtools import tiny as devtools_tiny
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, TextEmbeddings

REFERENCE = Path(
    os.environ.get(
        "FROZENSEG_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"
    )
)

# With six decoder layers, each injector is used and the last injection of queries is left out.
TINY_OPTIONS = [
    *devtools_tiny.TINY_OPTIONS,
    "MODEL.DEVICE", "cpu",
    "MODEL.ALLOW_RANDOM_WEIGHTS", "True",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", "4",
    "MODEL.MASK_FORMER.NHEADS", "4",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64",
    "MODEL.MASK_FORMER.DEC_LAYERS", "7",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "10",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "128",
]  # fmt: skip
RESNET_OPTIONS = [
    "MODEL.FROZEN_SEG.CLIP_MODEL_NAME", "frozenseg_tiny_resnet",
    "MODEL.FROZEN_SEG.ENSEMBLE_ON_VALID_MASK", "True",
]  # fmt: skip
FC_CLIP_OPTIONS = [
    "MODEL.FROZEN_SEG.QUERY_INJECTOR", "False",
    "MODEL.FROZEN_SEG.FEATURE_INJECTOR", "False",
]  # fmt: skip

# Test files that take minutes, the longest first; see `pytest_collection_modifyitems`.
LONGEST = (
    "tests/test_small_model.py",
    "tests/test_compile_triton.py",
    "tests/devtools/test_gpu.py",
    "tests/inference/test_scan.py",
    "tests/faults/test_campaign.py",
    "tests/engine/test_trainer.py",
    "tests/engine/test_distributed.py",
    "tests/docs/test_commands.py",
    "tests/export/test_files.py",
    "tests/test_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest.

    With pytest-xdist, each process is given entire files in this order. Otherwise one process might
    get a long file at the end, while the others have nothing left to do.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def build_tiny(*options: str, seed: int = 0) -> FrozenSeg:
    """Build a tiny model with random weights from `seed`; options override `TINY_OPTIONS`."""
    return build_model(load_config(None, [*TINY_OPTIONS, "SEED", str(seed), *options])).eval()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference vectors; tests that need it are skipped if it is absent."""
    if not (REFERENCE / "README.md").is_file():
        pytest.skip(f"no reference vectors at {REFERENCE} (set FROZENSEG_REFERENCE)")
    return REFERENCE


@pytest.fixture(scope="session")
def tiny_model() -> FrozenSeg:
    """A model with ConvNeXt and both injectors; all tests share it and must not change it."""
    return build_tiny()


@pytest.fixture(scope="session")
def tiny_resnet() -> FrozenSeg:
    """A model with ResNet and both injectors; all tests share it and must not change it."""
    return build_tiny(*RESNET_OPTIONS)


@pytest.fixture
def tiny_images() -> ImageBatch:
    """Two images of different sizes, padded to (2, 3, 64, 96)."""
    return ImageBatch.collate([torch.rand(3, 64, 96) * 255, torch.rand(3, 50, 70) * 255], 32)


@pytest.fixture
def tiny_text() -> TextEmbeddings:
    """Three classes with five names; the second is unseen."""
    weight = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1)
    return TextEmbeddings(weight, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([True, False, True]))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache of text vectors."""
    os.environ["FROZENSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
