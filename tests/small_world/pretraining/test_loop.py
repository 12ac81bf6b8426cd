"""The loop on a toy task: a resumed run equals an unbroken one, and wrong folders are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from frozenseg.checkpoints.state_dict import read_state
from frozenseg.engine.logger import METRICS_FILE
from frozenseg.errors import UserError
from frozenseg.small_world.pretraining.loop import (
    WEIGHTS,
    Batch,
    PretrainingConfig,
    RunOptions,
    learning_rate,
    train,
)

CONFIG = PretrainingConfig(
    steps=12, batch=4, seed=3, learning_rate=0.05, weight_decay=0.1, warmup=3
)


class Line(Dataset[tuple[Tensor, ...]]):
    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x = torch.randn(2, generator=torch.Generator().manual_seed(index))
        return x, (x @ torch.tensor([2.0, -1.0]))[None]


class LineTask:
    """Fit a line, with noise from the step's generator."""

    def __init__(self, fail_at: int = 0) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.fail_at = fail_at
        self.seen = 0

    def samples(self) -> Line:
        return Line()

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        self.seen += 1
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        x, y = batch
        noise = 0.01 * torch.randn(y.shape, generator=generator)
        return {"total_loss": ((self.model(x) - y + noise) ** 2).mean()}

    def evaluate(self) -> dict[str, float]:
        return {"slope": float(self.model.weight[0, 0])}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()


def run_in(folder: Path) -> RunOptions:
    return RunOptions(
        folder=folder, device=torch.device("cpu"), workers=0, log_period=1, save_period=5
    )


def losses_of(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    return {row["step"]: row["total_loss"] for row in rows if "total_loss" in row}


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(LineTask(), CONFIG, run_in(whole), resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(LineTask(fail_at=8), CONFIG, run_in(stopped), resume=False)
    assert not (stopped / WEIGHTS).exists()
    train(LineTask(), CONFIG, run_in(stopped), resume=True)
    first, second = read_state(whole / WEIGHTS), read_state(stopped / WEIGHTS)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=0)
    assert losses_of(whole) == losses_of(stopped)
    assert list(losses_of(whole)) == list(range(1, 13))
    assert losses_of(whole)[12] < losses_of(whole)[1]


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(1, 13)]
    assert rates[2] == max(rates) == pytest.approx(0.05)
    assert rates[0] == pytest.approx(0.05 / 3)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_a_folder_in_use_and_another_runs_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --resume"):
        train(LineTask(), CONFIG, run_in(tmp_path), resume=True)
    train(LineTask(), CONFIG, run_in(tmp_path), resume=False)
    with pytest.raises(UserError, match="holds a run"):
        train(LineTask(), CONFIG, run_in(tmp_path), resume=False)
    with pytest.raises(UserError, match="resume with the same"):
        train(LineTask(), replace(CONFIG, seed=4), run_in(tmp_path), resume=True)
    with pytest.raises(UserError, match="resume with the same"):
        train(LineTask(), replace(CONFIG, task={"masks": 4}), run_in(tmp_path), resume=True)
    (tmp_path / "checkpoints" / "step_00000012.pt").write_bytes(b"half a file")
    train(LineTask(), CONFIG, run_in(tmp_path), resume=True)  # from the checkpoint before
    assert list(losses_of(tmp_path)) == list(range(1, 13))


def test_a_run_from_before_the_settings_of_a_task_were_written_goes_on(tmp_path: Path) -> None:
    config = replace(CONFIG, task={"masks": 4})
    train(LineTask(), config, run_in(tmp_path), resume=False)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings.pop("task") == {"masks": 4}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    train(LineTask(), config, run_in(tmp_path), resume=True)


def test_a_damaged_line_of_the_metrics_is_no_obstacle(tmp_path: Path, caplog) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(LineTask(fail_at=8), CONFIG, run_in(tmp_path), resume=False)
    with open(tmp_path / METRICS_FILE, "ab") as file:
        file.write(b'{"loss": 1.0}\n\xff\n{"step": 9, "lo')
    train(LineTask(), CONFIG, run_in(tmp_path), resume=True)
    assert "skipping 3 of" in caplog.text
    assert list(losses_of(tmp_path)) == list(range(1, 13))


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    class Overflow(LineTask):
        def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
            found = super().losses(batch, generator)
            return {"total_loss": found["total_loss"] * (1e38 * 1e38 if self.seen == 7 else 1)}

    with pytest.raises(UserError, match="step 7: the loss or gradient is not finite"):
        train(Overflow(), CONFIG, run_in(tmp_path), resume=False)
    train(LineTask(), CONFIG, run_in(tmp_path), resume=True)
    assert list(losses_of(tmp_path)) == list(range(1, 13))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="--steps 0"):
        replace(CONFIG, steps=0)
    for rate in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"--learning-rate {rate}: must be above 0"):
            replace(CONFIG, learning_rate=rate)
    with pytest.raises(UserError, match="--seed -1"):
        replace(CONFIG, seed=-1)
