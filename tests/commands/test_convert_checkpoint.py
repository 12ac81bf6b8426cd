"""Checkpoints through the command, both ways, on a tiny model."""

import os
from pathlib import Path

import pytest
import torch

from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import model_state, read_state, trainable_state
from frozenseg.commands.convert_checkpoint import main
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.recipes import packaged_config
from tests.conftest import FC_CLIP_OPTIONS, TINY_OPTIONS, build_tiny


@pytest.fixture
def model() -> FrozenSeg:
    return build_tiny(seed=4)


@pytest.fixture
def released(tmp_path: Path, model: FrozenSeg) -> Path:
    """A published checkpoint, frozen parts and training state included."""
    path = tmp_path / "released.pth"
    state = {**to_published(model_state(model)), "criterion.empty_weight": torch.ones(134)}
    torch.save({"model": state, "iteration": 7}, path)
    return path


def equal(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == expected.keys() and all(
        torch.equal(ours[name], expected[name]) for name in expected
    )


def test_published_to_ours_and_back(
    tmp_path: Path, model: FrozenSeg, released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert not main([str(released), str(ours), *TINY_OPTIONS])
    assert equal(read_state(ours), trainable_state(model))
    assert f"{ours}: {len(trainable_state(model))} entries" in capsys.readouterr().out
    main([str(ours), str(back), *TINY_OPTIONS])
    assert equal(read_state(back), to_published(trainable_state(model)))


def test_frozen_parts_are_kept_on_request(tmp_path: Path, model: FrozenSeg, released: Path) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    main([str(released), str(ours), "--keep-frozen", *TINY_OPTIONS])
    assert equal(read_state(ours), model_state(model))
    main(["--keep-frozen", str(ours), str(back), *TINY_OPTIONS])
    published = torch.load(released, weights_only=True)["model"]
    del published["criterion.empty_weight"]
    assert equal(read_state(back), published)


def test_frozen_parts_that_are_not_there(tmp_path: Path, released: Path) -> None:
    ours, target = tmp_path / "ours.safetensors", tmp_path / "whole.safetensors"
    main([str(released), str(ours), *TINY_OPTIONS])
    with pytest.raises(UserError, match=r"ours\.safetensors: holds no weights of clip, sam"):
        main(["--keep-frozen", str(ours), str(target), *TINY_OPTIONS])
    assert not target.exists()


def test_a_configuration_file_and_options_behind_it(tmp_path: Path, released: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(load_config(None, TINY_OPTIONS).dump())
    ours = tmp_path / "ours.safetensors"
    main([str(released), str(ours), "--config-file", str(config), "SEED", "3"])
    assert ours.is_file()


def test_a_checkpoint_of_another_model_leaves_nothing(tmp_path: Path, released: Path) -> None:
    target = tmp_path / "ours.safetensors"
    with pytest.raises(UserError, match=r"weights .*released\.pth do not fit the model"):
        main([str(released), str(target), *TINY_OPTIONS, *FC_CLIP_OPTIONS])
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        main([str(tmp_path / "none.pth"), str(target), *TINY_OPTIONS])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["released.pth"]


def test_the_source_is_not_written_over(tmp_path: Path, released: Path) -> None:
    before = released.read_bytes()
    os.link(released, tmp_path / "linked.pth")
    for target in (released, tmp_path / "linked.pth", tmp_path / "below" / ".." / "released.pth"):
        (tmp_path / "below").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is an input too, and would be overwritten"):
            main([str(released), str(target), *TINY_OPTIONS])
        assert released.read_bytes() == before


def test_models_without_published_names_are_told_at_once(tmp_path: Path) -> None:
    for name, said in (
        ("small", "MODEL.FROZEN_SEG.POOLING adapter"),
        ("small-fusioner", "MODEL.META_ARCHITECTURE Fusioner"),
    ):
        target = tmp_path / "new" / "below" / "out.pth"
        message = rf"out\.pth: a model with {said} has no published names.*out\.safetensors$"
        with pytest.raises(UserError, match=message):
            main(["gone.safetensors", str(target), "--config-file", name])
        assert not (tmp_path / "new").exists()


def test_the_target_tells_the_format(tmp_path: Path, released: Path) -> None:
    with pytest.raises(UserError, match=r"model\.bin: the target must end in"):
        main([str(released), str(tmp_path / "model.bin"), *TINY_OPTIONS])


def test_frozen_parts_of_the_other_family(tmp_path: Path) -> None:
    """Their random weights would go into the file."""
    config, target = packaged_config("small-fusioner"), tmp_path / "whole.safetensors"
    assert config is not None
    source = str(config.parent / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: holds no weights of text, visual"):
        main(["--keep-frozen", "--config-file", str(config), source, str(target)])
    assert not target.exists()
