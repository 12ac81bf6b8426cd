"""The experiment's control, its bookkeeping, and a whole one of two tiny runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from frozenseg.errors import UserError
from frozenseg.small_world.commands import small_world_experiment as experiment
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary
from tests.engine.tiny import TinyRun


def test_names_are_shuffled_within_their_kind(tmp_path: Path) -> None:
    world, training = world_vocabulary(), Vocabulary.packaged("small_world_seen")
    mixed = experiment.shuffled(world, training, seed=0)
    assert sorted(mixed.names) == sorted(world.names)
    assert mixed.is_thing == world.is_thing
    assert mixed.seen(training) == world.seen(training)
    assert all(one != other for one, other in zip(mixed.names, world.names, strict=True))
    assert experiment.shuffled(world, training, seed=1) != mixed
    (tmp_path / "words.txt").write_text(mixed.text())
    assert Vocabulary.from_file(tmp_path / "words.txt") == mixed


def test_arms_differ_by_one_thing_each() -> None:
    options = [
        dict(zip(row[::2], row[1::2], strict=True)) for _, row in experiment.FROZENSEG.arms.values()
    ]
    changes = [
        {key for key in first if first[key] != second[key]}
        for first, second in zip(options[1:], options[2:], strict=False)
    ]
    names = [{key.rpartition(".")[2] for key in change} for change in changes]
    assert names == [
        {"FEATURE_INJECTOR", "SAM_ENCODER_LEVELS"},
        {"SAM_ENCODER_LEVELS"},
        {"SAM_VIEW"},
        {"KEEP_KEY_POSITIONS"},
    ]


def test_an_unknown_arm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--arms z: no such arm"):
        experiment.main(["--arms", "z", "--output", str(tmp_path)])


def test_the_table_states_mean_and_spread() -> None:
    row = {key: [10.0, 20.0, 30.0] for key in experiment.FROZENSEG.metrics}
    text = experiment.table(
        experiment.FROZENSEG, {"a": row, experiment.CONTROL: row | {"PQ-unseen": [1.5]}}
    )
    lines = text.splitlines()
    assert lines[2].startswith("| (a) FC-CLIP (no injectors) | 20.0 ± 10.0 |")
    assert lines[3].startswith("| names shuffled (control) | 20.0 ± 10.0 | 1.5 |")


def test_two_arms_trained_tabulated_and_not_trained_twice(tmp_path, monkeypatch, capsys) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    run = TinyRun(tmp_path)
    monkeypatch.setattr(
        experiment, "world_vocabulary", lambda: Vocabulary.parse("cat; dog; grass", "cat; dog")
    )
    arguments = [
        *("--config-file", str(run.config), "--output", str(tmp_path / "experiment")),
        *("--seeds", "0", "1", "--arms", "a", "f", "--options"),
        *("DATASETS.TRAIN", f"('{run.dataset}',)", "DATASETS.TEST", f"('{run.dataset}',)"),
        *("SOLVER.MAX_ITER", "1", "MODEL.MASK_FORMER.TEST.RECALL_ON", "True"),
    ]
    metrics = ("PQ-seen", "PQ-unseen", "mIoU-seen", "S_Recall@IoU=0.75")
    tiny = replace(experiment.FROZENSEG, metrics={key: key for key in metrics})
    monkeypatch.setitem(experiment.EXPERIMENTS, "frozenseg", tiny)
    assert experiment.main(arguments) == 0
    folder = tmp_path / "experiment"
    found = json.loads((folder / "results.json").read_text())
    assert list(found) == ["a", "f", "shuffled"] and len(found["a"]["PQ-seen"]) == 2
    assert (folder / "table.md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(experiment.train_net, "main", lambda _: pytest.fail("trained again"))
    assert experiment.main(arguments) == 0
    with pytest.raises(UserError, match="holds runs of another recipe or other --options"):
        experiment.main([*arguments, "SOLVER.BASE_LR", "0.5"])


@pytest.mark.parametrize("name", experiment.EXPERIMENTS)
def test_the_plot_has_a_panel_for_every_metric(tmp_path: Path, name: str) -> None:
    of = experiment.EXPERIMENTS[name]
    row = {key: [10.0, 20.0] for key in of.metrics}
    experiment.plot(of, {next(iter(of.arms)): row, experiment.CONTROL: row}, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000


def test_numbers_of_a_second_set_stand_behind_its_name(tmp_path: Path) -> None:
    of = replace(experiment.FUSIONER, metrics={"mIoU": "mIoU", "other mIoU": "of the other"})
    for seed, value in ((0, 1.0), (1, None)):
        folder = tmp_path / f"clip_seed_{seed}"
        folder.mkdir()
        found = {"one": {"summary": {"mIoU": 5.0}}, "other": {"summary": {"mIoU": value}}}
        (folder / "results.json").write_text(json.dumps(found))
    scores = experiment.collect(of, tmp_path, ["clip"], [0, 1])["clip"]
    assert scores["mIoU"] == [5.0, 5.0]
    assert scores["other mIoU"][0] == 1.0 and math.isnan(scores["other mIoU"][1])


def test_fusioners_arms_differ_from_their_controls_by_training_alone() -> None:
    for trained, control in (("clip", "clip0"), ("sam", "sam0")):
        one, other = (experiment.FUSIONER.arms[arm][1] for arm in (trained, control))
        changed = [
            key for key, a, b in zip(one[::2], one[1::2], other[1::2], strict=True) if a != b
        ]
        assert changed == ["MODEL.FUSIONER.VISUAL_WEIGHTS", "MODEL.ALLOW_RANDOM_WEIGHTS"]
