"""The parity command on the reference vectors, and that it does fail where numbers differ."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from frozenseg.devtools.commands.check_reference import main
from frozenseg.devtools.reference.compare import map_error, tensor_error
from frozenseg.errors import UserError
from frozenseg.files import read_json, write_json


def printed(text: str) -> dict[str, float]:
    return {
        line.rsplit(maxsplit=1)[0].strip(): float(line.split()[-1])
        for line in text.split("\n")
        if line
    }


@pytest.mark.reference
def test_post_processing_equals_the_published_one(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(reference / "postprocess")]) == 0
    rows = printed(capsys.readouterr().out)
    assert list(rows)[-1] == "worst" and rows["worst"] <= 1e-5
    wanted = {"semantic", "semantic_with_sam", *(f"panoptic_{case}" for case in "abc")}
    assert wanted <= rows.keys() and len(rows) == 15


@pytest.mark.reference
@pytest.mark.slow
def test_the_whole_model_equals_the_published_one(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(reference / "convnext_large")]) == 0
    rows = printed(capsys.readouterr().out)
    assert rows["worst"] <= 1e-3 and rows["segments"] == 0
    # Up to the decoder nothing is thresholded, so only rounding is left. Behind it a pixel of a
    # mask's edge may fall to the other side, with the number of threads even.
    for name in ("text_classifier", "clip_res5", "sam_embedding", "sam_pyramid", "mask_features"):
        assert rows[name] <= 1e-5


@pytest.fixture
def copied(reference: Path, tmp_path: Path) -> Path:
    for suffix in (".json", ".npz"):
        shutil.copy(reference / f"postprocess{suffix}", tmp_path)
    return tmp_path / "postprocess"


def change(prefix: Path, name: str, factor: float) -> None:
    archive = prefix.with_suffix(".npz")
    with np.load(archive) as file:
        arrays = dict(file)
    arrays[name] = (arrays[name] * factor).astype(arrays[name].dtype)
    archive.unlink()  # the reference is read-only, and so is its copy
    np.savez(archive, **arrays)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "factor", "status"),
    [
        ("semantic", 1.002, 1),
        ("semantic", 1.0005, 0),
        ("semantic", np.nan, 1),
        ("panoptic_b", 2, 1),
    ],
)
def test_a_difference_beyond_the_bound_fails(
    copied: Path, capsys: pytest.CaptureFixture[str], name: str, factor: float, status: int
) -> None:
    change(copied, name, factor)
    assert main([str(copied)]) == status
    rows = printed(capsys.readouterr().out)
    assert (rows[name] <= 1e-3) == (status == 0) == (rows["worst"] <= 1e-3)


@pytest.mark.reference
def test_other_segments_fail(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied.with_suffix(".json")
    case = read_json(path)
    case["panoptic_a"]["segments"][0]["category_id"] += 1
    path.unlink()
    write_json(path, case)
    assert main([str(copied)]) == 1
    assert printed(capsys.readouterr().out)["segments_a"] == 1


def test_errors_as_the_reference_defines_them() -> None:
    assert tensor_error(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx(0.1)
    assert tensor_error(np.zeros(3), np.zeros(2)) == map_error(np.zeros(3), np.zeros(2)) == np.inf
    assert map_error(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


def test_files_that_are_not_there_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"case\.json: no such file"):
        main([str(tmp_path / "case")])
    write_json(tmp_path / "case.json", {"something": "else"})
    with pytest.raises(UserError, match=r"case\.npz: no such file"):
        main([str(tmp_path / "case")])
    np.savez(tmp_path / "case.npz", a=np.zeros(1))
    with pytest.raises(UserError, match=r"case\.json: holds no model, post-processing or losses"):
        main([str(tmp_path / "case")])
    write_json(tmp_path / "case.json", {"config": "vit_large"})
    with pytest.raises(
        UserError, match=r"config 'vit_large' is unknown; known: convnext_large, rn50x64"
    ):
        main([str(tmp_path / "case")])
    (tmp_path / "case.npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(UserError, match=r"case\.npz"):
        main([str(tmp_path / "case")])
