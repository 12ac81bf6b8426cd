"""A training run of seconds: a tiny model on a generated COCO panoptic dataset."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from torch import Tensor

from frozenseg.config import option_pairs
from tests.conftest import TINY_OPTIONS
from tests.data.tiny import dataset_name, write_dataset

CONFIG = yaml.safe_dump(
    {
        **dict(option_pairs(TINY_OPTIONS)),
        "MODEL.PUBLISHED_INIT": False,
        "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS": "",
        "MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS": 1,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
        "MODEL.MASK_FORMER.DEC_LAYERS": 4,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
        "INPUT": {"IMAGE_SIZE": 64, "MIN_SCALE": 0.8, "MAX_SCALE": 1.2},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "STEPS": [3], "CHECKPOINT_PERIOD": 2},
        "SOLVER.EMA": 0.5,
        "LOG": {"PERIOD": 1, "TENSORBOARD": False, "PICTURES": 0},
        "SEED": 7,
    }
)
"""The model of `TINY_OPTIONS`, still smaller, with a training of a few steps; as YAML."""

SIZES = [(60, 80), (64, 64), (50, 70), (80, 60), (64, 90)]
MEASURED = ("images_per_second", "data_seconds", "memory_mib", "time")  # differ from run to run


class TinyRun:
    """Dataset, configuration and output folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "tiny.yaml"
        self.config.write_text(CONFIG)
        write_dataset(root / "data", SIZES)
        self.dataset = dataset_name(root / "data")

    def arguments(self, output: str, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
        """Of `train_net`: flags, then the options KEY VALUE ..."""
        return [
            *("--config-file", str(self.config)),
            *flags,
            *("OUTPUT_DIR", str(self.root / output)),
            *("DATASETS.TRAIN", f"('{self.dataset}',)"),
            *("DATASETS.TEST", f"('{self.dataset}',)"),
            *options,
        ]

    def rows(self, output: str) -> list[dict[str, Any]]:
        """metrics.jsonl without what is measured by a clock."""
        lines = (self.root / output / "metrics.jsonl").read_text().splitlines()
        return [
            {key: value for key, value in json.loads(line).items() if key not in MEASURED}
            for line in lines
        ]

    def losses(self, output: str) -> list[dict[str, Any]]:
        return [row for row in self.rows(output) if "evaluation" not in row]

    def weights(self, output: str) -> dict[str, Tensor]:
        return load_file(self.root / output / "model_final.safetensors")

    def results(self, output: str) -> dict[str, Any]:
        found = json.loads((self.root / output / "results.json").read_text())
        assert list(found) == [self.dataset]
        return {key: found[self.dataset][key] for key in ("images", "summary", "details")}


def assert_same_scores(
    found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]
) -> None:
    """By data set; undefined ones are undefined in both."""
    assert found.keys() == expected.keys()
    for name, scores in found.items():
        assert scores == pytest.approx(expected[name], abs=1e-6, nan_ok=True)
