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
    command = ["--dataset", name, "--count", "3", "--output"]
    settings = ["INPUT.IMAGE_SIZE", "96", "INPUT.MIN_SCALE", "1", "SEED", "4"]
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert main([*command, str(first), *settings]) is None
    main([*command, str(second), *settings])
    assert first.read_bytes() == second.read_bytes()
    pixels = np.asarray(Image.open(first).convert("RGB"))
    assert pixels.shape[0] > 2 * 400 and pixels.shape[1] > 4 * 400  # two rows of two pairs
    grass = np.all(pixels == SEGMENTS[16777215][2], axis=-1)
    assert grass.mean() > 0.02
    main([*command, str(second), *settings[:-1], "5"])
    assert first.read_bytes() != second.read_bytes()


def test_samples_are_those_of_the_run(tmp_path, name):
    """A recipe gives the data, the crop and its scale; KEY VALUE pairs go over it."""
    recipe = tmp_path / "run.yaml"
    recipe.write_text(
        f"DATASETS: {{TRAIN: ['{name}']}}\nINPUT: {{IMAGE_SIZE: 64, MIN_SCALE: 1.0, MAX_SCALE: 1.0,"
        " FLIP_PROBABILITY: 0.0}\n"
    )
    first, second, third = (tmp_path / f"{stem}.png" for stem in "abc")
    main(["--config-file", str(recipe), "--count", "2", "--output", str(first)])
    pixels = np.asarray(Image.open(first).convert("RGB"))
    # The longer side fills the crop, so the padding is as large as in the picture of 40 x 60 or of
    # 33 x 21 pixels.
    padding = np.all(pixels[:400, :400] == 128, axis=-1).mean()
    assert 0.30 < padding < 0.38
    main(["--config-file", str(recipe), "--count", "2", "--output", str(second), "--dataset", name])
    assert first.read_bytes() == second.read_bytes()
    options = ["INPUT.MIN_SCALE", "0.5"]
    main(["--config-file", str(recipe), "--count", "2", "--output", str(third), *options])
    assert first.read_bytes() != third.read_bytes()


@pytest.mark.parametrize("file", ["images/1.png", "png/2.png"])
def test_the_sheet_is_no_picture_of_the_data_set(tmp_path, name, file):
    picture = tmp_path / "set" / file
    before = picture.read_bytes()
    with pytest.raises(UserError, match="is an input too"):
        main(["--dataset", name, "--count", "1", "--output", str(picture)])
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count 0"),
        (["INPUT.IMAGE_SIZE", "-3"], "INPUT.IMAGE_SIZE"),
        (["SEED", "-2"], "SEED"),
        (["INPUT.MIN_SCALE", "2", "INPUT.MAX_SCALE", "1"], "must not be above"),
        (["INPUT.MIN_SCALE", "0"], "INPUT.MIN_SCALE"),
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
