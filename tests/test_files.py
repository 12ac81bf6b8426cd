"""Files are written whole or not at all, and what cannot be written is one error that names it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from frozenseg.build.hub import from_pretrained
from frozenseg.errors import MissingFileError, UserError, WriteError
from frozenseg.files import (
    atomic_path,
    json_text,
    remove_temporaries,
    user_path,
    write_json,
    write_torch,
)
from frozenseg.recipes import find_config
from tests.disk import files_end_at

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def _tensors(path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file({"a": torch.zeros(9999)}, temporary)


def _arrays(path: Path) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, a=NOISE)


def _picture(path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(NOISE).save(temporary)


WRITERS: dict[str, Callable[[Path], None]] = {
    "value.json": lambda path: write_json(path, list(range(9999))),
    "tensors.safetensors": _tensors,
    "content.pt": lambda path: write_torch(path, {"a": torch.zeros(9999)}),
    "arrays.npz": _arrays,
    "picture.png": _picture,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("before")
    with files_end_at(1000), pytest.raises(WriteError) as caught:
        WRITERS[name](path)
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / name).mkdir()
    for path in (tmp_path / "file" / "folder" / name, tmp_path / name):
        with pytest.raises(WriteError, match="cannot be written"):
            WRITERS[name](path)


def test_errors_about_other_files_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out" / "a.txt"):
        (tmp_path / "missing").read_text()
    with pytest.raises(MissingFileError, match=r"^b\.txt"), atomic_path(tmp_path / "out" / "a.txt"):
        raise MissingFileError("b.txt: no such file")
    assert list((tmp_path / "out").iterdir()) == []


def test_half_written_files_of_others_stay_for_an_hour(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".a.0a_bcdef.png", tmp_path / ".a.0a_bcdeg.png"
    others = [tmp_path / name for name in ("a.0a_bcdef.png", ".a.my.notes.png", ".a.0a_bcdef.txt")]
    for path in (dead, alive, *others):
        path.touch()
    os.utime(dead, (0, 0))
    remove_temporaries(tmp_path, "*.png", alone=False)
    assert sorted(tmp_path.iterdir()) == sorted([alive, *others])
    remove_temporaries(tmp_path, "*.png", alone=True)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_null_character_is_in_no_name() -> None:
    with pytest.raises(UserError, match=r"'a\\x00': has a null character"):
        user_path("a\0")


def test_an_empty_name_is_not_the_working_folder() -> None:
    for call in (user_path, find_config, from_pretrained):
        with pytest.raises(UserError, match="^the name of a file or folder is empty"):
            call("")
    assert user_path(".") == Path(".")


def test_numbers_of_numpy_are_json() -> None:
    value = {"id": np.int64(7), "rows": [np.uint8(1), np.float32(0.5), float("nan")], "yes": True}
    assert json_text(value) == '{"id": 7, "rows": [1, 0.5, null], "yes": true}'
