"""Decode cameras, and video files where PyAV is missing, through OpenCV."""

import time
from collections.abc import Iterator

import cv2

from frozenseg.data.video.frames import Frame, Selection, stated_fps
from frozenseg.errors import UserError


class OpenCVDecoder:
    """A video file. The attributes are those of `Video`; times are derived from the frame rate."""

    def __init__(self, name: str) -> None:
        self.name, self.loss = name, ""
        capture = cv2.VideoCapture(name)
        try:
            if not capture.isOpened() or not capture.grab():
                raise UserError(
                    f"{name}: is not a video, is damaged, or has a codec that OpenCV lacks; for "
                    'more codecs: pip install "frozenseg[video]"'
                )
            self.fps = stated_fps(capture.get(cv2.CAP_PROP_FPS))
            self.num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            capture.release()

    def frames(self, selection: Selection) -> Iterator[Frame]:
        """Decode the selected frames."""
        capture = cv2.VideoCapture(self.name)
        number, self.loss = 0, ""
        try:
            while capture.grab():
                number += 1
                moment = (number - 1) / self.fps
                if moment >= selection.end:
                    return
                if selection.wants(number, moment):
                    decoded, frame = capture.retrieve()
                    if decoded:
                        pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                        yield Frame(number, moment, selection.sized(pixels))
        finally:
            capture.release()
        if number < self.num_frames:
            self.loss = f"{number} of the {self.num_frames} frames that it declares can be read"


class Camera:
    """A camera of this machine, by its number; times are measured by the clock."""

    num_frames, loss = 0, ""

    def __init__(self, number: int) -> None:
        self.number = number
        self.capture = cv2.VideoCapture(number)
        if not self.capture.isOpened():
            raise UserError(
                f"{number}: no such camera, or another program uses it; for a file of this "
                f"name, write ./{number}"
            )
        self.fps = stated_fps(self.capture.get(cv2.CAP_PROP_FPS))

    def frames(self, selection: Selection) -> Iterator[Frame]:
        """Yield frames until the selection ends, or the camera stops."""
        number, begin = 0, time.monotonic()
        try:
            while True:
                decoded, frame = self.capture.read()
                number, moment = number + 1, time.monotonic() - begin
                if not decoded or moment >= selection.end:
                    return
                if selection.wants(number, moment):
                    pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                    yield Frame(number, moment, selection.sized(pixels))
        finally:
            self.capture.release()
