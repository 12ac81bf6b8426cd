"""Decode videos through PyAV: all usual codecs, rotation, times, damaged files."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from frozenseg.data.video.addresses import without_password
from frozenseg.data.video.frames import Frame, Selection, stated_fps
from frozenseg.errors import UserError, one_line

# Containers that hold their frames themselves. Playlists, which FFmpeg would follow to other files
# and addresses, are not among them.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,h264,hevc,"
    "obu,ivf,mjpeg,m4v,mxf,wav,mp3,flac,aac"
)
FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
THREADS = 4  # of a decoder; if one meets damage, frames that the others hold may be lost
STREAM_OPTIONS = {"rtsp_transport": "tcp"}
TIMEOUT = 10.0  # seconds that a stream may be silent
LENGTH = re.compile(r"(\d+):(\d+):([\d.]+)")  # the length of a stream, as Matroska states it


class PyAVDecoder:
    """A file or a stream. The attributes are those of `Video`."""

    def __init__(self, name: str, *, live: bool) -> None:
        """Decode the first frame, or raise `UserError` if there is none."""
        self.name, self.live, self.loss = name, live, ""
        self._stream: Any = self._open() if live else None  # a camera may serve one reader only
        with contextlib.nullcontext(self._stream) if live else self._open() as container:
            stream = self._pictures(container)
            self.fps = stated_fps(float(stream.average_rate or stream.guessed_rate or 0))
            self.num_frames = stream.frames
            if not live and next(self._decoded(container, stream), None) is None:
                raise UserError(f"{name}: no frame can be decoded; is the file complete?")

    def frames(self, selection: Selection) -> Iterator[Frame]:
        """Decode the selected frames; damaged pieces are left out.

        Frames are numbered by counting them. After a damaged piece, their times show how many are
        missing, provided that they are regular, so that later frames keep their numbers.
        """
        self.loss, number, end = "", 0, -1 / self.fps
        with self._stream or self._open() as container:
            stream = self._pictures(container)
            begin = (container.start_time or 0) / av.time_base
            for frame in self._decoded(container, stream):
                time = number / self.fps if frame.time is None else frame.time - begin
                if time >= selection.end:
                    break
                number += max(1, round((time - end) * self.fps)) if self._damaged else 1
                end = time
                if selection.wants(number, time):
                    yield Frame(number, time, selection.sized(_upright(frame)))
            else:
                self.loss = self._missing(container, stream, end)
            if self._damaged and not self.loss:
                self.loss = f"{self._damaged} pieces are damaged"

    def _open(self) -> Any:
        options = STREAM_OPTIONS if self.live else FILE_OPTIONS
        timeout = TIMEOUT if self.live else None
        try:
            return av.open(self.name, options=options, timeout=timeout, metadata_errors="replace")
        except (FFmpegError, ValueError) as error:
            damage = "is not a video, holds no frame, or is damaged"
            reason = one_line(getattr(error, "strerror", None) or str(error))
            name = without_password(self.name)
            what = "no such stream" if self.live else damage
            raise UserError(f"{name}: {what} ({reason})") from None

    def _pictures(self, container: Any) -> Any:
        cover = av.stream.Disposition.attached_pic  # the cover picture of an audio file
        for stream in container.streams.video:
            if not stream.disposition & cover:
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = THREADS
                return stream
        found = "sound, but no pictures" if container.streams.audio else "no pictures"
        raise UserError(f"{self.name}: holds {found}; give a video")

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decode what can be decoded; count decoded frames, damaged pieces and omitted packets."""
        self._read, self._damaged, self._left_out = 0, 0, 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                self._left_out += packet.is_discard  # an edit list has cut this part off
                frames = packet.decode()
            except StopIteration:
                return
            except FFmpegError as error:
                if not isinstance(error, av.error.InvalidDataError):
                    return  # the file ends here, or the stream is silent
                self._damaged += 1
                continue
            for frame in frames:
                self._read += 1
                self._damaged += frame.is_corrupt
                yield frame

    def _missing(self, container: Any, stream: Any, end: float) -> str:
        """Say how much of the declared frames or length can be read; "" if nothing is missing.

        end: the time of the last frame.
        """
        declared = self.num_frames - self._left_out
        length = max(_length(container, stream), declared / self.fps)
        # Some headers count frames that were dropped in recording, so the length is checked too.
        short = end + max(2 / self.fps, 0.5) < length
        if short and self._read < declared:
            return f"{self._read} of the {declared} frames that it declares can be read"
        if short and not self.num_frames:
            return f"{end:.1f} of the {length:.1f} seconds that it declares can be read"
        return ""


def _length(container: Any, stream: Any) -> float:
    """Return the length of the video stream in seconds as the header states it, or 0."""
    if match := LENGTH.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, match.groups())
        return 3600 * hours + 60 * minutes + seconds
    if stream.frames and stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # otherwise the sound may be longer
    return (container.duration or 0) / av.time_base if alone else 0.0


def _upright(frame: Any) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 RGB, rotated upright as the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
