"""Videos of every kind for tests, made by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def film(
    path: Path,
    *,
    times: Sequence[float] = tuple(range(10)),
    codec: str = "libx264",
    size: tuple[int, int] = (48, 64),
    turned: int = 0,
    sound: str = "",
    rate: int = 48_000,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames at `times`, in units of 1/10 s: noise, but the left half is bright by 40 + 20 n.

    sound: an audio codec, for one second of a tone. rate: its samples a second.
    turned: degrees by which players turn the film.
    """
    import av

    from frozenseg.data.video.film import leaving_priorities

    height, width = size
    with av.open(str(path), "w", options=options or {}) as out:
        pictures: Any = None
        if times:
            pictures = out.add_stream(codec, rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
            pictures.codec_context.time_base = Fraction(1, 1000)
            if turned:
                pictures.set_display_rotation(turned)
        tones = out.add_stream(sound, rate=rate, layout="mono") if sound else None
        if tones is not None:
            wave = np.sin(np.arange(rate) / 20).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            for piece in av.AudioResampler(tones.format, "mono", rate, 960).resample(frame):
                out.mux(tones.encode(piece))
        noise = np.random.default_rng(0)
        for number, time in enumerate(times):
            pixels = noise.integers(0, 256, (height, width, 3), np.uint8)
            pixels[:, : width // 2] = 40 + 20 * (number % 10)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = round(100 * time), Fraction(1, 1000)
            with leaving_priorities():
                packets = pictures.encode(picture)
            out.mux(packets)
        for stream in (pictures, tones):
            if stream is not None:
                out.mux(stream.encode())
    return path


def damage(path: Path, numbers: Sequence[int]) -> None:
    """Overwrite the pieces of an MP4 file that hold these frames, from 1, of 10 a second."""
    import av

    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(file.streams.video[0]) if packet.size]
        places = {round(10 * p.pts * p.time_base) + 1: (p.pos, p.size) for p in packets}
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    for begin, size in map(places.__getitem__, numbers):
        data[begin + 5 : begin + size] = noise.bytes(size - 5)  # behind the length and the kind
    path.write_bytes(data)
