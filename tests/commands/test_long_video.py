"""The demo on a long video: memory is flat, and a run that is killed and goes on equals one run.

logs/video/hour.txt is of an hour at one frame a second: FROZENSEG_SECONDS=3600 pytest -s -m slow,
here, and with a film of it: FROZENSEG_PICTURES=1.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from frozenseg.data.video import video_writer
from tests.commands.test_many_images import MODEL, PICTURES
from tests.faults.processes import Started

pytest.importorskip("av", reason='pip install "frozenseg[video]"')

SECONDS = int(os.environ.get("FROZENSEG_SECONDS", "150"))


def _start(folder: Path, output: Path) -> Started:
    argv = ["demo", "--config-file", "fc_clip_convnext_large"]
    argv += ["--input", str(folder / "a.mp4"), "--output", str(output), "--batch-size", "8"]
    argv += ["--vocabulary", "lamp; cup; sky", "--things", "lamp; cup", "--threshold", "0"]
    argv += [] if PICTURES else ["--no-pictures"]
    return Started([*argv, *MODEL], folder)


def _frames(output: Path) -> int:
    path = output / "predictions" / "lines.jsonl"
    return path.read_bytes().count(b'"image":') if path.exists() else 0


def _watch(run: Started, output: Path) -> list[tuple[int, int]]:
    """Wait for the end of a run; frames and MB on the way."""
    memory = []
    while run.poll() is None:
        memory.append((_frames(output), run.megabytes()))
        time.sleep(0.5)
    assert run.wait() == 0
    return [entry for entry in memory if 0 < entry[0] < SECONDS]


def _digests(output: Path) -> dict[str, str]:
    files = [path for path in sorted(output.rglob("*.*")) if not path.name.startswith(".")]
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_an_hour_of_video(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", fps=1) as append:
        for second in range(SECONDS):
            pixels = np.full((64, 64, 3), 60, np.uint8)
            for way, row in ((1, 15), (-2, 45)):
                cv2.circle(pixels, (way * second % 64, row), 9, (250, 200, 40), -1)
            append(pixels)
    memory = _watch(_start(tmp_path, tmp_path / "whole"), tmp_path / "whole")
    run = _start(tmp_path, tmp_path / "out")
    while run.poll() is None and _frames(tmp_path / "out") < SECONDS // 2:
        time.sleep(0.1)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    done = _frames(tmp_path / "out")
    _watch(_start(tmp_path, tmp_path / "out"), tmp_path / "out")
    assert _digests(tmp_path / "out") == _digests(tmp_path / "whole")
    sys.stdout.write(f"{SECONDS} frames; killed after {done}, gone on with: equal to one run\n")
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        frames, megabytes = memory[int(share * len(memory))]
        sys.stdout.write(f"after {frames} frames: {megabytes} MB\n")
    if len(memory) >= 30:  # else the run was over too soon to tell
        early, late = memory[len(memory) // 3], memory[-2]
        assert late[1] < 1.1 * early[1]
