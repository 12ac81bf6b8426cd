"""Videos of the demo: identities, formats, a stop and its continuation, cameras."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from frozenseg.build import prediction_settings
from frozenseg.commands.demo import main
from frozenseg.commands.segment_files import Outcome, segment_files
from frozenseg.commands.segment_video import MARK_EVERY, VideoOptions
from frozenseg.data.coco_records import categories_of
from frozenseg.data.image_files import root_of
from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.data.prediction_lines import Header, PredictionLines
from frozenseg.data.rle import decode_masks
from frozenseg.data.video import Selection, read_video, video_writer
from frozenseg.errors import UserError
from frozenseg.results.following import AFRESH
from frozenseg.results.result import SegmentationResult
from frozenseg.structures import PanopticResult, Segment
from frozenseg.text.vocabulary import Vocabulary
from tests.commands.test_result_names import without_states
from tests.data.films import damage

pytest.importorskip("av", reason='pip install "frozenseg[video]"')

WORDS = Vocabulary.parse("ball, lamp; wall", things="ball")


def find_balls(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
    """Each bright spot is a ball, numbered from the left, as a model without memory does."""
    count, spots = cv2.connectedComponents((image.mean(2) > 150).astype(np.uint8))
    segments, ids = [], np.full(image.shape[:2], count, np.int32)
    order = sorted(range(1, count), key=lambda n: np.nonzero(spots == n)[1].min())
    for number, spot in [*enumerate(order, 1), (count, 0)]:
        y, x = np.nonzero(spots == spot)
        ids[y, x] = number
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        thing, label = spot > 0, int(spot == 0)
        name = vocabulary.labels[label]
        segments.append(Segment(number, label, name, thing, 0.5 + number / 64, len(x), box))
    return SegmentationResult(image, vocabulary, PanopticResult(ids, segments), None, None, None)


def segmenter(segment: Callable[..., SegmentationResult] = find_balls) -> Any:
    def stream(images: Iterable, vocabulary: Vocabulary, *, threshold: float) -> Iterator:
        for image in images:
            yield segment(image, vocabulary).filter(threshold=threshold)

    return SimpleNamespace(
        stream=stream,
        training_vocabulary=Vocabulary.parse("ball"),
        embed=lambda vocabulary: None,
        model=SimpleNamespace(device="cpu"),
    )


def clip(path: Path, count: int = 24) -> Path:
    """A ball that goes right and, from the fifth frame on, one above it that goes left."""
    with video_writer(path, fps=10) as append:
        for step in range(count):
            pixels = np.full((64, 160, 3), 30, np.uint8)
            cv2.circle(pixels, (12 + 3 * step, 46), 9, (240, 240, 240), -1)
            if step >= 4:
                cv2.circle(pixels, (140 - 3 * step, 16), 9, (240, 240, 240), -1)
            append(pixels)
    return path


def run(
    output: Path, *paths: Path | str, model: Any = None, pictures: bool = False, **options: Any
) -> Outcome:
    root = root_of([str(path) for path in paths if isinstance(path, Path)] or ["."])
    video = VideoOptions(**options)
    header = Header(categories_of(WORDS.names, WORDS.is_thing), video.settings(), str(root))
    with contextlib.closing(PredictionLines(output / "predictions", header)) as lines:
        return segment_files(
            model or segmenter(),
            list(paths),
            output,
            lines,
            vocabulary=WORDS,
            pictures=pictures,
            video=video,
        )


def content(output: Path, name: str) -> dict:
    return json.loads((output / "predictions" / name).read_text())


def test_identities_in_the_formats_of_youtube_vis_and_vipseg(tmp_path: Path) -> None:
    assert run(tmp_path / "out", clip(tmp_path / "a.mp4"), clip(tmp_path / "b.mp4", 3)).losses == []
    found, panoptic = (
        content(tmp_path / "out", name) for name in ("youtube_vis.json", "video_panoptic.json")
    )
    assert [(v["name"], v["length"]) for v in found["videos"]] == [("a", 24), ("b", 3)]
    tracks = [(t["video_id"], t["category_id"], t["track_id"]) for t in found["annotations"]]
    assert tracks == [(1, 1, 2), (1, 1, 3), (2, 1, 2)]  # the wall is the first
    assert all(track["segmentations"][0] is None for track in found["annotations"][1:2])
    folder = tmp_path / "out/predictions/panoptic"
    ids = np.stack([read_panoptic_ids(path) for path in sorted((folder / "a").iterdir())])
    for track in found["annotations"][:2]:
        for frame, code in enumerate(track["segmentations"]):
            mask = decode_masks([code], (64, 160))[0] if code else np.zeros((64, 160), bool)
            assert np.array_equal(mask, ids[frame] == track["track_id"])
    assert [len(video["annotations"]) for video in panoptic["annotations"]] == [24, 3]
    for video in panoptic["annotations"]:
        for frame in video["annotations"]:
            ids = read_panoptic_ids(folder / video["video_id"] / frame["file_name"])
            listed = {row["id"]: row["area"] for row in frame["segments_info"]}
            assert listed == dict(zip(*np.unique(ids, return_counts=True), strict=True))


def test_a_thing_keeps_its_colour_in_the_film(tmp_path: Path) -> None:
    run(tmp_path / "out", clip(tmp_path / "a.mp4", 12), pictures=True)
    frames = [frame.pixels for frame in read_video(tmp_path / "out/a.mp4").frames()]
    first, last = frames[1][46 * 4, (12 + 3) * 4 - 16], frames[-1][46 * 4, (12 + 33) * 4 - 16]
    assert np.abs(first.astype(int) - last).max() < 20


def test_without_identities(tmp_path: Path) -> None:
    run(tmp_path / "out", clip(tmp_path / "a.mp4", 8), track=False)
    assert not (tmp_path / "out/predictions/youtube_vis.json").exists()
    rows = content(tmp_path / "out", "panoptic.json")["annotations"][-1]["segments_info"]
    assert [row["id"] for row in rows] == [1, 2, 3] and "track_id" not in rows[0]


class Stop(BaseException):
    """What nobody catches, as a kill is."""


def stopping(after: int) -> Any:
    """A segmenter that is killed at a frame; it counts what it was given."""
    done: list[int] = []

    def segment(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        if len(done) == after:
            raise Stop
        done.append(1)
        return find_balls(image, vocabulary)

    return SimpleNamespace(**vars(segmenter(segment)), done=done)


@pytest.mark.parametrize("still", [None, 3.0])
def test_a_stopped_video_goes_on_and_equals_one_run(tmp_path: Path, still: float | None) -> None:
    path = clip(tmp_path / "in/a.mp4")
    run(tmp_path / "whole", path, still=still, pictures=True)
    first, second = stopping(MARK_EVERY + 4), stopping(99)
    with pytest.raises(Stop):
        run(tmp_path / "out", path, model=first, still=still, pictures=True)
    with open(tmp_path / "out/predictions/lines.jsonl", "a") as file:
        file.write('{"input": "a.mp4", "image')  # a kill leaves half a line
    run(tmp_path / "out", path, model=second, still=still, pictures=True)
    assert len(second.done) == 24 - MARK_EVERY  # in these clips all moves
    whole, names = (
        sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
        for folder in (tmp_path / "whole", tmp_path / "out")
    )
    assert names == whole and Path("a.mp4") in names and MARK_EVERY % AFRESH == 0
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_stopped_video_whose_file_was_replaced_is_done_anew(
    tmp_path: Path, replaced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path, again = clip(tmp_path / "a.mp4"), stopping(99)
    with pytest.raises(Stop):
        run(tmp_path / "out", path, model=stopping(20))
    if replaced:
        clip(path, 18)
    os.utime(path, (9, 9))  # without a replacement, that of a copy with the same content
    run(tmp_path / "out", path, model=again)
    assert len(again.done) == (18 if replaced else 24 - MARK_EVERY)
    assert ("1 inputs are made again: their files have changed" in caplog.text) is replaced
    assert len(content(tmp_path / "out", "panoptic.json")["images"]) == (18 if replaced else 24)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_stopped_video_that_lacks_a_label_map_is_done_anew(
    tmp_path: Path, pictures: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path, again = clip(tmp_path / "a.mp4"), stopping(99)
    with pytest.raises(Stop):
        run(tmp_path / "out", path, model=stopping(20), pictures=pictures)
    label_map = tmp_path / "out/predictions/panoptic/a/000003.png"
    label_map.unlink()
    assert run(tmp_path / "out", path, model=again, pictures=pictures).failures == []
    assert "1 inputs are made again: their label maps are missing" in caplog.text
    assert len(again.done) == 24 and label_map.exists()
    assert len(content(tmp_path / "out", "panoptic.json")["images"]) == 24


def test_a_stopped_video_whose_lines_say_nothing_of_its_file_goes_on(tmp_path: Path) -> None:
    path, again = clip(tmp_path / "a.mp4"), stopping(99)
    with pytest.raises(Stop):
        run(tmp_path / "out", path, model=stopping(20))
    without_states(tmp_path / "out")
    run(tmp_path / "out", clip(path, 18), model=again)
    assert len(again.done) == 18 - MARK_EVERY


def test_a_stopped_video_that_is_no_longer_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(tmp_path / "out", clip(tmp_path / "a.mp4"), model=stopping(20))
    run(tmp_path / "out", clip(tmp_path / "b.mp4", 3))
    names = [image["file_name"] for image in content(tmp_path / "out", "panoptic.json")["images"]]
    assert names == ["b.mp4#1", "b.mp4#2", "b.mp4#3"]


def test_a_video_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    seen: list[int] = []

    def segment(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        seen.append(1)
        if len(seen) == 20:
            raise UserError("too large")
        return find_balls(image, vocabulary)

    paths = [clip(tmp_path / "a.mp4"), clip(tmp_path / "b.mp4", 2)]
    assert run(tmp_path / "out", *paths, model=segmenter(segment)).failures == [
        f"{tmp_path / 'a.mp4'}: too large"
    ]
    names = [image["file_name"] for image in content(tmp_path / "out", "panoptic.json")["images"]]
    assert names == ["b.mp4#1", "b.mp4#2"]


def test_still_frames_cost_nothing(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", fps=10) as append:
        for step in range(40):
            pixels = np.full((64, 160, 3), 30, np.uint8)
            cv2.circle(pixels, (30 if step < 25 else 90, 40), 9, (240, 240, 240), -1)
            append(pixels)
    model = stopping(99)
    run(tmp_path / "out", tmp_path / "a.mp4", model=model, still=5.0)
    assert len(model.done) == 4  # every 16th, and the one that differs
    rows = content(tmp_path / "out", "panoptic.json")["annotations"]
    assert len(rows) == 40 and rows[24]["segments_info"] != rows[25]["segments_info"]


def test_frames_are_selected(tmp_path: Path) -> None:
    chosen, path = Selection(stride=4, start=1.0, end=2.2, max_side=80), clip(tmp_path / "a.mp4")
    run(tmp_path / "out", path, selection=chosen, legend=True, codec="vp9", pictures=True)
    images = content(tmp_path / "out", "panoptic.json")["images"]
    assert [(i["file_name"], i["time"], i["width"]) for i in images] == [
        (f"a.mp4#{number}", pytest.approx((number - 1) / 10), 80) for number in (13, 17, 21)
    ]
    frames = list(read_video(tmp_path / "out/a.mp4").frames())
    assert [frame.time for frame in frames] == pytest.approx([0, 0.4, 0.8], abs=1e-3)
    assert frames[0].pixels.shape[1] > 640  # with the legend
    outcome = run(tmp_path / "more", path, selection=Selection(start=60), pictures=True)
    assert "no frame lies between --start and --end" in outcome.failures[0]
    assert not list((tmp_path / "more").glob("*.mp4"))


@pytest.mark.parametrize("end", [2.0, float("inf")])
def test_the_loss_of_a_damaged_video_is_told_each_time(tmp_path: Path, end: float) -> None:
    path, chosen = clip(tmp_path / "a.mp4", 44), Selection(end=end)
    damage(path, (7, 8))
    first = run(tmp_path / "out", path, selection=chosen)
    assert len(first.losses) == 1 and not first.failures
    assert first.losses[0].startswith(f"{path}: ") and "pieces are damaged" in first.losses[0]
    again = run(tmp_path / "out", path, clip(tmp_path / "b.mp4", 2), selection=chosen)
    assert again.losses == first.losses and again.earlier == 1
    names = [i["file_name"] for i in content(tmp_path / "out", "panoptic.json")["images"]]
    assert names[5:7] == ["a.mp4#6", "a.mp4#9"] and names[-1] == "b.mp4#2"


class FakeCamera:
    """An endless camera, or one that is not there."""

    def __init__(self, number: Any) -> None:
        self.there, self.taken = number == 0, 0

    def isOpened(self) -> bool:  # noqa: N802
        return self.there

    def get(self, what: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        self.taken += 1
        pixels = np.full((48, 64, 3), 30, np.uint8)
        return True, cv2.circle(pixels, (30, 20), 9, (240, 240, 240), -1)

    def release(self) -> None:
        self.there = False


def test_ctrl_c_ends_a_camera_and_its_film_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    seen: list[int] = []

    def segment(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return find_balls(image, vocabulary)

    model = segmenter(segment)
    assert run(tmp_path / "out", "0", model=model, pictures=True).failures == []
    (film,) = (tmp_path / "out").glob("camera_0_*.mp4")
    assert len(list(read_video(film).frames())) == 5
    outcome = run(tmp_path / "out", "1", model=model)
    assert "1: no such camera" in outcome.failures[0]


def test_a_stream_that_is_not_there_does_not_print_its_password(tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", "rtsp://me:secret@127.0.0.1:1/a", clip(tmp_path / "a.mp4", 2))
    assert len(outcome.failures) == 1 and "secret" not in outcome.failures[0]
    assert outcome.failures[0].startswith("rtsp://127.0.0.1:1/a: no such stream")


def test_options_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    loaded: list[int] = []

    def load(*_: Any, **__: Any) -> tuple[Any, dict[str, str]]:
        loaded.append(1)
        return segmenter(), {"weights": "0"}

    monkeypatch.setattr(prediction_settings, "load_with_settings", load)
    path, output = clip(tmp_path / "a.mp4"), tmp_path / "out"
    argv = ["--vocabulary", "ball; wall", "--things", "ball", "--output", str(output)]
    argv += ["--video-input", str(path), "--end", "1"]
    assert main([*argv, "--stride", "5", "--no-track", "--reuse-still", "2"]) is None
    assert len(content(output, "panoptic.json")["images"]) == 2
    with pytest.raises(UserError, match="stride 5, now default; track False, now default"):
        main(argv)
    loaded.clear()
    for wrong, words in (
        (["--stride", "0"], "stride 0"),
        (["--start", "2"], "start 2, end 1"),
        (["--reuse-still", "300"], "--reuse-still 300: must lie in 0-255"),
        (["--reuse-still", "nan"], "--reuse-still nan"),
    ):
        with pytest.raises(UserError, match=words):
            main([*argv, *wrong])
    assert not loaded
