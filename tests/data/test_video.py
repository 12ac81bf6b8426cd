"""Videos survive writing and reading, and damaged ones are named."""

from pathlib import Path

import numpy as np
import pytest

from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError
from tests.disk import files_end_at


def test_frames_come_back(tmp_path: Path) -> None:
    colors = [(200, 20, 20), (20, 200, 20), (20, 20, 200)]
    with video_writer(tmp_path / "a.mp4", fps=12) as append:
        for color in colors:
            append(np.full((33, 47, 3), color, dtype=np.uint8))
    video = read_video(tmp_path / "a.mp4")
    assert video.fps == pytest.approx(12) and video.num_frames == 3
    frames = list(video.frames())
    assert [frame.shape for frame in frames] == [(34, 48, 3)] * 3  # padded to even sides
    for frame, color in zip(frames, colors, strict=True):
        assert np.abs(frame.astype(int) - color).max() < 12  # the codec loses a little


def test_a_failed_run_leaves_no_half_video(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4", fps=12) as append:
        append(np.zeros((32, 32, 3), dtype=np.uint8))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    for name, words in [("a.mp4", "no video"), ("b.mp4", "no such video")]:
        with pytest.raises(UserError, match=words):
            read_video(tmp_path / name)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(WriteError, match="a.mp4: cannot be written"):
        with files_end_at(5000), video_writer(tmp_path / "a.mp4", fps=12) as append:
            for _ in range(20):
                append(noise)
    assert list(tmp_path.iterdir()) == []
