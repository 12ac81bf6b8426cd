"""Runs of `frozenseg batch` on generated images with a tiny model of random weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.batch import read_rows
from frozenseg.devtools.tiny import TINY
from tests.faults.processes import Started

ROOT = Path(__file__).parents[2]
WORDS = "lamp; wall; sky"
MODEL = [
    *("--config-file", "fc_clip_convnext_large", "--batch-size", "8"),
    *("--vocabulary", WORDS, "--things", WORDS, "--task", "instances", "--threshold", "0"),
    *("--opts", *TINY, "MODEL.ALLOW_RANDOM_WEIGHTS", "True", "SEED", "0", "MODEL.DEVICE", "cpu"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
]


def make_images(folder: Path, count: int) -> Path:
    """Write different images of 64 x 64 pixels."""
    folder.mkdir()
    for number in range(count):
        pixels = np.full((64, 64, 3), number % 251, dtype=np.uint8)
        pixels[number % 50 :, number % 40 : number % 40 + 20] = 255 - number % 256
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
    return folder


def arguments(*words: Any) -> list[str]:
    """The arguments of a run: `words`, then the model's."""
    return [*map(str, words), *MODEL]


def start(log: Path, *words: Any) -> Started:
    """Start a run in a process of its own."""
    return Started(["batch", *arguments(*words)], log.parent, log)


def start_command(log: Path, *words: Any, paths: tuple[Path, ...] = ()) -> subprocess.Popen:
    """Start any command with an interpreter of its own. paths: further places of modules."""
    argv = [sys.executable, "-m", "frozenseg", *map(str, words)]
    modules = os.pathsep.join(map(str, [ROOT, *paths]))
    with open(log, "ab") as file:
        return subprocess.Popen(
            argv, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": modules}
        )


def shards(folder: Path) -> int:
    """How many shards a run has made."""
    return len(list((folder / "shards").glob("shard-*.parquet")))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, but for the times."""
    return [{**row, "seconds": None} for row in read_rows(folder)]
