"""The demo on a segmenter that finds bright things on dark stuff: files, names, failures."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import frozenseg
from frozenseg.commands import run, score
from frozenseg.commands.demo import main
from frozenseg.commands.segment_files import output_names, segment_files
from frozenseg.data.images import read_image
from frozenseg.data.results import read_lines
from frozenseg.data.video import read_video, video_writer
from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError, WriteError
from frozenseg.files import writing
from frozenseg.structures import InstanceResult, PanopticResult, Segment
from frozenseg.text.vocabulary import Vocabulary

WORDS = Vocabulary.parse("lamp, light; wall", things="lamp")


def streaming(segment: Callable) -> Callable:
    """Gives a function of one image the `stream` of a predictor."""

    def stream(images: Iterable, vocabulary: Vocabulary) -> Iterator:
        for image in images:
            try:
                pixels = read_image(image) if isinstance(image, Path) else image
                result = segment(pixels, vocabulary)
            except UserError as error:
                result = error
            yield result

    segment.stream = stream
    return segment


@streaming
def fake_segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SimpleNamespace:
    """Bright pixels are the first class, all others the second."""
    assert image.dtype == np.uint8 and image.ndim == 3
    height, width = image.shape[:2]
    bright = image.mean(axis=2) > 127
    ids = np.where(bright, 1, 2).astype(np.int32)
    whole = (0, 0, width, height)
    segments = [
        Segment(id, class_id, vocabulary.names[class_id][0], not class_id, 0.5, int(area), whole)
        for id, class_id, area in [(1, 0, bright.sum()), (2, 1, (~bright).sum())]
        if area
    ]
    boxes = np.array([whole], dtype=np.float32)
    instances = InstanceResult(
        boxes, bright[None], np.array([0.5], np.float32), np.array([0]), ["lamp"]
    )
    return SimpleNamespace(
        regions=PanopticResult(ids, segments),
        instances=instances,
        vocabulary=vocabulary,
        note="random weights",
        draw=lambda legend=True: draw_segments(image, ids, segments, legend, note="random weights"),
    )


fake_segmenter.training_vocabulary = Vocabulary.parse("lamp")
fake_segmenter.embed = lambda vocabulary: None


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Replaces `frozenseg.load`; what it was called with."""
    calls: list[tuple] = []

    def load(name: str, weights: str | None = None, options: list[str] | None = None) -> Callable:
        calls.append((name, weights, options))
        return fake_segmenter

    monkeypatch.setattr(frozenseg, "load", load, raising=False)
    return calls


def _photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    Image.fromarray(np.broadcast_to(pixels, (20, 30, 3)).copy()).save(path)
    return path


def _content(output: Path) -> dict:
    return json.loads((output / "predictions.json").read_text())


def _exit(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int | None:
    monkeypatch.setattr(sys, "argv", ["demo", *argv])
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code or 0


def test_files_of_an_image(tmp_path: Path, loaded: list[tuple]) -> None:
    photo, output = _photo(tmp_path / "in" / "room.png"), tmp_path / "out"
    argv = ["--input", str(photo), "--vocabulary", "lamp, light; wall", "--output", str(output)]
    mixed = ["MODEL.X", "1", *argv, "MODEL.Z", "3", "--opts", "MODEL.Y", "2"]
    assert main(mixed) is None
    assert loaded == [("small", None, ["MODEL.X", "1", "MODEL.Z", "3", "MODEL.Y", "2"])]
    argv = [*argv[:-1], str(tmp_path / "more"), "--precision", "bf16", "--batch-size", "2"]
    assert main(argv) is None
    assert loaded[1] == ("small", None, ["MODEL.PRECISION", "bf16", "TEST.IMS_PER_BATCH", "2"])
    assert sorted(file.name for file in output.iterdir()) == [
        "predictions.json",
        "room.png",
        "room_panoptic.png",
    ]
    ids = np.asarray(Image.open(output / "room_panoptic.png"))[..., 0]
    bright = np.asarray(Image.open(photo))[..., 0] > 127
    assert np.array_equal(ids, np.where(bright, 1, 2))
    content = _content(output)
    assert content["info"]["notes"] == ["random weights"]
    assert content["images"][0]["file_name"] == photo.as_posix()
    assert [c["synonyms"] for c in content["categories"]] == [["lamp", "light"], ["wall"]]
    assert content["annotations"][0]["segments_info"][0]["area"] == bright.sum()
    assert Image.open(output / "room.png").size[0] > 640


def test_score_reads_what_the_demo_writes(tmp_path: Path) -> None:
    """A run against itself scores 1, against the same on other pictures it does not."""
    for name, seed in (("one", 0), ("two", 5)):
        photo = _photo(tmp_path / name / "a.png", seed)
        segment_files(fake_segmenter, [photo], tmp_path / name / "out", vocabulary=WORDS)
    scores = {}
    for name in ("one", "two"):
        argv = ["panoptic", "--json", str(tmp_path / "scores.json")]
        for kind, folder in (("gt", "one"), ("pred", name)):
            output = tmp_path / folder / "out"
            argv += [f"--{kind}", f"{output}/predictions.json", f"--{kind}-dir", str(output)]
        assert not score.main(argv)
        scores[name] = json.loads((tmp_path / "scores.json").read_text())["All"]["pq"]
    assert scores["one"] == 1 and scores["two"] < 1


def test_vocabulary_file_and_things(tmp_path: Path, loaded: list[tuple]) -> None:
    words, output = tmp_path / "words.txt", tmp_path / "out"
    words.write_text("0:invalid_class_id\n1:lamp,light\n2:wall\n")
    argv = ["--vocabulary-file", str(words), "--things", "wall", "--output", str(output)]
    main([*argv, "--input", str(_photo(tmp_path / "a.png"))])
    categories = _content(output)["categories"]
    assert [(c["name"], c["isthing"]) for c in categories] == [("lamp", 0), ("wall", 1)]


def test_a_bad_file_among_good_ones(
    tmp_path: Path,
    loaded: list[tuple],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "c.png"):
        _photo(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    argv = ["--input", str(folder), "--vocabulary", "lamp; wall", "--output", str(output)]
    assert _exit(argv, monkeypatch) == 1
    printed = capsys.readouterr()
    assert "2 of 3" in printed.out
    assert printed.err.count("\n") == 1 and f"not done: {folder / 'b.png'}: damaged" in printed.err
    names = [Path(image["file_name"]).name for image in _content(output)["images"]]
    assert names == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--input", "{in}/a.png", "--vocabulary", ""], "vocabulary is empty"),
        (["--input", "{in}/a.png", "--vocabulary", " ; , ;"], "vocabulary"),
        (["--input", "{in}/a.png"], "name the classes"),
        (["--input", "{in}/a.png", "--vocabulary-file", "{in}/none"], "none"),
        (["--input", "{in}/a.png", "--vocabulary", "a", "--things", "b"], "'b' is not in"),
        (["--vocabulary", "a"], "nothing to segment"),
        (["--input", "{in}/a.png", "--vocabulary", "a", "--batch-size", "0"], "--batch-size 0"),
        (["--input", "{in}/gone.png", "--vocabulary", "a"], "no such file"),
        (
            ["--input", "{in}/a.png", "--vocabulary", "a", "--output", "{in}/a.png/x"],
            "cannot be written",
        ),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_loaded(
    tmp_path: Path,
    loaded: list[tuple],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    words: str,
) -> None:
    _photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert _exit([word.replace("{in}", str(tmp_path)) for word in argv], monkeypatch) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1
    assert loaded == []


def test_no_good_input_at_all(
    tmp_path: Path,
    loaded: list[tuple],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    argv = ["--input", f"{tmp_path}/*.png", "--vocabulary", "a", "--output", str(output)]
    assert _exit(argv, monkeypatch) == 2
    assert capsys.readouterr().err.count("\n") == 1 and list(output.iterdir()) == []


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    output = tmp_path / "out"
    paths = [
        _photo(tmp_path / name, seed)
        for seed, name in enumerate(["x/a.png", "y/a.png", "y/a.jpg", "y/A_panoptic.png"])
    ]
    names = output_names(paths, output)
    assert names[:3] == ["a", "y_a", "a_2"] and names[3] not in ("a_panoptic", "A_panoptic")
    assert segment_files(fake_segmenter, paths, output, vocabulary=WORDS).failures == []
    for path, annotation in zip(paths, _content(output)["annotations"], strict=True):
        ids = np.asarray(Image.open(output / annotation["file_name"]))[..., 0]
        assert np.array_equal(ids == 1, np.asarray(Image.open(path)).mean(axis=2) > 127)
    assert len(list(output.iterdir())) == 2 * 4 + 1


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "a.png")
    before = photo.read_bytes()
    assert segment_files(fake_segmenter, [photo], tmp_path, vocabulary=WORDS).failures == []
    assert photo.read_bytes() == before and len(_content(tmp_path)["images"]) == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ZeroDivisionError])
def test_a_run_that_ends_midway_keeps_what_is_done(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output = tmp_path / "out"
    calls = iter([None, None, ending])

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SimpleNamespace:
        if error := next(calls):
            raise error
        return fake_segmenter(image, vocabulary)

    with pytest.raises(ending):
        segment_files(segmenter, paths, output, vocabulary=WORDS)
    assert len(_content(output)["images"]) == 2
    assert not [file for file in output.iterdir() if file.name.startswith(".")]


def test_each_image_is_on_disk_before_the_next_but_one(tmp_path: Path) -> None:
    """Nothing of it waits in memory for the end of the run."""
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output, seen = tmp_path / "out", []

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SimpleNamespace:
        """Waits until the results before it are written: that is done by another thread."""
        deadline, written = time.monotonic() + 10, -1
        while written < len(seen) and time.monotonic() < deadline:
            written = len(list(read_lines(output / "predictions.jsonl"))) - 1
        seen.append(written)
        return fake_segmenter(image, vocabulary)

    segment_files(segmenter, paths, output, vocabulary=WORDS)
    assert seen == [0, 1, 2]
    assert not (output / "predictions.jsonl").exists()


def test_a_folder_with_results_is_not_mixed_with_others(
    tmp_path: Path, loaded: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--input", str(_photo(tmp_path / "a.png")), "--vocabulary", "lamp; wall"]
    for _ in range(3):
        assert main(argv) is None
    folders = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert folders == ["demo", "demo_2", "demo_3"]
    with pytest.raises(UserError, match="demo: holds the predictions of an earlier run"):
        main([*argv, "--output", "output/demo"])
    assert len(loaded) == 3


def test_predictions_of_an_earlier_run_are_replaced_on_purpose(
    tmp_path: Path, loaded: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input"]
    assert main([*argv, str(_photo(tmp_path / "a.png"))]) is None
    (output / "predictions.jsonl").write_text("of a run that was killed\n")
    again = ["--overwrite", *argv, str(_photo(tmp_path / "b.png"))]
    with monkeypatch.context() as patch:
        patch.setattr(frozenseg, "load", _no_model)
        with pytest.raises(UserError, match="no such weights"):
            main(again)
    assert (output / "predictions.jsonl").exists() and len(_content(output)["images"]) == 1
    assert main(again) is None
    assert [Path(entry["file_name"]).name for entry in _content(output)["images"]] == ["b.png"]
    assert not (output / "predictions.jsonl").exists()


def _no_model(*_: object, **__: object) -> None:
    raise UserError("no such weights")


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    """SIGKILL after the second of many images, in a process of its own."""
    for letter in "ab":
        _photo(tmp_path / f"{letter}.png")
    code = f"""
import os, signal
from pathlib import Path
from frozenseg.commands.segment_files import segment_files
from tests.commands.test_demo import WORDS, fake_segmenter, streaming
from frozenseg.data.images import read_image
from frozenseg.data.results import read_lines

folder = Path({str(tmp_path)!r})
@streaming
def segmenter(image, vocabulary):
    if len(list(read_lines(folder / "out" / "predictions.jsonl"))) >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_segmenter(image, vocabulary)
paths = [folder / "a.png", folder / "b.png"] + [folder / "a.png"] * 200
segment_files(segmenter, paths, folder / "out", vocabulary=WORDS)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    head, *entries = read_lines(tmp_path / "out" / "predictions.jsonl")
    assert [category["name"] for category in head["categories"]] == ["lamp", "wall"]
    assert [Path(entry["image"]["file_name"]).name for entry in entries][:2] == ["a.png", "b.png"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_told_to_end_finishes_its_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    _photo(tmp_path / "a.png")
    code = f"""
import os, sys
from pathlib import Path
import frozenseg
from frozenseg.commands import demo, run
from tests.commands.test_demo import fake_segmenter, streaming

images = []
@streaming
def segmenter(image, vocabulary):
    images.append(1)
    if len(images) == 3:
        os.kill(os.getpid(), {int(number)})
    return fake_segmenter(image, vocabulary)
segmenter.training_vocabulary = fake_segmenter.training_vocabulary
segmenter.embed = fake_segmenter.embed
frozenseg.load = lambda *_, **__: segmenter
folder = Path({str(tmp_path)!r})
for number in range(300):
    (folder / f"{{number:03d}}.png").write_bytes((folder / "a.png").read_bytes())
sys.argv = ["demo", "--input", str(folder), "--vocabulary", "lamp; wall", "--output"]
sys.argv.append(str(folder / "out"))
run(demo.main)
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
    content = _content(tmp_path / "out")
    assert 2 <= len(content["images"]) < 300
    for entry in content["annotations"]:
        assert (tmp_path / "out" / entry["file_name"]).is_file()


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output = tmp_path / "out"

    def write(path: Path, ids: np.ndarray) -> None:
        with writing(path):
            if path.name == "b_panoptic.png":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("frozenseg.commands.segment_files.write_panoptic_png", write)
    with pytest.raises(WriteError, match="b_panoptic.png: cannot be written .No space left"):
        segment_files(fake_segmenter, paths, output, vocabulary=WORDS)
    names = [Path(image["file_name"]).name for image in _content(output)["images"]]
    assert names in (["a.png"], ["a.png", "c.png"])  # the third may be at work already


def test_long_names(tmp_path: Path) -> None:
    paths = [_photo(tmp_path / "in" / f"{'é' * 124}{letter}.png") for letter in "ab"]
    output = tmp_path / "out"
    assert segment_files(fake_segmenter, paths, output, vocabulary=WORDS).failures == []
    assert len(list(output.iterdir())) == 2 * 2 + 1
    assert [image["file_name"] for image in _content(output)["images"]] == [
        path.as_posix() for path in paths
    ]


def test_control_characters_of_a_name_are_written_out(
    tmp_path: Path,
    loaded: list[tuple],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _photo(tmp_path / "a.png")
    (tmp_path / "b\n\x1b[31m.png").write_text("no image")
    inputs = [str(path) for path in sorted(tmp_path.iterdir())]
    argv = ["--vocabulary", "lamp; wall", "--output", str(tmp_path / "out"), "--input", *inputs]
    assert _exit(argv, monkeypatch) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and r"b\n\x1b[31m.png" in printed.err
    assert "found: lamp in 1, wall in 1" in printed.out


def test_a_video_that_is_not_whole(
    tmp_path: Path,
    loaded: list[tuple],
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What can be read is done, what is lost is counted, and FFmpeg says nothing besides."""
    whole, cut, output = tmp_path / "whole.avi", tmp_path / "cut.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 8, (64, 48))
    for _ in range(10):
        writer.write(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input", str(cut)]
    assert _exit(argv, monkeypatch) == 1
    printed, frames = capfd.readouterr(), len(_content(output)["images"])
    assert 0 < frames < 10
    assert (
        printed.err == f"not whole: {cut}: {frames} of the 10 frames that it declares can be read\n"
    )


def test_a_video_between_images(tmp_path: Path) -> None:
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        for level in (10, 250, 10, 250, 10):
            append(np.full((48, 64, 3), level, dtype=np.uint8))
    output = tmp_path / "out"
    paths = [_photo(tmp_path / "a.png"), tmp_path / "clip.mp4", _photo(tmp_path / "b.png")]
    assert segment_files(fake_segmenter, paths, output, vocabulary=WORDS).failures == []
    names = [Path(image["file_name"]).name for image in _content(output)["images"]]
    assert names == ["a.png", *(f"clip.mp4#{n}" for n in range(1, 6)), "b.png"]
    found = [entry["segments_info"][0]["category_id"] for entry in _content(output)["annotations"]]
    assert found[1:6] == [2, 1, 2, 1, 2]


def test_a_segmenters_complaint_is_reported_with_the_file(tmp_path: Path) -> None:
    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SimpleNamespace:
        raise UserError("too large")

    photo = _photo(tmp_path / "a.png")
    outcome = segment_files(segmenter, [photo], tmp_path, vocabulary=WORDS)
    assert outcome.failures == [f"{tmp_path / 'a.png'}: too large"]
    assert not (tmp_path / "predictions.json").exists()


def test_video(tmp_path: Path, loaded: list[tuple]) -> None:
    output = tmp_path / "out"
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        for level in (10, 250, 10):
            append(np.full((48, 64, 3), level, dtype=np.uint8))
    argv = ["--input", str(tmp_path / "clip.mp4"), "--output", str(output)]
    assert main([*argv, "--vocabulary", "lamp; wall"]) is None
    drawn = list(read_video(output / "clip.mp4").frames())
    assert len(drawn) == 3 and drawn[0].shape[1] == 640  # small frames are drawn larger
    assert read_video(output / "clip.mp4").fps == pytest.approx(8)
    content = _content(output)
    assert [image["file_name"].split("#")[1] for image in content["images"]] == ["1", "2", "3"]
    found = [entry["segments_info"][0]["category_id"] for entry in content["annotations"]]
    assert found == [2, 1, 2]
    for entry in content["annotations"]:
        assert np.asarray(Image.open(output / entry["file_name"])).shape == (48, 64, 3)


def test_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "--vocabulary-file" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--vocabulary", "--things"])
def test_a_file_in_place_of_names(tmp_path: Path, loaded: list[tuple], option: str) -> None:
    (tmp_path / "words.txt").write_text("lamp\n")
    words = ["--vocabulary", "lamp"] if option == "--things" else []
    argv = ["--input", str(_photo(tmp_path / "a.png")), *words, option, str(tmp_path / "words.txt")]
    what = option.strip("-")
    with pytest.raises(
        UserError, match=f"{what} is .*words.txt.* give a file by --vocabulary-file"
    ):
        main(argv)
    assert loaded == []


def test_names_are_encoded_before_the_first_image_and_said(
    tmp_path: Path,
    loaded: list[tuple],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(vocabulary: Vocabulary) -> None:
        raise UserError(f"the class name {vocabulary.labels[1]!r} is too long")

    monkeypatch.setattr(fake_segmenter, "embed", refuse)
    output = tmp_path / "out"
    argv = ["--input", str(_photo(tmp_path / "a.png")), "--vocabulary", "lamp; wall"]
    with pytest.raises(UserError, match="^the class name 'wall' is too long$"):
        main([*argv, "--output", str(output)])
    assert list(output.iterdir()) == []
    assert "classes: 2, from --vocabulary: lamp, wall; 1 seen" in capsys.readouterr().out
