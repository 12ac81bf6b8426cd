"""Open a video file, a camera or a network stream, and decode its frames."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from frozenseg.data.video.addresses import is_live, without_password
from frozenseg.data.video.frames import Frame, Selection
from frozenseg.errors import UserError
from frozenseg.notes import note

ALL = Selection()


class Decoder(Protocol):
    """A decoder of a source; see the classes in `with_pyav` and `with_opencv`."""

    fps: float
    num_frames: int
    loss: str

    def frames(self, selection: Selection) -> Iterator[Frame]:
        """Decode the selected frames; afterwards, `loss` says what could not be decoded."""


@dataclass
class Video:
    """An opened video file, camera or network stream.

    name: its path, its address, or the number of a camera.
    fps: frames per second, on average.
    num_frames: the number of frames that its header states, or 0.
    live: whether it is a camera or a stream, whose end is unknown.
    """

    name: str
    fps: float
    num_frames: int
    live: bool
    _decoder: Decoder = field(repr=False)

    def frames(self, selection: Selection = ALL) -> Iterator[Frame]:
        """Decode the selected frames, one after another."""
        return self._decoder.frames(selection)

    @property
    def loss(self) -> str:
        """What the last pass over the frames could not decode; "" if it decoded everything."""
        return self._decoder.loss


def has_pyav() -> bool:
    """Tell whether PyAV is installed; a note says what is missing without it."""
    if importlib.util.find_spec("av") is not None:
        return True
    note(
        "PyAV is not installed, so OpenCV reads and writes videos: without AV1, frame times and "
        "sound, and browsers cannot play its films; PyAV has none of these limits: "
        'pip install "frozenseg[video]"'
    )
    return False


def read_video(source: str | os.PathLike[str]) -> Video:
    """Open a video, or raise `UserError` if it is missing or no frame of it can be decoded.

    source: a file, the number of a camera ("0"), or an address rtsp://.
    """
    name, live = os.fspath(source), is_live(source)
    if not live and not Path(name).is_file():
        raise UserError(f"{name}: no such video file; correct the path")
    decoder: Decoder
    if name.isdecimal() and live:
        from frozenseg.data.video.with_opencv import Camera

        decoder = Camera(int(name))
    elif has_pyav():
        from frozenseg.data.video.with_pyav import PyAVDecoder

        decoder = PyAVDecoder(name, live=live)
    else:
        from frozenseg.data.video.with_opencv import OpenCVDecoder

        decoder = OpenCVDecoder(name)
    return Video(without_password(name), decoder.fps, decoder.num_frames, live, decoder)
