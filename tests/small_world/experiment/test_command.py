"""The experiment's arms, its control, its bookkeeping, and a complete one of tiny runs."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from frozenseg.build.evaluation import evaluate
from frozenseg.checkpoints.training import CheckpointFolder
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.files import write_json
from frozenseg.small_world.commands import small_world_experiment as command
from frozenseg.small_world.experiment import arms, runs
from frozenseg.small_world.experiment.arms import EXPERIMENTS, FROZENSEG, Arm
from frozenseg.small_world.experiment.beginnings import write_beginnings
from frozenseg.small_world.experiment.encoders import encoder_digests
from frozenseg.small_world.experiment.outcome import Outcome
from frozenseg.small_world.experiment.report import report
from frozenseg.small_world.experiment.scenes import SceneCounts
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.text.vocabulary import Vocabulary
from tests.checkpoints.test_training import checkpoint
from tests.engine.tiny import TinyRun


def test_names_are_shuffled_within_their_kind(tmp_path: Path) -> None:
    world, training = world_vocabulary(), Vocabulary.packaged("small_world_seen")
    mixed = command.shuffled(world, training, seed=0)
    assert sorted(mixed.names) == sorted(world.names)
    assert mixed.is_thing == world.is_thing
    assert mixed.seen(training) == world.seen(training)
    assert all(one != other for one, other in zip(mixed.names, world.names, strict=True))
    assert command.shuffled(world, training, seed=1) != mixed
    (tmp_path / "words.txt").write_text(mixed.text())
    assert Vocabulary.from_file(tmp_path / "words.txt") == mixed


PREFIX = "MODEL.FUSIONER."
TOGETHER = (  # keys that may change together as one thing
    {f"{PREFIX}VISUAL_WEIGHTS", "MODEL.ALLOW_RANDOM_WEIGHTS"},
    {
        *(PREFIX + key for key in ("VISUAL", "VISUAL_NAME", "VISUAL_WEIGHTS", "DECODER_DOUBLINGS")),
    },
    {f"{PREFIX}TEXT", f"{PREFIX}TEXT_WEIGHTS"},
    {f"MODEL.FROZEN_SEG.{key}" for key in ("POOLING", "MASK_ADAPTER.NUM_CHANNELS")},
    {"MODEL.SAM_WEIGHTS", "MODEL.ALLOW_RANDOM_WEIGHTS"},
)


@pytest.mark.parametrize("of", EXPERIMENTS.values())
def test_arms_differ_from_those_they_are_compared_with_by_one_thing(of) -> None:
    """The corrected Feature Injector also needs the levels, which nothing else reads, and the mask
    adapter a size. A visual encoder of Fusioner comes with as many doublings as its cells need to
    become as fine as CLIP's."""
    for name, arm in of.arms.items():
        if arm.against is None:
            continue
        mine, other = (
            load_config(of.config, list(row.options)) for row in (arm, of.arms[arm.against])
        )
        changed = {key for key, value in leaves(mine).items() if leaves(other)[key] != value}
        assert len(changed) == 1 or any(changed <= keys for keys in TOGETHER), name


@pytest.mark.parametrize("of", EXPERIMENTS.values())
def test_arms_with_the_weights_of_others_differ_from_them_at_test_alone(of) -> None:
    """They may differ only in keys that training does not read."""
    keys = ("VOID_FACTOR", "VOID_TO_UNSEEN", "CLIP_POOL_TEMPERATURE")  # the last without an adapter
    at_test = {f"MODEL.FROZEN_SEG.{key}" for key in keys} | {"MODEL.MASK_FORMER.TEST.DUPLICATE_IOU"}
    for name, arm in of.arms.items():
        if arm.trained_as is not None:
            other = of.arms[arm.trained_as]
            assert other.trained_as is None
            assert list(of.arms).index(arm.trained_as) < list(of.arms).index(name)
            mine, theirs = (
                leaves(load_config(of.config, list(row.options))) for row in (arm, other)
            )
            assert {key for key in mine if mine[key] != theirs[key]} <= at_test, name


def test_missing_encoders_are_one_clear_line(tmp_path: Path) -> None:
    arm = EXPERIMENTS["fusioner"].arms["moco_bert"].options
    made = tmp_path / "moco" / "weights.safetensors"
    with pytest.raises(UserError, match=f"{made}: .*train_small_vit --method moco --output .*moco"):
        encoder_digests(arm, tmp_path)
    made.parent.mkdir()
    made.touch()
    with pytest.raises(UserError, match=f"{tmp_path}/bert/bert: .*train_small_bert --output"):
        encoder_digests(arm, tmp_path)
    (tmp_path / "bert" / "bert").mkdir(parents=True)
    encoder_digests(arm, tmp_path)
    filled = arms.with_folders(arm, {arms.ENCODERS: tmp_path})
    assert str(made) in filled and not any("{" in option for option in filled)
    arguments = ["fusioner", "--arms", "moco", "--seeds", "0", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="nowhere/moco/.*: no such encoder; make it with"):
        command.main([*arguments, "--encoders", str(tmp_path / "nowhere")])


def test_runs_with_other_encoders_are_not_taken_as_those_with_these(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(command, "_make_runs", lambda *_: True)
    out, file = tmp_path / "out", tmp_path / "one" / "moco" / "weights.safetensors"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    (tmp_path / "one" / "bert" / "bert").mkdir(parents=True)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other" / "moco" / "weights.safetensors").write_text("2")

    def run(arm: str, encoders: str) -> int | None:
        arguments = ["fusioner", "--arms", arm, "--output", str(out)]
        return command.main([*arguments, "--encoders", str(tmp_path / encoders)])

    for arm, encoders in (("clip", "nowhere"), ("moco", "one"), ("moco", "copy")):
        assert run(arm, encoders) == 0
    with pytest.raises(UserError, match=f"{tmp_path}/other/moco/.*: {out} holds runs with another"):
        run("moco", "other")
    assert run("clip_bert", "other") == 0  # the first with this encoder
    (tmp_path / "other" / "bert" / "bert" / "vocab.txt").touch()
    with pytest.raises(UserError, match="other/bert/bert: .* holds runs with another one"):
        run("clip_bert", "other")
    settings = json.loads((out / "settings.json").read_text())
    del settings["encoders"]  # as earlier versions wrote them
    (out / "settings.json").write_text(json.dumps(settings))
    assert run("moco", "other") == 0


def test_both_injectors_work_in_the_recipe() -> None:
    mask = load_config(FROZENSEG.config).MODEL.MASK_FORMER
    layers = range(mask.DEC_LAYERS - 1)
    assert any(number % 3 == mask.SAM_QUERY_FUSE_LAYER for number in layers[:-1])  # not the last
    assert any(number % 3 == mask.SAM_FEATURE_FUSE_LAYER for number in layers)


def leaves(cfg, prefix: str = "") -> dict:
    found = {}
    for key, value in cfg.items():
        if hasattr(value, "items"):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_an_unknown_arm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--arms z: no such arm"):
        command.main(["--arms", "z", "--output", str(tmp_path)])


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_a_cooldown_is_a_share(value: str, capsys) -> None:
    with pytest.raises(SystemExit):
        command.main(["--cooldown", value])
    assert "must be between 0 and 1" in capsys.readouterr().err


def test_a_cooldown_of_no_step_is_refused(tmp_path: Path) -> None:
    given = ["--steps", "2", "100", "--cooldown", "0.1", "--output", str(tmp_path)]
    with pytest.raises(UserError, match=r"--cooldown 0\.1: less than one step of 2; give a larger"):
        command.main(given)
    assert not list(tmp_path.iterdir())


def test_a_score_that_the_options_left_out_costs_no_report(tmp_path: Path) -> None:
    counts = SceneCounts.of_states({}, np.array([True, False]))
    for arm, seed in itertools.product(("a", "b"), (0, 1)):
        folder = tmp_path / f"{arm}_seed_{seed}"
        write_json(folder / "scores_1000.json", {"PQ-seen": 40.0 + seed})
        counts.write(folder / "scenes_1000.npz")
    text = report(Outcome.of_runs("frozenseg", command.collect(tmp_path, FROZENSEG)))
    assert "2 seeds: PQ seen +0.0 (+0.0 to +0.0): undecided; PQ unseen no score in" in text


def test_copies_of_runs_are_no_runs_and_lost_counts_are_one_line(tmp_path: Path) -> None:
    scores, counts = {"PQ-seen": 40.0}, SceneCounts.of_states({}, np.array([True, False]))
    copies = ("a_seed_0.bak", "a_seed_copy_7", "a_seed_007", "a_seed_0_old", "old_d_seed_3")
    for name in ("a_seed_0", "d_seed_0", *copies):
        for file in ("scores_2.json", "scores_2 (1).json", "scores_shuffled_2.json"):
            write_json(tmp_path / name / file, scores)
        counts.write(tmp_path / name / "scenes_2.npz")
        counts.write(tmp_path / name / "scenes_shuffled_2.npz")
    (found,) = command.collect(tmp_path, FROZENSEG).values()
    assert {arm: list(runs) for arm, runs in found.items()} == {"a": [0], "d": [0], "shuffled": [0]}
    path = tmp_path / "a_seed_0" / "scenes_2.npz"
    content = path.read_bytes()
    for damage, said in (
        (lambda: path.write_bytes(content[:100]), "not a complete .npz file"),
        (lambda: np.savez(path, seen=np.ones(2)), "does not hold the counts of scenes"),
        (lambda: np.savez(path, other=np.ones(2)), "does not hold the counts of scenes"),
        (path.unlink, "no such file"),
    ):
        damage()
        with pytest.raises(UserError, match=f"{path}: {said}.*; delete it and the scores beside"):
            command.collect(tmp_path, FROZENSEG)


def test_shared_parts_begin_with_the_same_weights(tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    configs = {
        seed: {
            name: load_config(run.config, [*FROZENSEG.arms[name].options, "SEED", str(seed)])
            for name in ("a", "b", "c", "d")
        }
        for seed in (0, 1)
    }
    for of_seed in configs.values():
        write_beginnings(of_seed, tmp_path)
    states = {name: load_file(tmp_path / f"{name}_seed_0.safetensors") for name in configs[0]}
    # The Query Injector has no weights of its own: it shares a projection, as published.
    assert states["a"].keys() == states["b"].keys() < states["d"].keys() == states["c"].keys()
    for first, second in (("a", "b"), ("b", "d"), ("c", "d")):
        shared = [
            key for key in states[first] if states[first][key].shape == states[second][key].shape
        ]
        assert all(torch.equal(states[first][key], states[second][key]) for key in shared)
        assert first == "c" or len(shared) == len(states[first])
    other = load_file(tmp_path / "a_seed_1.safetensors")
    assert any(not torch.equal(states["a"][key], other[key]) for key in other)


def test_first_weights_that_are_there_stay(tmp_path: Path) -> None:
    """An arm that is added later begins with the weights that the others had, of whatever
    version."""
    run = TinyRun(tmp_path)
    configs = {
        name: load_config(run.config, [*FROZENSEG.arms[name].options, "SEED", "0"])
        for name in ("a", "b", "d")
    }
    paths = write_beginnings({"b": configs["b"]}, tmp_path)
    state = {key: tensor + 1 for key, tensor in load_file(paths["b"]).items()}
    save_file(state, paths["b"])
    paths = write_beginnings(configs, tmp_path)
    for name in configs:
        begun = load_file(paths[name])
        assert all(torch.equal(begun[key], tensor) for key, tensor in state.items())
    assert len(load_file(paths["d"])) > len(state)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Callable[..., list[str]]:
    """Return a function for the command line of an experiment: two arms, five tiny pictures."""
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    run = TinyRun(tmp_path)
    monkeypatch.setattr(
        command, "world_vocabulary", lambda: Vocabulary.parse("cat; dog; grass", "cat; dog")
    )
    keys = ("PQ-seen", "PQ-unseen", "mIoU-seen", "AP-seen", "S_Recall@IoU=0.75")
    arms = {"a": FROZENSEG.arms["a"], "f": Arm("injectors", FROZENSEG.arms["d"].options, "a")}
    experiment = replace(
        FROZENSEG,
        arms=arms,
        more=(),
        usual=("a", "f"),
        metrics={key: key for key in keys},
        control="f",
    )
    monkeypatch.setitem(command.EXPERIMENTS, "frozenseg", experiment)
    sets = f"('{run.dataset}',)"

    def arguments(*given: str) -> list[str]:
        return [
            *("--config-file", str(run.config), "--output", str(tmp_path / "experiment"), *given),
            *("--options", "DATASETS.TRAIN", sets, "DATASETS.TEST", sets),
            *("INPUT.FIXED_VIEWS", "1", "MODEL.MASK_FORMER.TEST.RECALL_ON", "True"),
        ]

    return arguments


def test_proposals_of_the_training_images_are_made(tiny, tmp_path, monkeypatch) -> None:
    arm = FROZENSEG.arms["unnamed"]
    assert arm.against == "annotated" and arms.PROPOSALS in arm.options
    experiment = replace(
        command.EXPERIMENTS["frozenseg"], arms={"unnamed": replace(arm, against=None)}, control=None
    )
    monkeypatch.setitem(command.EXPERIMENTS, "frozenseg", experiment)
    few = ("TEST.PKL_SAM_MODEL_NAME", "small", "TEST.SAM_MASKS.POINTS_PER_SIDE", "2")
    given = [*tiny("--seeds", "0", "--steps", "1", "--arms", "unnamed"), *few]
    assert command.main(given) == 0
    folder = tmp_path / "experiment" / "proposals"
    assert len(list(folder.glob("*.npz"))) == 5
    cfg = load_config(tmp_path / "experiment" / "unnamed_seed_0" / "config.yaml")
    assert cfg.MODEL.MASK_FORMER.UNNAMED_TARGETS == str(folder)


def test_scores_are_those_of_an_evaluation(tiny, tmp_path) -> None:
    """Features from the disk, scene by scene, against `evaluate`."""
    arguments = tiny("--seeds", "0", "--steps", "1", "--arms", "a")
    assert command.main(arguments) == 0
    folder = tmp_path / "experiment" / "a_seed_0"
    scores, counts = runs.read(folder, 1)
    options = [*FROZENSEG.arms["a"].options, *arguments[arguments.index("--options") + 1 :]]
    cfg = load_config(tmp_path / "tiny.yaml", [*options, "OUTPUT_DIR", str(tmp_path / "scored")])
    (expected,) = evaluate(cfg, weights=folder / "model_final.safetensors").values()
    for key, value in scores.items():
        assert value == pytest.approx(expected[key], abs=1e-6, nan_ok=True), key
    assert {"AP", "PQ", "mIoU-seen"} < scores.keys()
    for key, value in counts.scores(np.ones((1, counts.scenes))).items():
        assert value[0] == pytest.approx(expected[key], abs=1e-6, nan_ok=True), key
    assert (tmp_path / "experiment" / "plot.png").is_file()
    assert "| (a) FC-CLIP (no injectors) | 1 |" in (tmp_path / "experiment/report.md").read_text()


@pytest.fixture
def with_void(monkeypatch, tiny) -> Callable[..., list[str]]:
    """Like `tiny`, with an arm that differs from (a) only in the test."""
    experiment = command.EXPERIMENTS["frozenseg"]
    options = (*experiment.arms["a"].options, "MODEL.FROZEN_SEG.VOID_FACTOR", "0")
    arms = {"void": Arm("no void", options, "a", trained_as="a"), **experiment.arms}
    changed = replace(experiment, arms=arms, control=None)
    monkeypatch.setitem(command.EXPERIMENTS, "frozenseg", changed)
    return tiny


def test_an_arm_with_the_weights_of_another(with_void, tmp_path, monkeypatch, caplog) -> None:
    """It is scored after the other, whatever their order; later only with weights of that stage."""
    folder = tmp_path / "experiment"
    models, whole = [], runs.scored

    def scored(cfg):
        frozen = cfg.MODEL.FROZEN_SEG
        models.append((Path(cfg.MODEL.WEIGHTS).parent.name, frozen.VOID_FACTOR))
        return whole(cfg)

    monkeypatch.setattr(runs, "scored", scored)
    assert command.main(with_void("--seeds", "0", "--steps", "1", "--arms", "void", "a")) == 0
    assert models == [("a_seed_0", 1.0), ("a_seed_0", 0.0)]
    files = {path.name for path in (folder / "void_seed_0").iterdir()}
    assert files == {"scores_1.json", "scenes_1.npz"}
    found = json.loads((folder / "results.json").read_text())
    assert list(found["scores"]["1"]) == ["void", "a"]
    assert list(found["gains"]["1"]) == ["void - a"]
    assert "| (void) no void | 1 |" in (folder / "report.md").read_text()

    (folder / "void_seed_0/scores_1.json").unlink()
    assert command.main(with_void("--seeds", "0", "--steps", "1", "--arms", "void")) == 0
    assert models[2:] == [("a_seed_0", 0.0)]
    caplog.set_level("WARNING")
    assert command.main(with_void("--seeds", "0", "--steps", "2", "--arms", "void")) == 0
    assert "void of seed 0: left out, a is not at 2 steps" in caplog.text
    assert command.main(with_void("--seeds", "0", "--steps", "2", "--arms", "a")) == 0
    (folder / "void_seed_0/scores_1.json").unlink()
    caplog.clear()
    assert command.main(with_void("--seeds", "0", "--steps", "1", "--arms", "void")) == 0
    assert "void of seed 0: left out, a is not at 1 steps (any more)" in caplog.text
    assert not (folder / "void_seed_0/scores_1.json").is_file()


def test_settings_from_before_a_key_was_there(tiny, tmp_path) -> None:
    """By default, the new key does what such a run did."""
    arguments = tiny("--seeds", "0", "--steps", "1", "--hours", "0")
    assert command.main(arguments) == 0
    path = tmp_path / "experiment" / "settings.json"
    settings = json.loads(path.read_text())
    lines = settings["configuration"].splitlines()
    kept = [line for line in lines if "VOID_FACTOR" not in line]
    assert len(kept) == len(lines) - 1
    path.write_text(json.dumps({"configuration": "\n".join(kept)}))
    assert command.main(arguments) == 0
    with pytest.raises(UserError, match="holds runs of another recipe"):
        command.main([*arguments, "MODEL.FROZEN_SEG.VOID_FACTOR", "0.5"])


@pytest.mark.slow
def test_two_arms_trained_scored_compared_and_not_trained_twice(
    tiny, tmp_path, monkeypatch, capsys
) -> None:
    folder = tmp_path / "experiment"
    assert command.main(tiny("--seeds", "0", "--steps", "1")) == 0  # the first stage alone
    arguments = tiny("--seeds", "0", "1", "--steps", "1", "2")
    assert command.main(arguments) == 0
    found = json.loads((folder / "results.json").read_text())
    assert list(found["scores"]) == ["1", "2"]
    assert list(found["scores"]["2"]) == ["a", "f", "shuffled"]
    assert list(found["scores"]["2"]["a"]) == ["0", "1"]
    assert list(found["scores"]["2"]["shuffled"]) == ["0"]
    gain = found["gains"]["2"]["f - a"]["mIoU-seen"]
    scores = found["scores"]["2"]
    each = [scores["f"][seed]["mIoU-seen"] - scores["a"][seed]["mIoU-seen"] for seed in "01"]
    assert gain["per_seed"] == pytest.approx(each, abs=0.002)
    assert gain["low"] <= sum(each) / 2 + 0.002 and sum(each) / 2 - 0.002 <= gain["high"]
    text = (folder / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert "| f - a | 2 |" in text and "| (a) FC-CLIP (no injectors) | 2 |" in text
    with Image.open(folder / "plot.png") as picture:
        assert picture.width > 700
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(folder / "results.json", kept)
    (kept / "conclusions.md").write_text("# What it says\n")
    assert command.main(["--report", str(kept / "results.json")]) == 0
    assert (kept / "report.md").read_text() == "# What it says\n\n" + text
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(runs, "scored", lambda *_: pytest.fail("scored again"))
    assert command.main(arguments) == 0
    # Seed 1 is now the first; its weights after one step are gone, so the control is left out.
    assert command.main(tiny("--seeds", "1", "--steps", "1")) == 0
    with pytest.raises(
        UserError, match="holds runs of another recipe, --cooldown or other --options"
    ):
        command.main([*arguments, "SOLVER.BASE_LR", "0.5"])


@pytest.mark.slow
def test_a_cooldown_branches_off_and_leaves_the_training_as_it_is(
    with_void, tmp_path, monkeypatch
) -> None:
    """The scored weights are those of a single training with the same learning rates."""
    weights, whole = [], runs.scored

    def scored(cfg):
        weights.append(load_file(cfg.MODEL.WEIGHTS))
        return whole(cfg)

    monkeypatch.setattr(runs, "scored", scored)
    arguments = with_void("--seeds", "0", "--steps", "2", "4", "--cooldown", "0.75", "--arms", "a")
    assert command.main(arguments) == 0
    folder = tmp_path / "experiment"
    falls = {
        name: load_config(folder / "a_seed_0" / name / "config.yaml").SOLVER
        for name in (".", "cooldown_2", "cooldown_4")
    }
    ends = {name: (list(solver.STEPS), solver.MAX_ITER) for name, solver in falls.items()}
    assert ends == {".": ([4], 4), "cooldown_2": ([2, 3], 4), "cooldown_4": ([4, 6], 7)}
    for number, (steps, end) in enumerate([("(2, 3)", 4), ("(4, 6)", 7)]):
        run = runs.Run(
            folder=tmp_path / f"whole_{end}",
            config=tmp_path / "tiny.yaml",
            options=(
                *FROZENSEG.arms["a"].options,
                *arguments[arguments.index("--options") + 1 :],
                *("SEED", "0", "SOLVER.STEPS", steps),
            ),
            weights=folder / "beginnings" / "a_seed_0.safetensors",
            trained_in=tmp_path / f"whole_{end}",
        )
        assert run.train(end)
        expected = load_file(run.folder / "model_final.safetensors")
        assert weights[number].keys() == expected.keys()
        assert all(torch.equal(weights[number][key], expected[key]) for key in expected)
    # An arm that differs only at test is scored with the branch too, also at an earlier stage.
    assert command.main([name if name != "a" else "void" for name in arguments]) == 0
    assert all(torch.equal(weights[2][key], weights[0][key]) for key in weights[0])
    assert all(torch.equal(weights[3][key], weights[1][key]) for key in weights[1])
    with pytest.raises(UserError, match="holds runs of another recipe, --cooldown or other"):
        command.main(["0.5" if name == "0.75" else name for name in arguments])


@pytest.mark.parametrize("options", [(), ("--cooldown", "0.5")])
def test_weights_are_not_scored_as_those_of_fewer_steps(tiny, tmp_path, options) -> None:
    assert command.main(tiny("--seeds", "0", "--steps", "2", "--arms", "a", *options)) == 0
    with pytest.raises(UserError, match="a_seed_0: trained for 2 steps already, but not .* 1;"):
        command.main(tiny("--seeds", "0", "--steps", "1", "--arms", "a", *options))
    assert not (tmp_path / "experiment" / "a_seed_0" / "scores_1.json").is_file()


def test_a_damaged_checkpoint_of_a_later_step_is_no_training(tmp_path, monkeypatch) -> None:
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    later = [checkpoints.save(checkpoint(step)) for step in (1, 2)][-1]
    monkeypatch.setattr(runs, "train", lambda _, resume: SimpleNamespace(finished=resume))
    run = runs.Run(
        folder=tmp_path,
        config=FROZENSEG.config,
        options=FROZENSEG.arms["a"].options,
        weights=tmp_path / "a.safetensors",
        trained_in=tmp_path,
    )
    with pytest.raises(UserError, match="trained for 2 steps already, but not scored after 1;"):
        run.train(1)
    later.write_bytes(later.read_bytes()[:100])
    assert run.train(1)


def test_no_time_no_run(tiny, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    assert command.main(tiny("--seeds", "0", "--steps", "1", "--hours", "0")) == 0
    assert "the same command goes on" in caplog.text
    assert not list((tmp_path / "experiment").glob("*_seed_*/checkpoints"))
