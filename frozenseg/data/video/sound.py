"""Keep the sound of a video in a film that is made of its frames."""

from typing import Any

import av
from av.error import FFmpegError

COPIED = {"aac", "mp3", "opus", "flac", "ac3", "eac3", "alac"}  # that MP4 files may hold


class Sound:
    """Copies the sound of a video into a film, in step with its frames.

    Sound of a codec that MP4 lacks becomes AAC.
    """

    def __init__(self, source: Any, film: Any, begin: float) -> None:
        """Add a stream of sound to a film.

        source: the opened video. film: the opened film, before its first frame.
        begin: the time of that frame in the video, in seconds.
        """
        self.source, self.film = source, film
        stream = source.streams.audio[0]
        self.begin = begin + (source.start_time or 0) / av.time_base
        self.resampler = None
        if stream.codec_context.name in COPIED:
            self.stream = film.add_stream_from_template(stream)
            self.pieces = (packet for packet in source.demux(stream) if packet.pts is not None)
        else:
            # Files need not name the places of their channels, which AAC must know.
            layout = "mono" if stream.channels == 1 else "stereo"
            self.stream = film.add_stream("aac", rate=stream.rate, layout=layout)
            self.resampler = av.AudioResampler("fltp", layout, stream.rate, frame_size=1024)
            self.pieces = source.decode(stream)
        self.next: Any = None
        self._advance()

    def until(self, time: float) -> None:
        """Write what sounds before this time of the film, in seconds."""
        while self.next is not None:
            moment = float(self.next.pts * self.next.time_base) - self.begin
            if moment >= time:
                return
            if moment >= 0:
                self._write(self.next)
            self._advance()

    def close(self) -> None:
        """End the stream."""
        if self.resampler is not None:
            self._encode([*self.resampler.resample(None), None])
        self.source.close()

    def _advance(self) -> None:
        try:
            self.next = next(self.pieces, None)
        except FFmpegError:  # the rest is damaged
            self.next = None

    def _write(self, piece: Any) -> None:
        shift = round(self.begin / piece.time_base)
        piece.pts -= shift
        if self.resampler is not None:
            self._encode(self.resampler.resample(piece))
            return
        if piece.dts is not None:
            piece.dts -= shift
        piece.stream = self.stream
        self.film.mux(piece)

    def _encode(self, frames: list[Any]) -> None:
        for frame in frames:
            self.film.mux(self.stream.encode(frame))


def open_sound(name: Any, film: Any, *, begin: float) -> Sound | None:
    """Add the sound of a video to a film; None if the video has none. See `Sound`."""
    source = av.open(str(name), metadata_errors="replace")
    if source.streams.audio:
        return Sound(source, film, begin)
    source.close()
    return None
