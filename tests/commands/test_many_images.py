"""The demo on many images: memory is flat, and a run that is killed twice has each image once.

logs/demo/many_images.txt is of 10,000 images: FROZENSEG_IMAGES=10000 pytest -s -m slow, here; and
of 2,000 with a picture of each: FROZENSEG_IMAGES=2000 FROZENSEG_PICTURES=1.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.devtools.tiny import TINY
from tests.faults.processes import Started

IMAGES = int(os.environ.get("FROZENSEG_IMAGES", "200"))
PICTURES = bool(os.environ.get("FROZENSEG_PICTURES"))
MODEL = [
    *TINY,
    *("MODEL.ALLOW_RANDOM_WEIGHTS", "True", "SEED", "0", "MODEL.DEVICE", "cpu"),
    *("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
]


def _start(folder: Path) -> Started:
    argv = ["demo", "--config-file", "fc_clip_convnext_large"]
    argv += ["--input", str(folder / "in"), "--output", str(folder / "out")]
    argv += ["--vocabulary", "lamp; wall; sky", "--threshold", "0", "--batch-size", "8"]
    argv += [] if PICTURES else ["--no-pictures"]
    return Started([*argv, *MODEL], folder)


def _lines(folder: Path) -> int:
    path = folder / "out" / "predictions" / "lines.jsonl"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_killed_twice_each_image_is_there_once_and_memory_is_flat(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(IMAGES):
        pixels = np.full((64, 64, 3), number % 251, dtype=np.uint8)
        pixels[number % 50 :, number % 40 : number % 40 + 20] = 255 - number % 256
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number:05d}.png")
    for share in (1, 2):
        run = _start(tmp_path)
        while run.poll() is None and _lines(tmp_path) < IMAGES * share // 3:
            time.sleep(0.2)
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        sys.stdout.write(f"killed after {_lines(tmp_path)} of {IMAGES}\n")
    start, run = _lines(tmp_path), _start(tmp_path)
    memory: list[tuple[int, int]] = []
    while run.poll() is None:
        memory.append((_lines(tmp_path), run.megabytes()))
        time.sleep(0.2)
    assert run.wait() == 0
    working = [entry for entry in memory if start < entry[0] < IMAGES]
    if len(working) >= 30:  # else the run was over too soon to tell
        tenth = max(1, len(working) // 10)
        first, last = working[2 * tenth : 3 * tenth], working[-tenth:]
        for name, entries in (("early", first), ("late", last)):
            most = max(mb for _, mb in entries)
            sys.stdout.write(f"{name}: from image {entries[0][0]} on at most {most} MB\n")
        assert max(mb for _, mb in last) < 1.15 * max(mb for _, mb in first)

    folder = tmp_path / "out" / "predictions"
    names = [f"{number:05d}.png" for number in range(IMAGES)]
    for kind in ("panoptic", "instances"):
        images = json.loads((folder / f"{kind}.json").read_text())["images"]
        assert [image["file_name"] for image in images] == names
    assert sorted(path.name for path in (folder / "panoptic").iterdir()) == names
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in pictures] == (names if PICTURES else [])
    for path in pictures:
        Image.open(path).load()  # whole
