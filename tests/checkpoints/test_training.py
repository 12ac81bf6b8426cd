"""Checkpoints: what is kept, what is damaged, and that nothing half-written is ever taken."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.checkpoints.random_states import random_state, restore_random_state
from frozenseg.checkpoints.schema import TrainingCheckpoint, by_name
from frozenseg.checkpoints.training import (
    CheckpointFolder,
    load_checkpoint,
)
from frozenseg.errors import UserError, WriteError
from tests.disk import files_end_at


def checkpoint(step: int, best_step: int | None = None) -> TrainingCheckpoint:
    weight = torch.arange(2000.0) + step
    moments = {"exp_avg": torch.zeros(2000), "exp_avg_sq": torch.ones(2000)}
    return TrainingCheckpoint(
        step=step,
        images=2 * step,
        seed=3,
        weights={"a": weight},
        optimizer={
            "state": {0: {"step": torch.tensor(float(step)), **moments}},
            "param_groups": [{"betas": (0.9, 1), "params": [0], "param_names": ["a"]}],
        },
        scaler={},
        average={},
        random_states=[random_state()],
        best={} if best_step is None else {"step": best_step, "score": 1.0, "metric": "PQ"},
    )


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in folder.glob("*.pt"))


def test_round_trip(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.newest() is None
    folder.save(checkpoint(5))
    found = folder.newest()
    assert found is not None
    assert (found[0].step, found[0].images, found[0].seed) == (5, 10, 3)
    assert torch.equal(found[0].weights["a"], checkpoint(5).weights["a"])
    assert found[0].optimizer["param_groups"][0]["betas"] == (0.9, 1)


def test_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 6):
        folder.save(checkpoint(step, best_step=2 if step > 1 else None))
        folder.prove()
    assert steps(tmp_path) == [2, 4, 5]


def test_the_one_before_stays_until_a_step_was_taken(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(checkpoint(1))
    folder.prove()
    folder.save(checkpoint(2))
    assert steps(tmp_path) == [1, 2]
    folder.prove()
    assert steps(tmp_path) == [2]


@pytest.mark.parametrize("part", ["weights", "average", "exp_avg"])
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_neither_written_nor_gone_on_from(
    tmp_path: Path, part: str, number: float, caplog
) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(checkpoint(1))
    bad = checkpoint(2)
    bad.average = {"a": bad.weights["a"].clone()}
    tensors = {"weights": bad.weights, "average": bad.average}
    tensors.get(part, {"a": bad.optimizer["state"][0]["exp_avg"]})["a"][7] = number
    with pytest.raises(UserError, match="step_00000002.pt: not written.* not finite, e.g. a"):
        folder.save(bad)
    assert steps(tmp_path) == [1]
    torch.save(by_name(bad), tmp_path / "step_00000002.pt")  # by an earlier version, say
    found = folder.newest()
    assert found is not None and found[0].step == 1
    assert "not finite" in caplog.text and "falling back" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "foreign"])
def test_damaged_newest_falls_back(tmp_path: Path, damage: str, caplog) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.save(checkpoint(1))
    newest = folder.save(checkpoint(2))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[content.index(torch.tensor(5.0 + 2).numpy().tobytes())] ^= 0xFF
    if damage == "foreign":
        torch.save({"model": torch.zeros(1)}, newest)
    else:
        newest.write_bytes({"cut": content[:1000], "empty": b"", "flipped": content}[damage])
    with caplog.at_level(logging.WARNING, logger="frozenseg"):
        found = folder.newest()
    assert found is not None and found[0].step == 1
    assert str(newest) in caplog.text and "falling back" in caplog.text


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_takes_no_place_of_a_good_one(tmp_path: Path, keep: int) -> None:
    for step in (4, 8):
        CheckpointFolder(tmp_path, keep=keep).save(checkpoint(step))
    (tmp_path / "step_00000008.pt").write_bytes(b"no")
    for step, left in [(6, [4, 6, 8][-keep - 1 :]), (9, [6, 9][-keep:])]:
        folder = CheckpointFolder(tmp_path, keep=keep)  # of a run that is resumed
        found = folder.newest()
        assert found is not None and found[0].step == {6: 4, 9: 6}[step]
        folder.save(checkpoint(step))
        assert folder.readable()[-1].name == f"step_{step:08d}.pt"
        folder.prove()
        assert steps(tmp_path) == left


def test_one_that_was_written_again_is_no_longer_damaged(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(checkpoint(4))
    (tmp_path / "step_00000008.pt").write_bytes(b"no")
    folder.newest()
    assert [path.name for path in folder.readable()] == ["step_00000004.pt"]
    folder.save(checkpoint(8))
    folder.prove()
    assert steps(tmp_path) == [8]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "step_00000001.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="none of the 1 checkpoints can be read"):
        CheckpointFolder(tmp_path, keep=1).newest()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "step_00000001.pt"
    torch.save({"step": Trap()}, path)
    with pytest.raises(UserError):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_full_disk_leaves_the_last_good_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    good = folder.save(checkpoint(1))
    with files_end_at(5000), pytest.raises(WriteError, match="step_00000002.pt: cannot be written"):
        folder.save(checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert load_checkpoint(good).step == 1


def test_random_states_come_back() -> None:
    state = random_state()
    drawn = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    restore_random_state([state], 0)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == drawn
