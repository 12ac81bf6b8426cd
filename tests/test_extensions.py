"""Modules of users: what `--import` takes, and one that adds a row to each of the four tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from frozenseg.data.benchmarks import BENCHMARKS, Benchmark, register_benchmark
from frozenseg.errors import UserError
from frozenseg.extensions import imported_extensions, take_extensions
from tests.engine.tiny import TinyRun

REPOSITORY = Path(__file__).resolve().parents[1]

MODULE = """
from dataclasses import replace

import torch
from torch import nn

from frozenseg.build.families import LOSSES, MODELS
from frozenseg.build.fusioner import VISUAL_ENCODERS, VisualEncoder
from frozenseg.data.benchmarks import Benchmark, register_benchmark
from frozenseg.encoders.patches import PatchEncoder
from frozenseg.engine.training_loss import BinaryMaskLoss

register_benchmark(
    "my_set",
    Benchmark(
        tasks=("panoptic", "semantic"),
        reader="panoptic",
        images="data/images",
        annotations="data/panoptic.json",
        labels="data/png",
        evaluators=("semantic",),
    ),
)


class Cells(PatchEncoder):
    channels, stride = 8, 16

    def __init__(self):
        super().__init__()
        self.model = self.freeze(nn.Conv2d(3, 8, 16, 16))

    @property
    def network(self):
        return self.model

    def cells(self, images):
        return self.model(images.pixels / 255)


def none(name, weights):
    from frozenseg.errors import UserError

    raise UserError(f"{name}: has no file")


VISUAL_ENCODERS["cells"] = VisualEncoder(build=lambda name: Cells(), find=none)
MODELS["MyFusioner"] = replace(MODELS["Fusioner"])


class Doubled(BinaryMaskLoss):
    def __call__(self, outputs, targets, normalizers):
        losses = super().__call__(outputs, targets, normalizers)
        return losses | {"loss_mine": 2 * sum(losses.values()).detach()}



def doubled(cfg, model, text, inputs):
    loss = MODELS["Fusioner"].loss(cfg, model, text, inputs)
    loss.__class__, loss.weights = Doubled, {**loss.weights, "loss_mine": 0.0}
    return loss


LOSSES["doubled"] = doubled
"""


@pytest.mark.slow
def test_a_module_adds_to_all_four_tables(tmp_path: Path) -> None:
    """By the installed program, in two processes that it starts."""
    TinyRun(tmp_path)  # its data
    (tmp_path / "my_rows.py").write_text(MODULE)
    options = {
        "MODEL.META_ARCHITECTURE": "MyFusioner",
        "MODEL.LOSS": "doubled",
        "MODEL.ALLOW_RANDOM_WEIGHTS": True,
        "MODEL.DEVICE": "cpu",
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": False,
        "MODEL.FUSIONER.VISUAL": "cells",
        "MODEL.FUSIONER.TEXT_NAME": "frozenseg_tiny",
        "MODEL.FUSIONER.TEXT_WEIGHTS": "",
        "MODEL.FUSIONER.DIM": 32,
        "MODEL.FUSIONER.NUM_HEADS": 2,
        "MODEL.FUSIONER.HIDDEN_DIM": 32,
        "MODEL.FUSIONER.NUM_LAYERS": 2,
        "DATASETS.TRAIN": "('my_set',)",
        "DATASETS.TEST": "('my_set',)",
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.IMAGE_SIZE": 64,
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 96,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "()",
        "LOG.PERIOD": 1,
        "LOG.TENSORBOARD": False,
        "LOG.PICTURES": 0,
        "OUTPUT_DIR": "out",
    }
    words = [str(word) for pair in options.items() for word in pair]
    flags = ["--import", "my_rows", "--num-gpus", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "frozenseg", "train_net", *flags, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DETECTRON2_DATASETS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert sum("loss_mine" in json.dumps(row) for row in rows) == 2
    assert "my_set" in json.loads((tmp_path / "out" / "results.json").read_text())


def test_modules_are_taken_from_the_arguments_and_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("first_of_mine.py").write_text("")
    Path("second_of_mine.py").write_text("")
    arguments = ["--import", "first_of_mine", "--input", "x", "--import=second_of_mine", "KEY", "v"]
    assert take_extensions(arguments) == ["--input", "x", "KEY", "v"]
    assert imported_extensions()[-2:] == ("first_of_mine", "second_of_mine")
    Path("broken_of_mine.py").write_text("x = 1\nundefined\n")
    Path("leaving_of_mine.py").write_text("import sys\nsys.exit(0)\n")
    Path("lines_of_mine.py").write_text("raise ValueError('two\\nlines')\n")
    for given, message in (
        (["--import"], "the name of a module is missing"),
        (["--import", "nowhere_of_mine"], "--import nowhere_of_mine: .*No module named"),
        (["--import", "broken_of_mine"], r"cannot be imported \(NameError: .*broken_of_mine.py:2"),
        (["--import", "leaving_of_mine"], r"cannot be imported \(SystemExit: 0, .*_of_mine.py:2"),
        (["--import", "lines_of_mine"], r"cannot be imported \(ValueError: two lines, .*.py:1\)$"),
    ):
        with pytest.raises(UserError, match=message):
            take_extensions(given)


def test_a_benchmark_is_registered_once() -> None:
    row = Benchmark(images="x")
    register_benchmark("mine", row)
    assert BENCHMARKS["mine"] is row
    for name in ("mine", "a:b"):
        with pytest.raises(UserError, match="the name is taken, or has a colon"):
            register_benchmark(name, row)
    del BENCHMARKS["mine"]
