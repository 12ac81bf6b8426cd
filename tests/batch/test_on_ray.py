"""The engine of Ray gives the rows of the other one, also where driver and actors are killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.batch.runs import make_images, rows, shards, start

# $FROZENSEG_RAY may name a folder: pip install --target FOLDER "ray[data]".
PLACE = os.environ.get("FROZENSEG_RAY", "")
HAS_RAY = find_spec("ray") is not None or Path(PLACE, "ray").is_dir() and bool(PLACE)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not HAS_RAY, reason='pip install "ray[data]"'),
]
IMAGES = int(os.environ.get("FROZENSEG_IMAGES", "240"))
SIZE = ("--shard-rows", -(-IMAGES // 20))
RAY = ("--engine", "ray", "--actors", 2)


def _actors() -> list[int]:
    """The processes of our actors, which Ray names by the class."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::") and b"ShardMaker" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _until(run: subprocess.Popen, output: Path, count: int) -> None:
    while run.poll() is None and shards(output) < count:
        time.sleep(0.1)
    assert run.poll() is None, "the run ended before it could be killed"


def test_driver_and_actor_are_killed_and_the_rows_are_those_of_one_process(
    tmp_path: Path,
) -> None:
    images, output, log = make_images(tmp_path / "in", IMAGES), tmp_path / "out", tmp_path / "log"
    words = (images, "--output", output, *SIZE, *RAY)
    driver = start(log, *words, paths=(Path(PLACE),))
    _until(driver, output, 3)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    time.sleep(10)  # Ray's own processes follow their driver
    sys.stdout.write(f"driver killed after {shards(output)} of 20 shards\n")

    driver = start(log, *words, paths=(Path(PLACE),))
    _until(driver, output, shards(output) + 3)
    actors = _actors()
    os.kill(actors[0], signal.SIGKILL)
    sys.stdout.write(f"one of {len(actors)} actors killed after {shards(output)} of 20 shards\n")
    assert driver.wait() == 0, log.read_text()

    alone = start(log, images, "--output", tmp_path / "alone", *SIZE)
    assert alone.wait() == 0, log.read_text()
    found = rows(output)
    assert [row["id"] for row in found] == list(range(IMAGES))
    assert found == rows(tmp_path / "alone")
    sys.stdout.write(f"{len(found)} rows, each once, equal to those of one process\n")


def test_more_actors_than_the_cluster_holds_are_refused() -> None:
    code = (
        "import ray, sys; ray.init(num_cpus=1, include_dashboard=False); "
        "from frozenseg.batch.on_ray import _check; "
        "_check(ray, {'CPU': 5.0}, None, 0.0)"
    )
    modules = os.pathsep.join([str(Path(__file__).parents[2]), PLACE])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": modules, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert "the Ray cluster has 1 CPUs, and 5 are needed" in done.stderr
