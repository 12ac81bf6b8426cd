"""A file has changed if its content has, and not if it was copied."""

import os
from pathlib import Path

import pytest

from frozenseg.data import file_states
from frozenseg.data.file_states import has_changed, stamp_of, state_of


@pytest.mark.parametrize(
    ("content", "changed"),
    [
        (b"0123456789", False),
        (b"0123456789+", True),
        (b"x123456789", True),
        (b"012345678x", True),
        (b"012345x789", True),
        (b"0123x56789", False),  # between the pieces at both ends, which alone are compared
    ],
)
def test_both_ends_of_a_large_file_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, changed: bool
) -> None:
    monkeypatch.setattr(file_states, "PIECE", 4)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    state = state_of(path, stamp_of(path))
    assert state is not None and not has_changed(path, state)
    path.write_bytes(content)
    os.utime(path, ns=(0, state.mtime_ns + 1))
    assert has_changed(path, state) == changed


def test_every_byte_of_a_small_file_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_states, "PIECE", 4)
    path = tmp_path / "a.bmp"
    path.write_bytes(b"0123456")
    state = state_of(path, stamp_of(path))
    assert state is not None
    for place in range(7):
        path.write_bytes(b"0123456".replace(b"%d" % place, b"x"))
        os.utime(path, ns=(0, state.mtime_ns + 1))
        assert has_changed(path, state)
    path.unlink()
    assert not has_changed(path, state)
