"""Read and write the frames of videos through OpenCV."""

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
    """A video file. fps: frames per second. num_frames: as its header states, or 0."""

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
    """Open a video; raise `UserError` if it is missing or no frame can be decoded."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such video file; correct the path")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.grab():
            raise UserError(
                f"{path}: is no video, damaged, or of a codec that OpenCV lacks; convert it to MP4"
            )
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

    The file appears when the block has succeeded. Odd sizes are padded by a pixel, which the codec
    would cut off otherwise. OpenCV does not report a full disk; the last check raises a
    `WriteError` then.
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
        try:
            readable = read_video(temporary).num_frames
        except UserError:
            readable = 0
        if readable < written:
            raise WriteError(f"{path}: cannot be written whole; make room there")
