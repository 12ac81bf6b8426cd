"""Weights of another model are told in one short line that names the model they are of."""

from pathlib import Path

import pytest
import torch

import frozenseg
from frozenseg.checkpoints.state_dict import write_state
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path


def test_weights_of_a_model_that_ships_are_recognised() -> None:
    weights = resolve_packaged_path("frozenseg://small/model.safetensors")
    with pytest.raises(UserError) as caught:
        frozenseg.load("small-fusioner", weights=weights)
    said = "not those of this model; they look like those of `small`"
    assert str(caught.value) == f"weights {weights}: {said}"


def test_weights_of_nobody_are_told_by_their_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frozenseg.build.models.published_models", list)  # large, to be quick
    write_state(tmp_path / "x.safetensors", {"other": torch.ones(1)})
    with pytest.raises(UserError) as caught:
        frozenseg.load("small-fusioner", weights=tmp_path / "x.safetensors")
    message = str(caught.value)
    assert "do not fit the model: entries 61 missing (" in message and "1 unexpected" in message
    assert len(message) < 400 + len(str(tmp_path))
