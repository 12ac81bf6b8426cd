"""Proposals on disk, from the command to the numbers of an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from frozenseg.commands.make_sam_masks import main
from frozenseg.commands.train_net import main as train_net
from frozenseg.errors import UserError
from tests.engine.tiny import TinyRun

SETTINGS = [
    *("TEST.PKL_SAM_MODEL_NAME", "small"),
    *("TEST.SAM_MASKS.WEIGHTS", "frozenseg://small/sam.safetensors"),
    *("TEST.SAM_MASKS.POINTS_PER_SIDE", "4"),
    *("TEST.SAM_MASKS.PREDICTED_IOU", "0.1"),
    *("TEST.SAM_MASKS.STABILITY", "0.1"),
]
JOIN = [
    *("TEST.USE_SAM_MASKS", "True"),
    *("TEST.SAM_MASKS.THRESHOLD", "0.0"),
    *("TEST.SAM_MASKS.WEIGHT", "1.0"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    return TinyRun(tmp_path)


def make(run: TinyRun, *arguments: str) -> int | None:
    where = ["--config-file", str(run.config), "--output", str(run.root / "masks")]
    return main([*where, *arguments, "--opts", *SETTINGS])


def evaluated(run: TinyRun, name: str, *options: str) -> dict:
    """All classes count as unseen: the training vocabulary knows none of them."""
    options = (
        *("DATASETS.TRAIN_VOCABULARY", "small_world_seen"),
        *("MODEL.MASK_FORMER.TEST.RECALL_ON", "True"),
        *options,
    )
    assert train_net(run.arguments(name, *options, flags=("--eval-only",))) == 0
    return run.results(name)


def test_masks_from_disk_give_what_masks_made_online_give(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = sorted((run.root / "data" / "images").iterdir())[1]  # but annotated as it is stored
    picture, exif = Image.open(turned), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(turned, exif=exif)
    sheet = run.root / "sheet.png"
    assert make(run, "--dataset", run.dataset, "--sheet", str(sheet)) is None
    assert "5 images in" in capsys.readouterr().out
    assert Image.open(sheet).width > 100
    (run.root / "masks" / "1.npz").write_bytes(b"cut off")
    assert make(run, "--dataset", run.dataset) is None
    assert "1 images in" in capsys.readouterr().out  # the damaged one, and no other
    plain = evaluated(run, "plain")
    online = evaluated(run, "online", *SETTINGS, *JOIN)
    folder = ("TEST.SAM_MASKS.FOLDER", str(run.root / "masks"))
    assert evaluated(run, "disk", *SETTINGS, *JOIN, *folder) == online
    assert online["summary"]["U_Recall@IoU=0.50"] > plain["summary"]["U_Recall@IoU=0.50"]
    assert online["summary"]["fwIoU"] != plain["summary"]["fwIoU"]
    (run.root / "masks" / "3.npz").unlink()
    with pytest.raises(UserError, match=r"3.npz: no such file; the folder lacks this image"):
        evaluated(run, "lacking", *SETTINGS, *JOIN, *folder)


def test_parts_share_the_images(run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    photos = run.root / "photos"
    photos.mkdir()
    for name in "abc":
        noise = np.random.default_rng(ord(name)).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{name}.png")
    for part, count in (("1/2", 2), ("2/2", 1)):
        assert make(run, "--input", str(photos), "--part", part) is None
        assert f"{count} images in" in capsys.readouterr().out
    made = {path.name for path in (run.root / "masks").glob("*.npz")}
    assert made == {"a.npz", "b.npz", "c.npz"}
    about = json.loads((run.root / "masks" / "proposals.json").read_text())
    assert about["points_per_side"] == 4 and about["sam"] == "small"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --dataset NAME or --input FILES"),
        (["--input", "x", "--part", "3/2"], "--part 3/2: expected K/N"),
        (["--input", "x", "--part", "half"], "--part half"),
        (["--input", "nowhere.png"], "nowhere.png"),
    ],
)
def test_bad_arguments_are_one_clear_line(run: TinyRun, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(run, *arguments)
    assert not (run.root / "masks").exists()


def test_a_sheet_is_none_of_the_images(run: TinyRun) -> None:
    image = sorted((run.root / "data" / "images").iterdir())[0]
    before = image.read_bytes()
    for source in (["--input", str(image.parent)], ["--dataset", run.dataset]):
        with pytest.raises(UserError, match=f"{image.name}: is an input too, and would"):
            make(run, *source, "--sheet", str(image))
    assert image.read_bytes() == before and not (run.root / "masks").exists()
    annotation = run.root / "data" / "png" / "1.png"
    with pytest.raises(UserError, match=r"1\.png: is an input too"):
        make(run, "--dataset", run.dataset, "--sheet", str(annotation))


def test_a_broken_image_is_told_and_the_others_are_done(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = run.root / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photos / "good.png")
    (photos / "bad.png").write_bytes(b"no picture")
    assert make(run, "--input", str(photos)) == 1
    assert "bad.png" in capsys.readouterr().err
    assert (run.root / "masks" / "good.npz").is_file()


def test_masks_of_other_images_are_not_replaced_without_a_word(
    run: TinyRun, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, greys in (("photos", (50, 100)), ("others", (200, 100))):  # only a.png differs
        (run.root / folder).mkdir()
        for name, grey in zip("ab", greys, strict=True):
            Image.new("RGB", (50, 40), (grey,) * 3).save(run.root / folder / f"{name}.png")
    assert make(run, "--input", str(run.root / "photos")) is None
    (run.root / "masks" / "b.npz").write_bytes(b"cut off")  # damaged ones are no loss
    assert make(run, "--input", str(run.root / "photos")) is None
    assert "were replaced" not in caplog.text
    assert make(run, "--input", str(run.root / "others")) is None
    assert "1 masks of other images of the same names" in caplog.text
    assert "were replaced (a); give each set" in caplog.text
    assert "1 images in" in capsys.readouterr().out.splitlines()[-1]


def test_a_sheet_without_images_is_said_not_to_be_written(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / "bad.png").write_bytes(b"no picture")
    sheet = run.root / "sheet.png"
    bad = ("--input", str(run.root / "bad.png"), "--sheet", str(sheet))
    assert make(run, *bad) == 1
    assert "sheet.png: not written" in capsys.readouterr().err
    assert make(run, *bad, "--part", "2/2") is None
    assert "sheet.png: not written" in capsys.readouterr().err and not sheet.exists()


def test_sam_masks_and_augmentation_do_not_work_together(run: TinyRun) -> None:
    with pytest.raises(UserError, match="do not work together"):
        evaluated(run, "both", *SETTINGS, *JOIN, "TEST.AUG.ENABLED", "True")
