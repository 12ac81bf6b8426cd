"""Videos survive writing and reading, and those that are not whole are named."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from frozenseg.data.image_files import is_video
from frozenseg.data.video import CODECS, Selection, Video, read_video, video_writer
from frozenseg.data.video.with_opencv import OpenCVDecoder
from frozenseg.errors import UserError, WriteError
from tests.data.films import damage, film
from tests.disk import files_end_at

av = pytest.importorskip("av", reason='pip install "frozenseg[video]"')
from frozenseg.data.video.film import ENCODERS  # noqa: E402
from frozenseg.data.video.sound import Sound  # noqa: E402
from frozenseg.data.video.with_pyav import PyAVDecoder  # noqa: E402

COLORS = [(200, 20, 20), (20, 200, 20), (20, 20, 200)]


@pytest.fixture(params=["pyav", "opencv"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that reads and writes."""
    if request.param == "opencv":
        for module in ("reading", "writing"):
            monkeypatch.setattr(f"frozenseg.data.video.{module}.has_pyav", lambda: False)
    return request.param


def _brightness(video: Video) -> list[int]:
    """Of the left half of each frame."""
    return [int(frame.pixels[:, : frame.pixels.shape[1] // 4].mean()) for frame in video.frames()]


def _levels(count: int) -> list[object]:
    return [pytest.approx(40 + 20 * (number % 10), abs=5) for number in range(count)]


def test_frames_come_back(tmp_path: Path, library: str) -> None:
    with video_writer(tmp_path / "a.mp4", fps=12) as append:
        for color in COLORS:
            append(np.full((33, 47, 3), color, dtype=np.uint8))
    video = read_video(tmp_path / "a.mp4")
    assert video.fps == pytest.approx(12) and video.num_frames == 3
    frames = list(video.frames())
    assert [frame.number for frame in frames] == [1, 2, 3] and video.loss == ""
    assert [frame.time for frame in frames] == pytest.approx([0, 1 / 12, 2 / 12], abs=1e-4)
    for frame, color in zip(frames, COLORS, strict=True):
        assert frame.pixels.shape == (34, 48, 3)  # padded to even sides
        assert np.abs(frame.pixels.astype(int) - color).max() < 12  # the codec loses a little


def test_a_failed_run_leaves_no_half_video(tmp_path: Path, library: str) -> None:
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4", fps=12) as append:
        append(np.zeros((32, 32, 3), dtype=np.uint8))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, library: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(WriteError, match="a.mp4: cannot be written"):
        with files_end_at(5000), video_writer(tmp_path / "a.mp4", fps=12) as append:
            for _ in range(20):
                append(noise)
    assert list(tmp_path.iterdir()) == []


def test_no_video(tmp_path: Path, library: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    (tmp_path / "c.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    for name, words in [
        ("a.mp4", "is not a video"),
        ("b.mp4", "no such video"),
        ("c.mp4", "is not a video"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            read_video(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the policy of every thread")
@pytest.mark.parametrize("codec", CODECS)
def test_no_thread_becomes_a_real_time_one(tmp_path: Path, codec: str) -> None:
    """The encoder of AV1 makes some, where root runs it."""
    found = set()
    with video_writer(tmp_path / "a.mp4", fps=10, codec=codec) as append:
        for number in range(5):
            append(np.full((64, 64, 3), 40 * number, np.uint8))
            found |= {os.sched_getscheduler(int(t)) for t in os.listdir("/proc/self/task")}
    found |= {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert found == {os.SCHED_OTHER}


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_that_browsers_play(tmp_path: Path, codec: str) -> None:
    with video_writer(tmp_path / "a.mp4", fps=10, codec=codec) as append:
        for number in range(5):
            append(np.full((64, 64, 3), 40 * number, np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name in (codec, "libdav1d")  # which reads AV1
        assert stream.codec_context.pix_fmt == "yuv420p"
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a player can start before it has all
    assert len(list(read_video(tmp_path / "a.mp4").frames())) == 5


def test_what_ffmpeg_cannot_encode_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for codec, line in (("av1", "frames of 2 x 48 pixels"), ("h264", "films with it .libabsent")):
        if codec == "h264":  # some builds lack it
            monkeypatch.setitem(ENCODERS, codec, ("libabsent", {}))
        with pytest.raises(UserError, match=f"codec {codec}: .* FFmpeg cannot encode {line}"):
            with video_writer(tmp_path / "a.mp4", fps=5, codec=codec) as append:
                append(np.zeros((47, 2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_unknown_codec(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'mpeg1': unknown; known: h264, vp9, av1"):
        with video_writer(tmp_path / "a.mp4", fps=10, codec="mpeg1"):
            pass


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_turned_video_is_upright(tmp_path: Path, turned: int) -> None:
    path = film(tmp_path / "a.mp4", turned=turned)
    frames = [frame.pixels for frame in read_video(path).frames()]
    other = [frame.pixels for frame in OpenCVDecoder(str(path)).frames(Selection())]
    assert frames[5].shape == ((48, 64, 3) if turned == 180 else (64, 48, 3))
    assert np.abs(frames[5].astype(int) - other[5]).max() < 8  # OpenCV turns by itself


def test_variable_rate(tmp_path: Path) -> None:
    times = (0, 1, 2, 8, 9, 20)
    video = read_video(film(tmp_path / "a.mp4", times=times))
    assert [frame.time for frame in video.frames()] == pytest.approx([t / 10 for t in times])
    with video_writer(tmp_path / "b.mp4", fps=video.fps) as append:
        for frame in video.frames(Selection(start=0.15)):
            append(frame.pixels, frame.time)
    copied = [frame.time for frame in read_video(tmp_path / "b.mp4").frames()]
    assert copied == pytest.approx([0, 0.6, 0.7, 1.8], abs=1e-3)  # it begins with its first frame


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libsvtav1"),
        ("a.webm", "libvpx-vp9"),
        ("a.mkv", "libx265"),
        ("a.avi", "mpeg4"),
        ("a.3gp", "mpeg4"),
        ("a.TS", "libx264"),
        ("a.m2ts", "libx264"),
        ("a.flv", "flv1"),
        ("a.ogv", "libvpx"),
        ("a.asf", "mpeg4"),
    ],
)
def test_other_codecs_and_containers(tmp_path: Path, name: str, codec: str) -> None:
    video = read_video(film(tmp_path / name, codec=codec, size=(64, 64)))
    assert is_video(tmp_path / name)
    assert _brightness(video) == _levels(10) and video.loss == ""


def test_material_of_a_studio(tmp_path: Path) -> None:
    """MXF takes none of the frame rates of `film`."""
    with av.open(str(tmp_path / "a.mxf"), "w") as out:
        stream = out.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            pixels = np.full((48, 64, 3), 40 + 20 * number, np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    assert is_video(tmp_path / "a.mxf")
    assert _brightness(read_video(tmp_path / "a.mxf")) == _levels(3)


def test_a_truncated_video(tmp_path: Path) -> None:
    """What can be read is read, and the loss is said; where nothing can be, one line says so."""
    path = film(tmp_path / "a.mp4", times=range(30), options={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    video = read_video(path)
    found = _brightness(video)
    assert 0 < len(found) < 30 and found == _levels(len(found))
    assert video.loss == f"{len(found)} of the 30 frames that it declares can be read"
    whole = film(tmp_path / "b.mp4", times=range(30))  # its table stands at its end
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(UserError, match="b.mp4: is not a video, holds no frame, or is damaged"):
        read_video(whole)


def test_a_video_without_a_count_that_ends_early(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", times=range(0, 100, 2))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = read_video(path)
    assert 0 < len(list(video.frames())) < 50
    assert video.loss.endswith("of the 9.9 seconds that it declares can be read")


def test_a_damaged_piece_in_the_middle(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", times=range(30), options={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    video = read_video(path)
    assert 10 < len(list(video.frames())) < 30 and video.loss.endswith("pieces are damaged")


def test_damaged_frames_leave_the_numbers_of_the_others(tmp_path: Path) -> None:
    """The loss is said where the selection ends before the file does, too."""
    path = film(tmp_path / "a.mp4", times=range(50))  # a decoder is up to 16 frames ahead
    damage(path, (9, 10, 11, 12))
    kept = [number for number in range(1, 51) if number not in (9, 10, 11, 12)]
    for selection, numbers in (
        (Selection(), kept),
        (Selection(end=2), kept[:16]),
        (Selection(stride=2), kept[::2]),
        (Selection(end=0.3), [1, 2, 3]),
    ):
        video = read_video(path)
        frames = list(video.frames(selection))
        assert [frame.number for frame in frames] == numbers
        assert [round(10 * frame.time) + 1 for frame in frames] == numbers
        assert ("pieces are damaged" in video.loss) == (numbers != [1, 2, 3])


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", times=(), sound="aac")
    with pytest.raises(UserError, match="a.mp4: holds sound, but no pictures; give a video"):
        read_video(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_no_frame(tmp_path: Path, name: str) -> None:
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    with pytest.raises(
        UserError,
        match=f"{name}: (is not a video, )?(holds no pictures|holds no frame|no frame can)",
    ):
        read_video(tmp_path / name)


def test_sound_that_goes_on_is_no_loss(tmp_path: Path) -> None:
    video = read_video(film(tmp_path / "a.mkv", times=(0, 1, 2), sound="libopus"))
    assert len(list(video.frames())) == 3 and video.loss == ""


def test_one_frame(tmp_path: Path, library: str) -> None:
    video = read_video(film(tmp_path / "a.mp4", times=(0,)))
    assert _brightness(video) == _levels(1) and video.loss == ""


@pytest.mark.parametrize("codec", ["aac", "libopus", "pcm_s16le"])
def test_the_sound_is_kept(tmp_path: Path, codec: str) -> None:
    """One second of it, of which the film shows the last 0.6."""
    path = film(tmp_path / "a.mkv", sound=codec)
    video = read_video(path)
    with video_writer(tmp_path / "b.mp4", fps=video.fps, sound=path) as append:
        for frame in video.frames(Selection(start=0.35)):
            append(frame.pixels, frame.time)
    with av.open(str(tmp_path / "b.mp4")) as file:
        stream = file.streams.audio[0]
        heard = np.concatenate([f.to_ndarray().astype(float)[0] for f in file.decode(stream)])
    assert stream.codec_context.name == {"libopus": "opus"}.get(codec, "aac")
    assert len(heard) / stream.rate == pytest.approx(0.6, abs=0.06)
    assert len(list(read_video(tmp_path / "b.mp4").frames())) == 6


def _film_of(path: Path) -> Path:
    """Write the frames of a film again, with its sound."""
    video, copy = read_video(path), path.with_name("copy.mp4")
    with video_writer(copy, fps=video.fps, sound=path) as append:
        for frame in video.frames():
            append(frame.pixels, frame.time)
    assert len(list(read_video(copy).frames())) == 10
    return copy


@pytest.mark.parametrize(
    ("name", "codec", "rate", "kept", "new_rate"),
    [
        ("a.avi", "mp3", 44_100, "mp3", 44_100),  # a tick of this file is 1152 samples
        ("a.avi", "mp3", 48_000, "aac", 48_000),
        ("a.avi", "mp3", 11_025, "aac", 11_025),
        ("a.avi", "pcm_s16le", 50_000, "aac", 48_000),
        ("a.avi", "pcm_s16le", 4_000, "aac", 7_350),
        ("a.mkv", "pcm_s16le", 192_000, "aac", 96_000),
    ],
)
def test_sound_of_any_rate_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    codec: str,
    rate: int,
    kept: str,
    new_rate: int,
) -> None:
    if kept == "aac":
        monkeypatch.setattr("frozenseg.data.video.sound.COPIED", set())
    path = film(tmp_path / name, codec="mpeg4", sound=codec, rate=rate)
    with av.open(str(_film_of(path))) as file:
        stream = file.streams.audio[0]
        frames = list(file.decode(stream))
    assert stream.codec_context.codec.canonical_name == kept and stream.rate == new_rate
    assert all(a.pts + a.samples == b.pts for a, b in zip(frames, frames[1:], strict=False))
    heard = np.concatenate([frame.to_ndarray().astype(float)[0] for frame in frames])
    assert len(heard) / new_rate == pytest.approx(1, abs=0.25)
    tone = np.abs(np.fft.rfft(heard)).argmax() * new_rate / len(heard)
    assert tone == pytest.approx(rate / (40 * np.pi), rel=0.02)  # sin(n / 20)


def test_sound_that_cannot_be_kept_is_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.avi", codec="mpeg4", sound="pcm_s16le")
    data = bytearray(path.read_bytes())
    kind = data.index(b"strf", data.index(b"auds")) + 8  # the number of its codec
    data[kind : kind + 2] = b"\x99\x77"
    path.write_bytes(data)
    with av.open(str(_film_of(path))) as file:
        assert not file.streams.audio
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (
        "a.avi: its sound, or the rest of it, cannot be kept in the film (its codec" in caplog.text
    )


@pytest.mark.parametrize(("codec", "method"), [("aac", "_copy"), ("pcm_s16le", "_encode")])
@pytest.mark.parametrize("after", [0, 5])
def test_sound_that_fails_midway_is_a_note(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    codec: str,
    method: str,
    after: int,
) -> None:
    original, written = getattr(Sound, method), []

    def write(self: Sound, piece: object) -> None:
        if len(written) == after:
            raise av.error.ArgumentError(22, "Invalid argument")
        written.append(original(self, piece))

    monkeypatch.setattr(Sound, method, write)
    path = film(tmp_path / "a.mkv", sound=codec)
    with av.open(str(_film_of(path))) as file:
        assert len(file.streams.audio) == (after > 0)
    assert caplog.text.count("a.mkv: its sound, or the rest of it, cannot be kept") == 1
    assert "(Invalid argument)" in caplog.text


def test_a_selection(tmp_path: Path, library: str) -> None:
    video = read_video(film(tmp_path / "a.mp4"))
    chosen = Selection(stride=3, start=0.25, end=0.9, max_side=32)
    frames = list(video.frames(chosen))
    assert [frame.number for frame in frames] == [4, 7] and video.loss == ""
    assert [frame.pixels.shape for frame in frames] == [(24, 32, 3)] * 2
    assert chosen.expected(video.num_frames, video.fps) == 2
    for wrong in ({"stride": 0}, {"start": -1}, {"start": 2, "end": 2}, {"max_side": -1}):
        with pytest.raises(UserError):
            Selection(**wrong)


def test_without_pyav_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "a.mp4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert len(list(read_video(path).frames())) == len(list(read_video(path).frames())) == 10
    assert caplog.text.count('pip install "frozenseg[video]"') == 1


def test_no_camera_and_no_stream() -> None:
    with pytest.raises(UserError, match="97: no such camera, .* another program"):
        read_video("97")
    with pytest.raises(UserError, match=r"rtsp://127.0.0.1:1/a: no such stream \("):
        read_video("rtsp://127.0.0.1:1/a")


def test_a_stream_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands for the stream, of which a second reader might not be let in."""
    path, opened, original = film(tmp_path / "a.mp4"), [], av.open
    monkeypatch.setattr(av, "open", lambda name, **more: opened.append(name) or original(name))
    decoder = PyAVDecoder(str(path), live=True)
    assert [frame.number for frame in decoder.frames(Selection(end=0.45))] == [1, 2, 3, 4, 5]
    assert len(opened) == 1
