"""Processes that meet, exchange, fail together, and are started by torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from frozenseg.engine.distributed import (
    LaunchConfig,
    _in_group,
    _starting,
    all_gather_json,
    all_sum,
    is_main,
    launch,
    rank,
    world_size,
)
from frozenseg.errors import UserError
from tests.engine.test_trainer import assert_close_losses, assert_same_run
from tests.engine.tiny import TinyRun

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"


def test_one_process_is_a_group_of_itself() -> None:
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert all_gather_json({"a": 1}) == [{"a": 1}]
    assert all_sum(torch.tensor([2.0])).tolist() == [2.0]
    assert launch(len, "abc", LaunchConfig()) == 3


def exchange(folder: str) -> int:
    """Writes what each process sees."""
    mine = ["x" * 10 ** (2 * rank()), rank(), None]  # of different lengths
    seen = [all_gather_json(mine), all_sum(torch.tensor([1.0, rank()])).tolist(), world_size()]
    Path(folder, f"{rank()}.json").write_text(json.dumps(seen))
    return 7 if is_main() else 8


def fail_in_the_second(_: str) -> int:
    if rank() == 1:
        raise UserError("the second has no disk")
    all_sum(torch.zeros(1))  # would wait for ever
    return 0


def die_in_the_second(_: str) -> int:
    if rank() == 1:
        os._exit(9)
    all_sum(torch.zeros(1))
    return 0


def test_a_start_says_for_what_it_waits() -> None:
    assert _starting(LaunchConfig(processes=4), "tcp://here:1") == "starting 4 processes"
    two = LaunchConfig(machines=2, machine=1, url="tcp://first:29500")
    assert _starting(two, two.url) == (
        "machine rank 1 of 2 machines: starting 1 process, which will wait at tcp://first:29500 "
        "until all 2 processes of the run are there"
    )


def test_more_processes_than_gpus_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="process 2 .* has no GPU, because PyTorch finds only 2;"):
        _in_group(len, "", "cpu:gloo,cuda:nccl", "env://")


@pytest.mark.slow
def test_two_processes_exchange(tmp_path: Path) -> None:
    assert launch(exchange, str(tmp_path), LaunchConfig(processes=2)) == 7
    expected = [[["x", 0, None], ["x" * 100, 1, None]], [2.0, 1.0], 2]
    for number in range(2):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "message"),
    [(fail_in_the_second, "the second has no disk"), (die_in_the_second, "exit code 9.*--resume")],
)
def test_a_failure_ends_all(job, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The others fail as well, in what they wait for; that is not shown where one has said why."""
    with pytest.raises(UserError, match=message):
        launch(job, "", LaunchConfig(processes=2))
    assert job is die_in_the_second or "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_under_torchrun(run: TinyRun) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, str(TOOL), *run.arguments("torchrun")], check=True)
    subprocess.run([sys.executable, str(TOOL), *run.arguments("plain")], check=True)
    assert_close_losses(run, "plain", "torchrun")
    assert run.results("plain")["images"] == run.results("torchrun")["images"] == 5


@pytest.mark.slow
def test_two_machines(run: TinyRun) -> None:
    """Each started by its own command, as on two machines; both here, over the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    machines = [
        subprocess.Popen(
            [sys.executable, str(TOOL), *run.arguments("machines", flags=(
                "--num-machines", "2", "--machine-rank", str(number), "--dist-url", address
            ))]
        )
        for number in range(2)
    ]  # fmt: skip
    assert [machine.wait(timeout=240) for machine in machines] == [0, 0]
    subprocess.run([sys.executable, str(TOOL), *run.arguments("plain")], check=True)
    assert_close_losses(run, "plain", "machines")
    assert run.results("plain")["images"] == run.results("machines")["images"] == 5


def _workers(agent: subprocess.Popen) -> list[int]:
    """The processes that an agent of torchrun has started."""
    tasks = Path(f"/proc/{agent.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_machine_comes_back_and_the_run_goes_on(run: TinyRun) -> None:
    """Two machines under torchrun, both here; when a process of one is killed, both start anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    steps = ("SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "[8]")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--max-restarts=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    command = [*torchrun, str(TOOL), *run.arguments("killed", *steps, flags=("--resume",))]
    machines = [subprocess.Popen(command) for _ in range(2)]
    checkpoints = run.root / "killed" / "checkpoints"
    while not list(checkpoints.glob("step_*.pt")):
        assert all(machine.poll() is None for machine in machines)
        time.sleep(0.02)
    (worker,) = _workers(machines[1])
    os.kill(worker, signal.SIGKILL)
    assert [machine.wait(timeout=240) for machine in machines] == [0, 0]
    assert "resuming after step" in (run.root / "killed" / "log.txt").read_text()

    whole = run.arguments("whole", *steps, "MODEL.DEVICE", "cpu", flags=("--num-gpus", "2"))
    subprocess.run([sys.executable, str(TOOL), *whole], check=True)
    assert_same_run(run, "whole", "killed")
