"""Caches keep what was written and no more than they may; the oldest files go first."""

import os
from pathlib import Path

import torch

from frozenseg.tensor_store import folder_bytes, names_in, prune, read_tensors, write_tensors


def test_a_file_under_another_name_counts_as_damaged(tmp_path: Path, caplog) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(3)})
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert read_tensors(tmp_path / "b.safetensors") is None
    assert "b.safetensors: damaged and left aside (wrong checksum)" in caplog.text


def test_numbers_may_have_any_type_and_shape(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(2.5),
        "half": torch.ones(2, 3).half(),
        "empty": torch.zeros(0, 3),
        "last": torch.rand(1, 4, 5, 6).to(memory_format=torch.channels_last),
    }
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors)
    found = read_tensors(path)
    assert found is not None and sorted(names_in(path)) == sorted(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        assert found[name].stride() == tensor.stride()


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    for age in range(8):
        path = tmp_path / f"{age % 2}" / f"{age}.safetensors"
        write_tensors(path, {"x": torch.ones(1000)})
        os.utime(path, (1000 - age, 1000 - age))
    held = folder_bytes(tmp_path)
    prune(tmp_path, held)
    assert folder_bytes(tmp_path) == held
    prune(tmp_path, held - 1)
    assert sorted(path.stem for path in tmp_path.rglob("*.safetensors")) == ["0", "1", "2"]
