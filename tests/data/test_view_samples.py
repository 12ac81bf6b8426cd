"""The contact sheet of augmented samples."""

import numpy as np
import pytest
from PIL import Image

from frozenseg.commands.view_samples import main
from frozenseg.errors import UserError
from tests.data.tiny import SEGMENTS, dataset_name, write_dataset


@pytest.fixture
def name(tmp_path):
    write_dataset(tmp_path / "set", [(40, 60), (33, 21)])
    return dataset_name(tmp_path / "set")


def test_sheet_shows_the_samples_and_repeats(tmp_path, name):
    options = ["--dataset", name, "--count", "3", "--size", "96", "--min-scale", "1", "--seed", "4"]
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert main([*options, "--output", str(first)]) is None
    main([*options, "--output", str(second)])
    assert first.read_bytes() == second.read_bytes()
    pixels = np.asarray(Image.open(first).convert("RGB"))
    assert pixels.shape[0] > 2 * 400 and pixels.shape[1] > 4 * 400  # two rows of two pairs
    grass = np.all(pixels == SEGMENTS[16777215][2], axis=-1)
    assert grass.mean() > 0.02
    main([*options[:-1], "5", "--output", str(second)])
    assert first.read_bytes() != second.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count"),
        (["--size", "-3"], "--size"),
        (["--seed", "-1"], "--seed -1"),
        (["--min-scale", "2", "--max-scale", "1"], "--min-scale 2"),
        (["--min-scale", "0"], "--min-scale 0"),
        (["--output", "sheet.xyz"], "sheet.xyz"),
        (["--dataset", "nothing"], "nothing: no such dataset"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        main(["--dataset", name, "--output", "sheet.png", *options])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
