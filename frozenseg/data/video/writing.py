"""Write the frames of a film to an MP4 file that browsers play, with the sound of its source."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from frozenseg.data.video.frames import even
from frozenseg.data.video.reading import has_pyav, read_video
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path

CODECS = ("h264", "vp9", "av1")


class Append(Protocol):
    """Appends a frame to a film."""

    def __call__(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame (H, W, 3) uint8 RGB.

        time: its time in seconds; None: one frame after the last one.
        """


@contextmanager
def video_writer(
    path: str | os.PathLike[str],
    fps: float,
    *,
    codec: str = "h264",
    sound: str | os.PathLike[str] | None = None,
) -> Iterator[Append]:
    """Yield a function that appends frames to an MP4 file, which appears when the block succeeds.

    The time of the first frame is the beginning of the film. Frames that differ in size from the
    first are resized to it, and odd sizes are padded by a pixel. Raises `WriteError` for a full
    disk. Without PyAV the film is MPEG-4 Part 2, which browsers do not play, with a constant frame
    rate and without sound.

    fps: frames per second if no times are given.
    codec: one of `CODECS`.
    sound: a video whose sound the film keeps, cut to the time from the film's first to its last
        frame.
    """
    if codec not in CODECS:
        raise UserError(f"codec {codec!r}: unknown; known: {', '.join(CODECS)}")
    with atomic_path(path) as temporary, ExitStack() as stack:
        film: Any = None  # a `PyAVFilm`, which can be imported only with PyAV, or `_OpenCVFilm`
        if has_pyav():
            from frozenseg.data.video.film import PyAVFilm

            film = PyAVFilm(temporary, fps, codec, sound)
        else:
            film = _OpenCVFilm(temporary, fps, path)
        stack.callback(film.abandon)
        yield film.append
        stack.pop_all()  # the film is complete, so it is not abandoned
        film.close()


class _OpenCVFilm:
    """A film that OpenCV writes, which does not report a full disk."""

    def __init__(self, path: Path, fps: float, name: str | os.PathLike[str]) -> None:
        self.path, self.fps, self.name, self.written = path, fps, name, 0
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def append(self, frame: np.ndarray, time: float | None = None) -> None:
        frame = even(frame)
        if self.writer is None:
            self.size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")  # in every build of OpenCV, unlike H.264
            self.writer = cv2.VideoWriter(str(self.path), code, self.fps, self.size)
            if not self.writer.isOpened():
                raise UserError(
                    'OpenCV cannot write MP4 here; give images, or pip install "frozenseg[video]"'
                )
        self.writer.write(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), self.size))
        self.written += 1

    def close(self) -> None:
        self.abandon()
        try:
            readable = read_video(self.path).num_frames
        except UserError:
            readable = 0
        if readable < self.written:
            raise WriteError(f"{self.name}: cannot be written completely; free space on its disk")

    def abandon(self) -> None:
        if self.writer is not None:
            self.writer.release()
