"""The engine of Ray gives the rows of the other one, also where driver and actors are killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from frozenseg.batch.items import Item
from frozenseg.batch.manifest import write_manifest
from frozenseg.batch.on_ray import ShardMaker, check_resources
from frozenseg.batch.rows import error_row, write_shard
from frozenseg.batch.worker import Plan
from frozenseg.errors import UserError
from frozenseg.text.vocabulary import Vocabulary
from tests.batch.runs import ROOT, arguments, make_images, rows, shards, start, start_command
from tests.engine.tiny import TinyRun

# $FROZENSEG_RAY may name a folder: pip install --target FOLDER "ray[data]".
PLACE = os.environ.get("FROZENSEG_RAY", "")
HAS_RAY = find_spec("ray") is not None or Path(PLACE, "ray").is_dir() and bool(PLACE)
IMAGES = int(os.environ.get("FROZENSEG_IMAGES", "240"))
SIZE = ("--shard-rows", -(-IMAGES // 20))
RAY = ("--engine", "ray", "--actors", 2)
PROPOSALS = [
    *("TEST.PKL_SAM_MODEL_NAME", "small"),
    *("TEST.SAM_MASKS.WEIGHTS", "frozenseg://small/sam.safetensors"),
    *("TEST.SAM_MASKS.POINTS_PER_SIDE", "4"),
]


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


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not HAS_RAY, reason='pip install "ray[data]"')
def test_driver_and_actor_are_killed_and_the_rows_are_those_of_one_process(
    tmp_path: Path,
) -> None:
    images, output, log = make_images(tmp_path / "in", IMAGES), tmp_path / "out", tmp_path / "log"
    words = ("batch", *arguments(images, "--output", output, *SIZE, *RAY))
    driver = start_command(log, *words, paths=(Path(PLACE),))
    _until(driver, output, 3)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    time.sleep(10)  # Ray's own processes follow their driver
    sys.stdout.write(f"driver killed after {shards(output)} of 20 shards\n")

    driver = start_command(log, *words, paths=(Path(PLACE),))
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


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not HAS_RAY, reason='pip install "ray[data]"')
def test_proposals_are_those_of_one_process(tmp_path: Path) -> None:
    images, log = make_images(tmp_path / "in", 10), tmp_path / "log"

    def masks(name: str, *words: object) -> dict[str, bytes]:
        argv = ["make_sam_masks", "--input", images, "--output", tmp_path / name, *words]
        run = start_command(log, *argv, "--opts", *PROPOSALS, paths=(Path(PLACE),))
        assert run.wait() == 0, log.read_text()
        return {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.npz")}

    alone = masks("alone")
    assert len(alone) == 10 and masks("ray", *RAY) == alone


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(not HAS_RAY, reason='pip install "ray[data]"')
def test_an_evaluation_has_the_scores_of_one_process(tmp_path: Path) -> None:
    run, log = TinyRun(tmp_path), tmp_path / "log"

    def scores(name: str, *words: object) -> str:
        argv = run.arguments(name, "MODEL.DEVICE", "cpu", flags=("--eval-only",))
        process = start_command(log, "train_net", *words, *argv, paths=(Path(PLACE),))
        assert process.wait() == 0, log.read_text()
        return repr(run.results(name))  # NaN too, and every digit

    assert scores("ray", *RAY) == scores("alone")


class Cluster:
    """A Ray of one CPU."""

    @staticmethod
    def cluster_resources() -> dict[str, float]:
        return {"CPU": 1.0}


def test_more_actors_than_the_cluster_holds_are_refused() -> None:
    check_resources(Cluster, {"CPU": 1.0}, None, 0.0)
    with pytest.raises(UserError, match="has 1 CPUs, and 5 are needed"):
        check_resources(Cluster, {"CPU": 5.0}, None, 0.0)
    with pytest.raises(UserError, match="has 0 GPUs, and 2 are needed"):
        check_resources(Cluster, {"CPU": 1.0, "GPU": 2.0}, None, 0.0)


def test_an_actor_says_what_became_of_each_shard(tmp_path: Path) -> None:
    """With the model's own error, which must not start the actor again and again."""
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    plan = Plan(tmp_path, "small", Vocabulary.parse("lamp"))
    made = ShardMaker(plan)({"shard": [3, 4]})
    assert made["shard"] == [3, 4] and made["errors"] == [[], []]
    assert all("no run to continue" in line for line in made["failure"])


def test_an_actor_says_what_failed_in_a_shard_that_is_there(tmp_path: Path) -> None:
    """Made by an actor that was killed before it could say so."""
    pytest.importorskip("pyarrow", reason="pip install pyarrow")
    items = [Item("/a.png", size=3), Item("/b.png", size=3)]
    made = [error_row(0, items[0], "no"), {**error_row(1, items[1], ""), "error": None}]
    maker = ShardMaker(Plan(tmp_path, "small", Vocabulary.parse("lamp")))
    maker.worker = SimpleNamespace(manifest=write_manifest(tmp_path, items, 2))
    write_shard(tmp_path, 0, made, {})
    assert maker({"shard": [0]}) == {"shard": [0], "errors": [["no", ""]], "failure": [""]}


def test_the_cluster_file_of_the_guide_fits_the_schema_of_ray() -> None:
    util = pytest.importorskip(
        "ray.autoscaler._private.util", reason='pip install "ray[data]" jsonschema'
    )
    guide = (ROOT / "docs" / "guides" / "batch.md").read_text()
    cluster = guide.partition("```yaml\n")[2].partition("```")[0]
    util.validate_config(util.prepare_config(yaml.safe_load(cluster)))
