"""The commands that train the small encoders: bad arguments, and two real steps of each."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch

from frozenseg.build.models import build_model, loaded_model
from frozenseg.checkpoints.state_dict import read_state
from frozenseg.config import load_config
from frozenseg.encoders.clip import build_clip_model
from frozenseg.encoders.sam import build_sam_model
from frozenseg.errors import UserError
from frozenseg.runtime.precision import CHOICES
from frozenseg.small_world.commands import (
    train_small_bert,
    train_small_clip,
    train_small_sam,
    train_small_vit,
)
from frozenseg.small_world.commands.training_arguments import add_run_arguments, config_from
from frozenseg.small_world.pretraining.loop import PretrainingConfig
from frozenseg.small_world.pretraining.without_names import VIT


@pytest.mark.parametrize(
    ("command", "more"),
    [(train_small_clip, []), (train_small_sam, []), (train_small_vit, ["--method", "dino"])],
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--seed", "-2"], "--seed -2"),
        (["--learning-rate", "0"], "--learning-rate 0"),
        (["--workers", "-1"], "--workers -1"),
        (["--test-images", "0"], "--test-images 0"),
        (["--device", "abacus"], "--device abacus"),
        (["--resume"], "leave out --resume"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    command: object, more: list[str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        command.main(["--output", str(tmp_path / "run"), *more, *arguments])
    assert not (tmp_path / "run").exists()


def test_a_share_beyond_the_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--easy-share 1.5"):
        train_small_clip.main(["--output", str(tmp_path), "--easy-share", "1.5"])


def test_negative_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--mosaic-steps -1"):
        train_small_clip.main(["--output", str(tmp_path), "--mosaic-steps", "-1"])


def test_a_run_goes_on_with_its_own_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that only one command has, because they decide its samples or losses."""
    asked: list[dict[str, object]] = []

    def noted(task: object, config: PretrainingConfig, *_: object, **__: object) -> dict:
        asked.append(dict(config.task))
        return {}

    monkeypatch.setattr(train_small_sam, "train", noted)
    monkeypatch.setattr(train_small_vit, "train", noted)
    train_small_sam.main(["--output", str(tmp_path), "--masks", "2"])
    train_small_vit.main(["--output", str(tmp_path), "--method", "moco"])
    assert asked == [{"masks": 2, "rounds": 1}, {"method": "moco"}]


def test_images_of_another_run_are_not_taken_for_mosaics(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "weights.safetensors").touch()
    (tmp_path / "images" / "settings.json").write_text(json.dumps({"steps": 1800}))
    with pytest.raises(UserError, match="images: holds a run with .*resume with the same"):
        train_small_clip.main(["--output", str(tmp_path), "--resume"])


def test_a_run_in_the_place_of_mosaics_is_reported_before_the_images(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError, match="holds a run"):
        train_small_clip.main(["--output", str(tmp_path)])
    assert not (tmp_path / "images").exists()


@pytest.mark.slow
def test_mosaics_follow_images_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_small_clip, "MOSAIC_BATCH", 2)
    run = ["--output", str(tmp_path), "--steps", "1", "--batch", "2", "--test-images", "5"]
    run += ["--workers", "0"]
    train_small_clip.main([*run, "--mosaic-steps", "1"])
    first = read_state(tmp_path / "images" / "weights.safetensors")
    second = read_state(tmp_path / "weights.safetensors")
    assert any((first[name] != value).any() for name, value in second.items())
    shutil.rmtree(tmp_path / "checkpoints")  # as if stopped before the first mosaics
    (tmp_path / "weights.safetensors").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    train_small_clip.main([*run, "--mosaic-steps", "1", "--resume"])
    again = read_state(tmp_path / "weights.safetensors")
    assert all(torch.equal(again[name], value) for name, value in second.items())


@pytest.mark.slow
@pytest.mark.parametrize("command", [train_small_clip, train_small_sam])
def test_two_steps_leave_weights_that_load(
    command: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("frozenseg.small_world.pretraining.sam.AUTOMATIC_IMAGES", 1)
    run = ["--output", str(tmp_path), "--steps", "2", "--batch", "2", "--test-images", "8"]
    run += ["--mosaic-steps", "0"] if command is train_small_clip else []
    command.main([*run, "--workers", "0"])
    model = (
        build_clip_model("frozenseg_small", quick_gelu=False)
        if command is train_small_clip
        else build_sam_model("small")
    )
    model.load_state_dict(read_state(tmp_path / "weights.safetensors"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "total_loss" in row] == [2]
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert shown == set(rows[-1]["evaluation"]["small_world"])


PAIR = ("MODEL.ALLOW_RANDOM_WEIGHTS", "False", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu")


@pytest.mark.parametrize("method", ["moco", "dino"])
@pytest.mark.slow
def test_a_vit_without_names_is_loaded_as_a_visual_encoder_and_goes_on(
    method: str, tmp_path: Path
) -> None:
    run = ["--method", method, "--steps", "2", "--batch", "3", "--test-images", "4"]
    run += ["--workers", "0", "--save-period", "1"]
    train_small_vit.main([*run, "--output", str(tmp_path / "whole")])
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    (stopped / "weights.safetensors").unlink()
    # The checkpoint after the first step is gone; the one after the last leaves nothing to do.
    train_small_vit.main([*run, "--output", str(stopped), "--resume"])
    whole, again = (
        read_state(path / "weights.safetensors") for path in (tmp_path / "whole", stopped)
    )
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    prefix = "MODEL.FUSIONER.VISUAL"
    options = [prefix, method, f"{prefix}_NAME", VIT, *PAIR]
    options += [f"{prefix}_WEIGHTS", str(tmp_path / "whole" / "weights.safetensors")]
    cfg = load_config(Path("small/fusioner_fixed_views"), options)
    model = loaded_model(cfg, torch.device("cpu"))
    state = model.visual.network.state_dict()
    assert state.keys() == whole.keys()
    assert all(torch.equal(state[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_a_bert_without_pictures_is_loaded_as_a_text_encoder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run = ["--output", str(tmp_path), "--steps", "2", "--batch", "3", "--test-sentences", "5"]
    train_small_bert.main([*run, "--workers", "0"])
    options = ["MODEL.FUSIONER.TEXT", "bert", *PAIR]
    options += ["MODEL.FUSIONER.TEXT_WEIGHTS", str(tmp_path / "bert")]
    model = build_model(load_config(Path("small/fusioner_fixed_views"), options))
    trained = read_state(tmp_path / "weights.safetensors")
    for name, value in model.text.model.state_dict().items():
        torch.testing.assert_close(trained[f"bert.{name}"], value)
    assert model.text.encode_text(["a photo of a star.", "an unknown word"]).shape == (2, 128)
    train_small_bert.main([*run, "--workers", "0", "--resume"])  # nothing is left to do


def test_precision_is_named_as_in_all_commands() -> None:
    parser = argparse.ArgumentParser()
    add_run_arguments(parser, steps=1, batch=1, tests=1)
    (option,) = [action for action in parser._actions if action.dest == "precision"]
    assert option.choices is not None and set(option.choices) <= set(CHOICES)
    chosen = config_from(parser.parse_args(["--output", "x"]), weight_decay=0.0).precision
    assert chosen in ("fp32", "bf16")  # "auto" is settled before the first step
