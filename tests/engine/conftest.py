import pytest
import torch

from tests.engine.tiny import TinyRun


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture
def run(tmp_path, monkeypatch) -> TinyRun:
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for processes that the test starts
    return TinyRun(tmp_path)
