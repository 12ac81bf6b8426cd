"""A batch run that is killed at random and resumed has each image once, and its memory is flat.

FROZENSEG_IMAGES=20000 pytest -s -m slow, here, does the same with 20,000 images.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.batch.runs import make_images, rows, shards, start
from tests.faults.processes import Started

pytest.importorskip("pyarrow", reason="pip install pyarrow")
IMAGES = int(os.environ.get("FROZENSEG_IMAGES", "240"))
SHARDS = 20


def _killed_at_random(run: Started, output: Path, chance: random.Random) -> None:
    """Kill a run after 1-4 more shards, somewhere in the next one."""
    began, before = time.monotonic(), shards(output)
    until = before + chance.randint(1, 4)
    while run.poll() is None and shards(output) < until:
        began = began if shards(output) > before else time.monotonic()
        time.sleep(0.02)
    time.sleep(chance.random() * (time.monotonic() - began) / (until - before))
    run.kill()
    assert run.wait() == -signal.SIGKILL


def _memory(run: Started, output: Path) -> list[tuple[int, int]]:
    """(shards, MB) until the run ends."""
    found = []
    while run.poll() is None:
        found.append((shards(output), run.megabytes()))
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_killed_three_times_each_image_is_there_once_and_parts_equal_one_run(
    tmp_path: Path,
) -> None:
    images, output, log = make_images(tmp_path / "in", IMAGES), tmp_path / "out", tmp_path / "log"
    size = ("--shard-rows", -(-IMAGES // SHARDS))
    chance = random.Random(int(os.environ.get("FROZENSEG_SEED", "0")))
    for _ in range(3):
        _killed_at_random(start(log, images, "--output", output, *size), output, chance)
        sys.stdout.write(f"killed after {shards(output)} of {SHARDS} shards\n")
    before, run = shards(output), start(log, "--resume", "--output", output)
    memory = [entry for entry in _memory(run, output) if before < entry[0] < SHARDS]
    assert run.wait() == 0, log.read_text()
    if len(memory) >= 30:  # else the run was over too soon to tell
        tenth = len(memory) // 10
        early, late = memory[2 * tenth : 3 * tenth], memory[-tenth:]
        for name, entries in (("early", early), ("late", late)):
            most = max(mb for _, mb in entries)
            sys.stdout.write(f"{name}: from shard {entries[0][0]} on at most {most} MB\n")
        assert max(mb for _, mb in late) < 1.15 * max(mb for _, mb in early)

    found = rows(output)
    assert [row["id"] for row in found] == list(range(IMAGES))
    assert [Path(row["path"]).name for row in found] == [f"{n:05d}.png" for n in range(IMAGES)]
    assert any(row["segments"] for row in found) and not any(row["error"] for row in found)
    assert not list((output / "shards").glob(".*"))
    halves = tmp_path / "halves"
    parts = [
        start(log, images, "--output", halves, *size, "--part", f"{number}/2") for number in (1, 2)
    ]
    assert [part.wait() for part in parts] == [0, 0], log.read_text()
    assert rows(halves) == found
    sys.stdout.write(f"{len(found)} rows, each once; --part 1/2 and 2/2 together give the same\n")
