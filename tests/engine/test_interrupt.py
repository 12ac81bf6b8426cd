"""Signals: what a terminal, a scheduler and a killed parent do to a run, and what is kept."""

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from frozenseg.engine.interrupt import GracefulShutdown, ends_as_by_ctrl_c
from frozenseg.errors import UserError
from tests.engine.test_trainer import start
from tests.engine.tiny import TinyRun

ENDLESS = ("SOLVER.MAX_ITER", "50000", "DATASETS.TEST", "()")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_ends_as_by_ctrl_c(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ends_as_by_ctrl_c():
        signal.raise_signal(number)
        time.sleep(1)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["", "raise ImportError"])
def test_what_an_import_makes_of_ctrl_c_is_still_ctrl_c(
    number: signal.Signals, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module ignores the exception, as some of NumPy's and PyTorch's do, or fails of it."""
    code = f"import signal\ntry:\n    signal.raise_signal({number:d})\nexcept:\n    pass\n{after}"
    (tmp_path / "odd_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_module", raising=False)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ends_as_by_ctrl_c():
        importlib.import_module("odd_module")
        time.sleep(60)
        pytest.fail("the signal is lost")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("error", [UserError, OSError, MemoryError])
def test_errors_of_the_machine_and_the_user_are_told_after_ctrl_c(error: type[Exception]) -> None:
    """E.g. a full disk, where a command has taken Ctrl-C for the end of a camera."""
    with pytest.raises(error), ends_as_by_ctrl_c():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_as_by_ctrl_c(), GracefulShutdown().listening() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_until(true: Callable[[], bool], seconds: float = 240) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


def steps(run: TinyRun, output: str) -> int:
    metrics = run.root / output / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_loses_no_step(run: TinyRun, number: signal.Signals) -> None:
    process = start(run, "out", *ENDLESS, "DATALOADER.NUM_WORKERS", "2")
    assert wait_until(lambda: steps(run, "out") > 2 or process.poll() is not None)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume continues" in said and "Traceback" not in said
    last = run.losses("out")[-1]["step"]
    assert (run.root / "out" / "checkpoints" / f"step_{last:08d}.pt").is_file()
    assert not (run.root / "out" / "run.lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_the_ranks_start_ends_them_as_by_ctrl_c(
    run: TinyRun, number: signal.Signals
) -> None:
    """They import PyTorch at that time. A terminal sends Ctrl-C to the whole group."""
    process = start(run, "out", *ENDLESS, flags=("--num-gpus", "2"))
    try:
        assert wait_until(lambda: len(members(process.pid)) >= 3, 60)
    except AssertionError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted" and "Traceback" not in said
    assert not members(process.pid)


@pytest.mark.slow
def test_ranks_end_with_their_parent_and_the_folder_is_free_again(run: TinyRun) -> None:
    process = start(run, "out", *ENDLESS, flags=("--num-gpus", "2"))
    try:
        assert wait_until(lambda: steps(run, "out") > 2 or process.poll() is not None)
        assert len(members(process.pid)) >= 3
        second = start(run, "out", *ENDLESS, flags=("--resume",))
        _, said = second.communicate(timeout=240)
        assert second.returncode == 2
        assert said.splitlines()[-1].startswith(
            f"error: {run.root / 'out'}: another run is at work"
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_until(lambda: not members(process.pid), 40)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    goes_on = (*ENDLESS, "SOLVER.MAX_ITER", str(run.losses("out")[-1]["step"] + 2))
    resumed = start(run, "out", *goes_on, "SOLVER.STEPS", "()", flags=("--resume",))
    _, said = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, said
    rows = [row["step"] for row in run.losses("out")]
    assert rows == list(range(1, len(rows) + 1))


@pytest.mark.slow
def test_a_killed_data_worker_ends_the_run_with_one_line(run: TinyRun) -> None:
    process = start(run, "out", *ENDLESS, "DATALOADER.NUM_WORKERS", "1")
    assert wait_until(lambda: steps(run, "out") > 2 or process.poll() is not None)
    for worker in members(process.pid):
        if worker != process.pid:
            os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: ")
    assert "a worker process died here" in said.splitlines()[-1]


def members(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
