"""Videos: frames in and out through OpenCV's own reader and writer."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path


@dataclass(frozen=True)
class Video:
    """A video file; num_frames is what its header claims, 0 where it does not say."""

    path: Path
    fps: float
    num_frames: int

    def frames(self) -> Iterator[np.ndarray]:
        """Decode the frames one after another, (H, W, 3) uint8 RGB."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                whole, frame = capture.read()
                if not whole:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def read_video(path: str | os.PathLike[str]) -> Video:
    """Open a video; one that is missing or has no frame that can be decoded is a `UserError`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such video file")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.grab():
            raise UserError(f"{path}: no video, or damaged, or of a codec that OpenCV lacks")
        fps = capture.get(cv2.CAP_PROP_FPS)
        num_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return Video(path, fps if 0 < fps <= 1000 else 25.0, max(0, int(num_frames)))


@contextmanager
def video_writer(
    path: str | os.PathLike[str], fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends (H, W, 3) uint8 RGB frames of one size to an MP4 file.

    The file appears when the block has succeeded. Odd sizes are padded by a pixel; the codec would
    cut one off. A full disk is a `WriteError` at the end: OpenCV itself does not tell of one.
    """
    writer: cv2.VideoWriter | None = None
    written = 0
    with atomic_path(path) as temporary:

        def append(frame: np.ndarray) -> None:
            nonlocal writer, written
            height, width = frame.shape[:2]
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                code = cv2.VideoWriter.fourcc(*"mp4v")  # in every build of OpenCV, unlike H.264
                writer = cv2.VideoWriter(str(temporary), code, fps, size)
                if not writer.isOpened():
                    raise UserError(f"{path}: OpenCV cannot write MP4 here; give images instead")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            written += 1

        try:
            yield append
        finally:
            if writer is not None:
                writer.release()
        if _num_frames(temporary) < written:
            raise WriteError(f"{path}: cannot be written whole; make room there")


def _num_frames(path: Path) -> int:
    """Of a video that was just written; 0 if it is none."""
    try:
        return read_video(path).num_frames
    except UserError:
        return 0
