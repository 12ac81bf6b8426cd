"""Two processes of the model give the rows of one; where one is killed, nothing is lost."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.batch.runs import make_images, rows, shards, start
from tests.faults.processes import Started

pytest.importorskip("pyarrow", reason="pip install pyarrow")
IMAGES = 120


def _models(run: Started) -> list[int]:
    """The processes of the model that a run has started."""
    tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    return [
        number
        for number in children
        if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_process_ends_the_run_in_one_line_and_the_next_run_makes_the_rest(
    tmp_path: Path,
) -> None:
    images, output, log = make_images(tmp_path / "in", IMAGES), tmp_path / "out", tmp_path / "log"
    words = (images, "--output", output, "--shard-rows", 4, "--device", "cpu", "cpu")
    run = start(log, *words)
    while run.poll() is None and shards(output) < 3:
        time.sleep(0.02)
    first, second = _models(run)
    os.kill(first, signal.SIGKILL)
    assert run.wait() == 2
    said = log.read_text()
    assert "a process of the model was killed" in said.splitlines()[-1]
    assert "Traceback" not in said and not Path(f"/proc/{second}").exists()
    assert 3 <= shards(output) < IMAGES // 4

    assert start(log, *words).wait() == 0, log.read_text()
    alone = tmp_path / "alone"
    assert start(log, images, "--output", alone, "--shard-rows", 4).wait() == 0, log.read_text()
    found = rows(output)
    assert [row["id"] for row in found] == list(range(IMAGES))
    assert found == rows(alone)
