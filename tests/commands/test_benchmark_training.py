"""The benchmark of a training step: what it needs, and a tiny one on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from frozenseg.commands.benchmark_training import main
from frozenseg.errors import UserError

SMALL = ("--device", "cpu", "--size", "64", "--batch", "2", "--steps", "1", "--tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_what_it_needs() -> None:
    with pytest.raises(UserError, match="needs a CUDA device .*--device cpu --size 64"):
        main([])


def test_tiny_on_the_cpu(tmp_path: Path, capsys) -> None:
    torch.set_num_threads(1)
    options = ["MODEL.MASK_FORMER.DEC_LAYERS", "4", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "100"]
    assert main([*SMALL, "--json", str(tmp_path / "out.json"), *options]) is None
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["model"] == "frozenseg_tiny + SAM tiny" and found["batch"] == 2
    assert found["images_per_second"] == pytest.approx(2 / found["seconds_per_step"], rel=0.01)
    assert found["peak_memory_mib"] > 100
    assert "seconds_per_step" in capsys.readouterr().out


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="--size a multiple of 32"):
        main(["--device", "cpu", "--size", "65", "--tiny"])
