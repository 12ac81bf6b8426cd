"""Keep the sound of a video in a film that is made of its frames."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from frozenseg.errors import one_line
from frozenseg.notes import note

COPIED = {"aac", "mp3", "opus", "flac", "ac3", "eac3", "alac"}  # codecs that MP4 files may hold
LEAST_MP3 = 16_000  # samples per second; FFmpeg writes no MP3 of a lower rate into MP4
FAILURES = (FFmpegError, ValueError)  # the latter from PyAV itself, e.g. where the rate changes


class Sound:
    """Copies the sound of a video into a film, in step with its frames.

    Sound in a codec that MP4 does not support is converted to AAC. A warning names sound that
    cannot be kept.
    """

    def __init__(self, source: Any, film: Any, begin: float) -> None:
        """Add a stream of sound to a film, or raise one of `FAILURES`.

        source: the opened video. film: the opened film, before its first frame.
        begin: the time of that frame in the video, in seconds.
        """
        self.source, self.film = source, film
        stream = source.streams.audio[0]
        self.begin = begin + (source.start_time or 0) / av.time_base
        self.resampler: Any = None
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        if _may_be_copied(stream.codec_context):
            self.stream = film.add_stream_from_template(stream)
            pieces = source.demux(stream)
        else:
            # Files need not state the layout of their channels, but AAC needs it.
            layout = "mono" if stream.channels == 1 else "stereo"
            rates = av.codec.Codec("aac", "w").audio_rates or [stream.rate]
            rate = min(rates, key=lambda rate: abs(rate - stream.rate))
            self.stream = film.add_stream("aac", rate=rate, layout=layout)
            self.resampler = av.AudioResampler("fltp", layout, rate, frame_size=1024)
            pieces = source.decode(stream)
        self.pieces: Iterator[Any] = (piece for piece in pieces if piece.pts is not None)
        self.next: Any = None
        self.decoded = 0  # where the last decoded piece ends, in samples
        self._advance()

    def until(self, time: float) -> None:
        """Write the sound before this time of the film, in seconds."""
        while self.next is not None:
            moment = float(self.next.pts * self.next.time_base) - self.begin
            if moment >= time:
                return
            if moment >= 0:
                self._write(self.next)
            self._advance()

    def close(self) -> None:
        """Write the sound that the encoder still holds, and close the source."""
        if self.resampler is not None:
            self._write(None)
        self.source.close()

    def _advance(self) -> None:
        try:
            self.next = next(self.pieces, None)
        except FAILURES as error:  # the rest is damaged
            self.next = None
            _tell(self.source.name, error)

    def _write(self, piece: Any) -> None:
        """Write a piece, or for None what the encoder still holds; a failure ends the sound."""
        try:
            if self.resampler is None:
                self._copy(piece)
            else:
                self._encode(piece)
        except FAILURES as error:
            if isinstance(error, OSError):
                raise  # this concerns the film, e.g. a full disk
            self.pieces, self.resampler = iter(()), None
            _tell(self.source.name, error)

    def _copy(self, packet: Any) -> None:
        shift = round(self.begin / packet.time_base)
        packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        packet.stream = self.stream
        self.film.mux(packet)

    def _encode(self, frame: Any) -> None:
        if frame is None:
            frames = [*self.resampler.resample(None), None]
        else:
            # Times are counted in samples, because a tick of some files, e.g. AVI, is longer than a
            # frame of AAC.
            rate = frame.sample_rate
            time = float(frame.pts * frame.time_base) - self.begin
            frame.pts, frame.time_base = max(round(time * rate), self.decoded), Fraction(1, rate)
            self.decoded = frame.pts + frame.samples
            frames = self.resampler.resample(frame)
        for ready in frames:
            self.film.mux(self.stream.encode(ready))


def _may_be_copied(codec: Any) -> bool:
    name = codec.codec.canonical_name  # the decoder may have another name, e.g. "mp3float"
    return name in COPIED and not (name == "mp3" and codec.sample_rate < LEAST_MP3)


def _tell(name: Any, error: Exception) -> None:
    reason = one_line(getattr(error, "strerror", None) or str(error))
    note(f"{name}: its sound, or the rest of it, cannot be kept in the film ({reason})")


def open_sound(name: Any, film: Any, *, begin: float) -> Sound | None:
    """Add the sound of a video to a film; None if there is none that can be kept. See `Sound`."""
    try:
        source = av.open(str(name), metadata_errors="replace")
        if source.streams.audio:
            return Sound(source, film, begin)
        source.close()
    except FAILURES as error:
        _tell(name, error)
    return None
