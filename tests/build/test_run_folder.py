"""Which weights are loaded: those of the folder, before those that its configuration names."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

import frozenseg
from frozenseg.build.run_folder import evaluation_weights, model_config
from frozenseg.checkpoints.state_dict import read_state, write_state
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.errors import UserError
from tests.engine.tiny import TinyRun


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """`one` trained from nothing, and `two` trained on from it."""
    torch.set_num_threads(1)
    run = TinyRun(tmp_path_factory.mktemp("runs"))
    more = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")
    assert main(run.arguments("one", *more)) == 0
    start = str(run.root / "one" / "model_final.safetensors")
    assert main(run.arguments("two", *more, "MODEL.WEIGHTS", start, "SOLVER.BASE_LR", "0.01")) == 0
    return run


def holds(model: torch.nn.Module, path: Path) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], tensor) for name, tensor in read_state(path).items())


def test_a_run_that_was_trained_on_loads_what_it_trained(
    runs: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (runs.root / name / "model_final.safetensors" for name in ("one", "two"))
    assert load_config(second.parent / "config.yaml").MODEL.WEIGHTS == str(first)
    with caplog.at_level(logging.INFO, "frozenseg"):
        model = frozenseg.load(second.parent).model
    assert holds(model, second) and not holds(model, first)
    assert f"weights from {second}" in caplog.messages
    shutil.copytree(second.parent, tmp_path / "moved")
    assert holds(frozenseg.load(tmp_path / "moved").model, second)
    assert holds(frozenseg.load(tmp_path / "moved" / "config.yaml").model, second)
    for chosen in (
        frozenseg.load(second.parent, weights=first),
        frozenseg.load(second.parent, options=["MODEL.WEIGHTS", str(first)]),
        frozenseg.load(second.parent, options={"MODEL": {"WEIGHTS": str(first)}}),
    ):
        assert holds(chosen.model, first)


def test_an_empty_name_of_weights_is_told() -> None:
    with pytest.raises(UserError, match=r"^weights: the name is empty; give a checkpoint"):
        frozenseg.load("small", weights="")


def test_a_folder_without_weights_says_what_was_looked_for(runs: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(runs.root / "two", tmp_path / "two")
    (tmp_path / "two" / "model_final.safetensors").rename(
        tmp_path / "two" / "model_best.safetensors"
    )
    with pytest.raises(UserError) as caught:
        frozenseg.load(tmp_path / "two")
    message = str(caught.value)
    for part in ("no weights in the folder", "model_final.safetensors", "model_best.safetensors",
                 "checkpoints/step_00000001.pt"):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_an_evaluation_takes_what_the_same_command_has_trained(
    runs: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (str(runs.root / name / "model_final.safetensors") for name in ("one", "two"))
    output = str(runs.root / "two")
    config = str(runs.config)

    def chosen(weights: str, options: tuple[str, ...] = (), config: str = config) -> str:
        return evaluation_weights(weights, config=config, options=options, output=output)

    assert chosen(first) == second  # began from it
    assert chosen("") == second
    assert chosen(first, ("MODEL.WEIGHTS", first)) == first
    with caplog.at_level(logging.WARNING, "frozenseg"):
        assert chosen("other.pth") == "other.pth"
    assert "belongs to another run" in caplog.text
    for beside in (runs.root / "one" / "config.yaml", runs.root / "one"):
        assert chosen("other.pth", config=str(beside)) == first
    elsewhere = str(runs.root / "nowhere")
    assert evaluation_weights(first, config=config, options=(), output=elsewhere) == first


def test_eval_only_loads_the_weights_of_its_folder(
    runs: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (str(runs.root / name / "model_final.safetensors") for name in ("one", "two"))
    config = runs.root / "with_start.yaml"
    config.write_text(f"_BASE_: tiny.yaml\nMODEL: {{WEIGHTS: {first}}}\n")
    arguments = runs.arguments("two", flags=("--eval-only",))
    arguments[1] = str(config)
    with caplog.at_level(logging.INFO, "frozenseg"):
        assert main(arguments) == 0
    assert f"weights from {second}" in caplog.messages
    with caplog.at_level(logging.INFO, "frozenseg"):
        folder = ["--config-file", str(runs.root / "two"), "--eval-only"]
        data = ["DATASETS.TEST", f"('{runs.dataset}',)"]
        assert main([*folder, *data, "OUTPUT_DIR", str(runs.root / "scores")]) == 0
    assert caplog.messages.count(f"weights from {second}") == 2


def test_paths_of_a_run_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay in the folder that the training worked in, some levels above the run's own."""
    folder = tmp_path / "project" / "runs" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "project" / "lists").mkdir()
    (tmp_path / "project" / "lists" / "seen.txt").write_text("dog\n")
    (folder / "config.yaml").write_text("DATASETS: {TRAIN_VOCABULARY: lists/seen.txt}\n")
    write_state(folder / "model.safetensors", {"a": torch.ones(1)})
    for place in (tmp_path, tmp_path / "project"):
        monkeypatch.chdir(place)
        found = Path(model_config(folder).DATASETS.TRAIN_VOCABULARY)
        assert found.resolve() == tmp_path / "project" / "lists" / "seen.txt"


def test_models_that_ship_are_named() -> None:
    with pytest.raises(
        UserError, match="smal: no such file, and no recipe in the package; did you mean small"
    ):
        frozenseg.load("smal")
    with pytest.raises(UserError, match=r"known models: small,.*by frozenseg\.from_pretrained"):
        frozenseg.load("somebody/panda")
