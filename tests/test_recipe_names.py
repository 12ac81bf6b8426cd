"""Models and recipes of the package by bare name."""

from pathlib import Path

import pytest

import frozenseg
from frozenseg import recipes
from frozenseg.commands import main
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.recipes import find_config, packaged_recipes


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("convnext_large_eval_ade20k", "coco/frozenseg/convnext_large_eval_ade20k.yaml"),
        ("convnext_large_eval_ade20k.yaml", "coco/frozenseg/convnext_large_eval_ade20k.yaml"),
        ("configs/coco/frozenseg/r50x64.yaml", "coco/frozenseg/r50x64.yaml"),
        ("small/frozenseg", "small/frozenseg.yaml"),
        ("frozenseg", "small/frozenseg.yaml"),
        ("small", "model_zoo/small/config.yaml"),
    ],
)
def test_names(given: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frozenseg").mkdir()  # a folder of that name is no configuration
    monkeypatch.chdir(tmp_path)
    assert find_config(given).as_posix().endswith(f"/{file}")


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_every_recipe_is_read_by_its_name_from_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(packaged_recipes()[name])


def test_a_file_comes_before_a_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frozenseg").write_text("SEED: 41\n")
    monkeypatch.chdir(tmp_path)
    assert frozenseg.load_config("frozenseg").SEED == 41


def test_unknown_and_ambiguous_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file, and no recipe.*did you mean clip_vit_l14"):
        load_config("clip_vit_l4")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").write_text("SEED: 1\n")
    monkeypatch.setattr(recipes, "shipped", lambda name: tmp_path)
    with pytest.raises(UserError, match="same: several have this name: a/same, b/same"):
        load_config("same")
    assert load_config("b/same").SEED == 1


def test_other_names_of_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, message in [("train", "unknown key SEDE"), ("evaluate", "WEIGHTS is empty")]:
        options = ["SEDE", "1"] if name == "train" else ["MODEL.DEVICE", "cpu"]
        monkeypatch.chdir("/")
        monkeypatch.setattr("sys.argv", ["frozenseg", name, *options])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2 and message in capsys.readouterr().err
