"""What a run finds in its folder: said, kept, refused or removed."""

import logging
from pathlib import Path

import pytest

from frozenseg.build.output_folder import (
    RESULTS,
    check_places,
    clean,
    refuse_another_run,
    require_same_checkpoint,
    say_what_was_found,
    write_config,
)
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.config import load_config
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path
from tests.checkpoints.test_training import checkpoint


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints", keep=2)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="frozenseg")


def test_resuming_says_what_it_found(tmp_path: Path, checkpoints, caplog) -> None:
    say_what_was_found(None, tmp_path, checkpoints, 9)
    folder = tmp_path / "checkpoints"
    assert caplog.messages == [f"no checkpoint in {folder}: starting at step 0"]
    checkpoints.save(checkpoint(5))
    found = checkpoints.newest()
    caplog.clear()
    say_what_was_found(found, tmp_path, checkpoints, 9)
    say_what_was_found(found, tmp_path, checkpoints, 5)
    path = folder / "step_00000005.pt"
    assert caplog.messages == [
        f"resuming after step 5 of 9 from {path}",
        f"step 5 of 5 was the last, according to {path}: only the results are written",
    ]


def test_processes_that_find_other_checkpoints_do_not_start(
    tmp_path: Path, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On machines without a shared folder only the first one has the checkpoints."""
    checkpoints.save(checkpoint(5))
    found = checkpoints.newest()
    require_same_checkpoint(tmp_path, found)  # of a single process
    gather = "frozenseg.build.output_folder.all_gather_json"
    monkeypatch.setattr(gather, lambda step: [5, step])
    require_same_checkpoint(tmp_path, found)
    message = f"OUTPUT_DIR {tmp_path}: process 1 would resume after step 0, but process 0 after"
    with pytest.raises(UserError, match=f"{message} step 5; all machines must see the same"):
        require_same_checkpoint(tmp_path, None)


def test_a_misspelt_folder_is_told_beside_the_runs_that_are_there(tmp_path: Path, caplog) -> None:
    CheckpointFolder(tmp_path / "baseline" / "checkpoints", keep=2).save(checkpoint(5))
    output = tmp_path / "basline"
    say_what_was_found(None, output, CheckpointFolder(output / "checkpoints", keep=2), 9)
    assert caplog.messages[-1].endswith("starting at step 0 (did you mean baseline?)")


@pytest.mark.parametrize("name", RESULTS)
def test_results_without_checkpoints_are_not_replaced(
    tmp_path: Path, checkpoints, caplog, name: str
) -> None:
    refuse_another_run(tmp_path, checkpoints)
    (tmp_path / name).write_text("of days of work")
    with pytest.raises(UserError, match=f"results of another run \\({name}\\), but no checkpoint"):
        refuse_another_run(tmp_path, checkpoints)
    say_what_was_found(None, tmp_path, checkpoints, 9)
    assert f"{name} there will be replaced" in caplog.text


def test_other_settings_are_said_and_the_first_ones_kept(tmp_path: Path, caplog) -> None:
    for rate in ("0.001", "0.001", "0.002", "0.003"):
        write_config(load_config(None, ["SOLVER.BASE_LR", rate]), tmp_path)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "SOLVER.BASE_LR: 0.001 -> 0.002",
        "SOLVER.BASE_LR: 0.002 -> 0.003",
    ]
    kept = [load_config(tmp_path / f"config.yaml{end}").SOLVER.BASE_LR for end in ("", ".1", ".2")]
    assert kept == [0.003, 0.001, 0.002]


@pytest.mark.parametrize("name", ["metrics.jsonl", "curves.png", "config.yaml", "results.json"])
def test_what_cannot_be_written_is_known_before_the_first_step(
    tmp_path: Path, checkpoints, name: str
) -> None:
    check_places(tmp_path, checkpoints)
    assert not list(tmp_path.iterdir())
    (tmp_path / name).mkdir()
    with pytest.raises(WriteError, match=f"{name}: cannot be written .*it is a folder"):
        check_places(tmp_path, checkpoints)


def test_checkpoints_that_is_no_folder(tmp_path: Path, checkpoints) -> None:
    checkpoints.folder.write_text("")
    with pytest.raises(WriteError, match=r"checkpoints: cannot be written .*it is not a folder"):
        check_places(tmp_path, checkpoints)


@pytest.mark.parametrize("content", [b"\xff{", b"LOG: {WANDB: 2026-02-30}", b"SEED: !!bool x"])
def test_a_damaged_configuration_is_kept_too(tmp_path: Path, caplog, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    write_config(load_config(None, []), tmp_path)
    assert "config.yaml cannot be read" in caplog.text
    assert (tmp_path / "config.yaml.1").read_bytes() == content


def test_what_killed_runs_left_half_written_goes(tmp_path: Path, checkpoints) -> None:
    """Made by the writing itself, so that names follow it; files of others stay."""
    left = [tmp_path / name for name in ("model_final.safetensors", "config.yaml")]
    left += [tmp_path / "checkpoints" / "step_00000003.pt", tmp_path / "pictures" / "0_step_3.jpg"]
    for path in left:
        writing = atomic_path(path)
        half = writing.__enter__()
        half.write_text("half")
        half.rename(half.with_name(half.name + "x"))  # out of reach of its own clearing
        writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        half.with_name(half.name + "x").rename(half)
    (tmp_path / ".bashrc").write_text("mine")
    (tmp_path / "checkpoints" / "notes.pt").write_text("mine")
    clean(tmp_path, checkpoints)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".bashrc", "notes.pt"}
