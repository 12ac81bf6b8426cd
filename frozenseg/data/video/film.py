"""A film that PyAV writes: H.264, VP9 or AV1 in an MP4 file that plays while it loads."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from frozenseg.data.video.frames import even
from frozenseg.data.video.sound import Sound, open_sound
from frozenseg.errors import UserError, one_line

ENCODERS = {
    "h264": ("libx264", {"crf": "20", "preset": "fast"}),
    "vp9": ("libvpx-vp9", {"crf": "32", "b": "0", "cpu-used": "4", "row-mt": "1"}),
    "av1": ("libsvtav1", {"crf": "32", "preset": "8"}),
}
"""For each codec, FFmpeg's encoder and its options."""
CLOCK = 90_000  # ticks per second


@contextlib.contextmanager
def leaving_priorities() -> Iterator[None]:
    """Take back the real-time priority that threads received inside the block.

    If it is run by root, the encoder of AV1 gives real-time priority to its own threads and to the
    thread that opens it. While that thread computed, nothing else could use its processor, not even
    a thread of the same process for which it waits.
    """
    if sys.platform != "linux":
        yield
        return
    before, real_time = os.sched_getscheduler(0), (os.SCHED_FIFO, os.SCHED_RR)
    try:
        yield
    finally:
        for thread in () if before in real_time else os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # the thread has ended
                if os.sched_getscheduler(int(thread)) in real_time:
                    os.sched_setscheduler(int(thread), before, os.sched_param(0))


class PyAVFilm:
    """A film that PyAV writes. Frames keep their times, which need not be regular."""

    def __init__(
        self, path: Path, fps: float, codec: str, sound: str | os.PathLike[str] | None
    ) -> None:
        """Open the file. The arguments are those of `video_writer`."""
        os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 prints its settings otherwise
        self.fps, self.sound_of = fps, sound
        encoder, options = ENCODERS[codec]
        self.container: Any = av.open(str(path), "w", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(1001)
        self.codec = codec
        with self._encoding("films"):
            stream: Any = self.container.add_stream(encoder, rate=rate, options=options)
        self.stream = stream
        self.stream.pix_fmt = "yuv420p"
        self.stream.time_base = self.stream.codec_context.time_base = Fraction(1, CLOCK)
        self.sound: Sound | None = None
        self.first, self.last = math.nan, -1

    def append(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append a frame, see `writing.Append`."""
        step = round(CLOCK / self.fps)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even(frame)), format="rgb24")
        begins = self.last < 0
        if begins:
            self._begin(picture, time or 0.0)
        if (picture.width, picture.height) != (self.stream.width, self.stream.height):
            picture = picture.reformat(self.stream.width, self.stream.height)
        if time is None:
            ticks = self.last + step if self.last >= 0 else 0
        else:
            ticks = max(self.last + 1, round((time - self.first) * CLOCK))
        picture.pts, picture.time_base, picture.duration = ticks, Fraction(1, CLOCK), step
        if begins:  # the first frame opens the encoder
            size = f"frames of {picture.width} x {picture.height} pixels"
            with leaving_priorities(), self._encoding(size):
                packets = self.stream.encode(picture)
        else:
            packets = self.stream.encode(picture)
        self.container.mux(packets)
        self.last = ticks
        if self.sound is not None:
            self.sound.until(ticks / CLOCK)

    @contextlib.contextmanager
    def _encoding(self, what: str) -> Iterator[None]:
        """Raise a `UserError` where FFmpeg has no encoder for something, or only a limited one."""
        try:
            yield
        except ValueError as error:  # from PyAV; `av.error.ArgumentError` is one too
            reason = one_line(getattr(error, "strerror", None) or str(error))
            raise UserError(
                f"codec {self.codec}: the installed FFmpeg cannot encode {what} with it "
                f"({reason}); choose another codec"
            ) from None

    def _begin(self, picture: Any, time: float) -> None:
        self.first = time
        self.stream.width, self.stream.height = picture.width, picture.height
        if self.sound_of is not None:
            self.sound = open_sound(self.sound_of, self.container, begin=time)

    def close(self) -> None:
        """Write what is left of frames and sound."""
        if self.last >= 0:
            self.container.mux(self.stream.encode())
            if self.sound is not None:
                self.sound.until(self.last / CLOCK + 1 / self.fps)
                self.sound.close()
        self.container.close()

    def abandon(self) -> None:
        """Close the file without the last frames, after an error."""
        with contextlib.suppress(FFmpegError):  # only the error that ended the film is reported
            self.container.close()
