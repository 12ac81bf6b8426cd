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

# Six decoder layers, so that each injector acts and the last injection of queries is left out.
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

# Files of minutes, the longest first; see `pytest_collection_modifyitems`.
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
    """What takes longest begins first: a process is given whole files in this order, and none is
    left with a long one at the end, while the others have nothing to do."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def build_tiny(*options: str, seed: int = 0) -> FrozenSeg:
    """A tiny model with the weights of `seed`; options over `TINY_OPTIONS`."""
    return build_model(load_config(None, [*TINY_OPTIONS, "SEED", str(seed), *options])).eval()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference vectors; tests that need it are skipped where it is absent."""
    if not (REFERENCE / "README.md").is_file():
        pytest.skip(f"no reference vectors at {REFERENCE} (set FROZENSEG_REFERENCE)")
    return REFERENCE


@pytest.fixture(scope="session")
def tiny_model() -> FrozenSeg:
    """ConvNeXt and both injectors; shared by all tests, so not to be changed."""
    return build_tiny()


@pytest.fixture(scope="session")
def tiny_resnet() -> FrozenSeg:
    """ResNet and both injectors; shared by all tests, so not to be changed."""
    return build_tiny(*RESNET_OPTIONS)


@pytest.fixture
def tiny_images() -> ImageBatch:
    """Two images of different sizes: (2, 3, 64, 96)."""
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
