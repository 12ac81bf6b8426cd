"""A frame of a video, and the selection of frames."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from frozenseg.errors import UserValueError

USUAL_FPS = 25.0  # assumed for videos whose header states no frame rate


def stated_fps(fps: float) -> float:
    """Return the frames per second that a header states, or `USUAL_FPS` if they are impossible."""
    return fps if 0 < fps <= 1000 else USUAL_FPS


class Frame(NamedTuple):
    """A decoded frame of a video.

    number: its place in the video, from 1. time: in seconds from the beginning of the video.
    pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    time: float
    pixels: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Which frames of a video are selected, and their maximum size.

    stride: only every stride-th frame is selected.
    start, end: the selected time range in seconds; a frame at `end` is not selected.
    max_side: the maximum of the longer side in pixels; larger frames are reduced to it. 0: no
        limit.

    Raises `UserValueError` for values out of range.
    """

    stride: int = 1
    start: float = 0.0
    end: float = math.inf
    max_side: int = 0

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UserValueError(f"stride {self.stride}: must be at least 1")
        if not 0 <= self.start < self.end:
            raise UserValueError(
                f"start {self.start:g}, end {self.end:g}: give seconds, the start before the end"
            )
        if self.max_side < 0:
            raise UserValueError(f"max_side {self.max_side}: must be at least 0 pixels")

    def wants(self, number: int, time: float) -> bool:
        """Tell whether a frame with this number (from 1) and this time is selected."""
        return (number - 1) % self.stride == 0 and self.start <= time < self.end

    def expected(self, num_frames: int, fps: float) -> int:
        """Return how many of `num_frames` frames are selected if their times are regular."""
        last = num_frames if math.isinf(self.end) else min(num_frames, math.ceil(self.end * fps))
        return max(0, -(-last // self.stride) - -(-math.ceil(self.start * fps) // self.stride))

    def sized(self, pixels: np.ndarray) -> np.ndarray:
        """Reduce a frame (H, W, 3) uint8 to `max_side`."""
        height, width = pixels.shape[:2]
        if not self.max_side or max(height, width) <= self.max_side:
            return pixels
        scale = self.max_side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def even(frame: np.ndarray) -> np.ndarray:
    """Pad odd sides of a frame (H, W, 3), which codecs do not support, by one pixel."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
