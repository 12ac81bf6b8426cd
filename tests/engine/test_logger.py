"""The metrics file, its trimming, and the pictures made of it."""

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from frozenseg.checkpoints.random_states import random_state, restore_random_state
from frozenseg.data.dataset import SegmentationDataset
from frozenseg.data.loader import eval_loader
from frozenseg.engine.curves import _of_runs, draw_curves
from frozenseg.engine.logger import TrainingLog, memory_mib, read_metrics

LOSSES = {"total_loss": 3.0, "loss_ce": 1.0, "loss_mask": 0.5, "loss_dice": 0.25, "loss_ce_0": 9.0}


SETTINGS = {"SOLVER": {"BASE_LR": 0.1}}


def log(folder: Path, start_step: int = 0, **more: bool | str) -> TrainingLog:
    steps = {"total_steps": 6, "period": 2, "start_step": start_step}
    return TrainingLog(folder, batch_size=4, settings=SETTINGS, **steps, **more)


def write(folder: Path) -> None:
    ours = log(folder)
    for step in range(1, 7):
        ours.data_ready()
        ours.step(step, LOSSES, {"lr": 0.1})
        if step % 3 == 0:
            ours.evaluation(step, {"set": {"PQ": 10.0 * step}})


def test_a_row_every_period_and_for_each_evaluation(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="frozenseg"):
        write(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], "evaluation" in row) for row in rows] == [
        (2, False), (3, True), (4, False), (6, False), (6, True),
    ]  # fmt: skip
    assert {"total_loss", "lr", "images_per_second", "data_seconds", "memory_mib"} <= rows[0].keys()
    for row in rows:
        datetime.strptime(row["time"], "%Y-%m-%dT%H:%M:%SZ")
    line = next(message for message in caplog.messages if message.startswith("step 2/6"))
    assert "loss 3.000 (ce 1.000 mask 0.500 dice 0.250)" in line and "left 0:00" in line


def test_the_console_shows_medians_and_the_file_the_losses_of_the_step(
    tmp_path: Path, caplog
) -> None:
    ours = log(tmp_path)
    with caplog.at_level(logging.INFO, logger="frozenseg"):
        for step, loss in enumerate([1.0, 100.0, 2.0, 3.0], start=1):
            ours.step(step, {**LOSSES, "total_loss": loss, "loss_ce": loss}, {"lr": 0.1})
    assert [message.split("(")[0].split("  ")[1] for message in caplog.messages] == [
        "loss 50.500 ", "loss 2.500 ",
    ]  # fmt: skip
    assert [row["total_loss"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [100.0, 3.0]


def test_a_resumed_run_drops_what_it_writes_again(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 7, "total')  # killed while writing
    log(tmp_path, start_step=4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 3, 4]
    write(tmp_path)
    log(tmp_path, start_step=6)  # only the last evaluation is made again
    assert [row["step"] for row in read_metrics(path)][-1] == 6
    assert "evaluation" not in read_metrics(path)[-1]


@pytest.mark.parametrize("found", ["5", "null", '{"set": 5}', '{"set": {"PQ": 1}, "b": [1]}'])
def test_a_row_of_damaged_scores_is_skipped(tmp_path: Path, caplog, found: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "total_loss": 1.0}}\n{{"step": 1, "evaluation": {found}}}\n')
    assert read_metrics(path) == [{"step": 1, "total_loss": 1.0}]
    assert "skipping 1 of 2 lines" in caplog.text


def test_a_run_on_the_cpu_leaves_a_gpu_alone(monkeypatch) -> None:
    """PyTorch says that there is one; to use it would fail here, or take its memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert memory_mib() > 1
    state = random_state()
    assert state["cuda"] == []
    restore_random_state([{**state, "cuda": [[0] * 16]}], 0)
    dataset = SegmentationDataset(records=[], categories=None, transform=None, targets=None)
    assert not eval_loader(dataset, num_workers=0).batches.pin_memory


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    ours = log(tmp_path / "none", active=False)
    ours.step(2, LOSSES, {"lr": 0.1})
    ours.evaluation(2, {"set": {"PQ": 1.0}})
    assert not (tmp_path / "none").exists()


def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ours = log(tmp_path, tensorboard=True)
    ours.step(2, LOSSES, {"lr": 0.1})
    ours.evaluation(2, {"set": {"PQ": 55.0}})
    ours.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss_mask")] == [(2, 0.5)]
    assert events.Scalars("set/PQ")[0].value == 55.0
    (text,) = events.Tensors("configuration/text_summary")
    assert b'"BASE_LR": 0.1' in text.tensor_proto.string_val[0]


def test_wandb_gets_the_curves_and_a_resumed_run_goes_on_in_its_own(tmp_path, monkeypatch) -> None:
    calls: list[tuple] = []
    fake = SimpleNamespace(
        init=lambda **arguments: calls.append(("init", arguments)),
        log=lambda values, step: calls.append(("log", step, values)),
        Image=lambda image: image.shape,
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start in (0, 4, 0):
        ours = log(tmp_path, start_step=start, wandb_project="shapes")
        ours.step(start + 2, LOSSES, {"lr": 0.1})
        ours.picture(start + 2, "first", np.zeros((4, 5, 3), np.uint8))
        ours.close()
    begun = [call[1] for call in calls if call[0] == "init"]
    assert {row["project"] for row in begun} == {"shapes"}
    assert [row["config"] for row in begun] == [SETTINGS] * 3 and begun[0]["allow_val_change"]
    assert begun[0]["id"] == begun[1]["id"] != begun[2]["id"]
    logged = [call for call in calls if call[0] == "log"]
    assert logged[0][1] == 2 and logged[0][2]["loss_mask"] == 0.5
    assert logged[1] == ("log", 2, {"first": (4, 5, 3)})
    assert calls.count(("finish",)) == 3
    log(tmp_path / "other", active=False, wandb_project="shapes")
    assert len([call for call in calls if call[0] == "init"]) == 3


def test_curves(tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    draw_curves({"run": read_metrics(tmp_path / "metrics.jsonl")}, picture)
    assert not picture.exists()
    write(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    sizes = []
    for runs in ({"one": rows}, {"one": rows, "two": rows}):
        draw_curves(runs, picture)
        with Image.open(picture) as image:
            assert image.size == (1300, 450)
            sizes.append(len(image.convert("RGB").getcolors(10**6) or []))
    assert min(sizes) > 10  # more than axes


def test_the_legend_hides_no_curve_and_steps_are_whole(tmp_path: Path, monkeypatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure, *_: object, **__: object) -> None:
        figure.draw_without_rendering()
        drawn.append(figure)

    write(tmp_path)
    monkeypatch.setattr(Figure, "savefig", keep)
    draw_curves({"run": read_metrics(tmp_path / "metrics.jsonl")}, tmp_path / "curves.png")
    for axes in drawn[0].axes:
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
        low, high = axes.get_xlim()
        assert all(step == int(step) for step in axes.get_xticks() if low <= step <= high)


def test_folders_may_have_names_that_matplotlib_reads_otherwise(tmp_path, monkeypatch) -> None:
    """A formula that is none, and what it hides from legends."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rows = [{"step": 1, "total_loss": 1.0}, {"step": 2, "total_loss": 0.5}]
    draw_curves({"$a_{$": rows, "_b": rows}, tmp_path / "curves.png")
    drawn[0].draw_without_rendering()
    texts = drawn[0].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["$a_{$: total", "_b: total"]


def test_two_sets_of_ones_own_have_two_labels() -> None:
    one, other = (f"coco_panoptic:/data/{name}/panoptic.json:p:i" for name in ("a", "b"))
    rows = [{"step": 1, "total_loss": 1.0}, {"step": 1, "evaluation": {one: {"PQ": 1.0}}}]
    rows += [{"step": 2, "evaluation": {one: {"PQ": 2.0}, other: {"PQ": 3.0}}}]
    _, scores = _of_runs({"run": rows})
    assert scores == {"a/panoptic PQ": [(1, 1.0), (2, 2.0)], "b/panoptic PQ": [(2, 3.0)]}
