import shutil
from pathlib import Path

import numpy as np
import pytest

from frozenseg.devtools.reference.compare import BOUND
from frozenseg.devtools.reference.losses import check_losses
from frozenseg.errors import UserError
from frozenseg.files import read_json, write_json


@pytest.mark.reference
@pytest.mark.slow
def test_losses_equal_the_published_ones(reference: Path) -> None:
    rows = check_losses(reference / "losses", seeds=16)
    assert len(rows) == 9 + 2
    assert {name: error for name, error in rows if error > BOUND} == {}


@pytest.mark.reference
def test_a_difference_of_two_per_cent_fails(reference: Path, tmp_path: Path) -> None:
    shutil.copy(reference / "losses.npz", tmp_path)
    case = read_json(reference / "losses.json")
    case["losses"] = {"loss_ce_0": {"mean": case["losses"]["loss_ce_0"]["mean"] * 1.02, "sd": 0.0}}
    case["matching"][1] = [[13, 14, 21], [2, 1, 0]]
    write_json(tmp_path / "losses.json", case)
    errors = dict(check_losses(tmp_path / "losses", seeds=3))
    assert errors["loss_ce_0"] == pytest.approx(BOUND * 0.02 / 1.02 / 0.01, rel=1e-4)
    assert errors["matching_0"] == 0 and errors["matching_1"] == 1


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"case\.json: no such file"):
        check_losses(tmp_path / "case")
    write_json(tmp_path / "case.json", {"classes": 6})
    with pytest.raises(UserError, match=r"case\.npz: no such file"):
        check_losses(tmp_path / "case")
    (tmp_path / "case.npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(UserError, match=r"case\.npz: not a complete \.npz file"):
        check_losses(tmp_path / "case")
    np.savez(tmp_path / "case.npz", labels_0=np.zeros(1))
    with pytest.raises(UserError, match="not reference vectors of the losses"):
        check_losses(tmp_path / "case")
