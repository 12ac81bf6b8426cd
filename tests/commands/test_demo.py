"""The demo on a segmenter that finds bright things on dark stuff: files, names, failures."""

import contextlib
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
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from frozenseg.build import prediction_settings
from frozenseg.commands import run, score
from frozenseg.commands.demo import main
from frozenseg.commands.result_names import named_inputs
from frozenseg.commands.segment_files import Outcome, segment_files
from frozenseg.data.coco_records import categories_of
from frozenseg.data.image_files import root_of
from frozenseg.data.image_inputs import each_image
from frozenseg.data.images import read_image
from frozenseg.data.prediction_lines import Header, PredictionLines, images_of
from frozenseg.data.video import read_video, video_writer
from frozenseg.errors import UserError, WriteError
from frozenseg.files import atomic_path, writing
from frozenseg.results.result import SegmentationResult
from frozenseg.structures import InstanceResult, PanopticResult, Segment
from frozenseg.text.vocabulary import Vocabulary

WORDS = Vocabulary.parse("lamp, light; wall", things="lamp")


def streaming(segment: Callable) -> Callable:
    """Gives a function of one image the `stream` of a predictor."""

    def stream(images: Iterable, vocabulary: Vocabulary, *, threshold: float) -> Iterator:
        for image in each_image(images):
            try:
                pixels = read_image(image) if isinstance(image, str | Path) else image
                result = segment(pixels, vocabulary).filter(threshold=threshold)
            except UserError as error:
                result = error
            yield result

    segment.stream = stream
    return segment


@streaming
def fake_segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
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
    return SegmentationResult(
        image, vocabulary, PanopticResult(ids, segments), None, instances, "random weights"
    )


fake_segmenter.training_vocabulary = Vocabulary.parse("lamp")
fake_segmenter.embed = lambda vocabulary: None
fake_segmenter.model = SimpleNamespace(device="cpu")


def segment(segmenter: Any, paths: list[Path], output: Path, **settings: Any) -> Outcome:
    """`segment_files` with the lines that belong to it."""
    header = Header(
        categories_of(WORDS.names, WORDS.is_thing), settings, str(root_of([str(p) for p in paths]))
    )
    lines = PredictionLines(output / "predictions", header)
    with contextlib.closing(lines):
        return segment_files(segmenter, paths, output, lines, vocabulary=WORDS)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Replaces the loading of a model; what it was called with."""
    calls: list[tuple] = []

    def load(
        name: str, weights: str | None = None, options: list[str] | None = None
    ) -> tuple[Callable, dict]:
        calls.append((name, weights, options))
        return fake_segmenter, {"weights": "00"}

    monkeypatch.setattr(prediction_settings, "load_with_settings", load)
    return calls


def _photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    Image.fromarray(np.broadcast_to(pixels, (20, 30, 3)).copy()).save(path)
    return path


def _content(output: Path) -> dict:
    return json.loads((output / "predictions" / "panoptic.json").read_text())


def _names(output: Path) -> list[str]:
    return [image["file_name"] for image in _content(output)["images"]]


def _files(output: Path) -> list[str]:
    return sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*"))


def _exit(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> int | None:
    monkeypatch.setattr(sys, "argv", ["demo", *argv])
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code or 0


def test_an_image_that_goes_is_not_taken_for_a_glob(tmp_path: Path) -> None:
    paths = [_photo(tmp_path / f"{name}.png") for name in ("x[1]", "y")]
    _photo(tmp_path / "x1.png")
    paths[0].unlink()
    outcome = segment(fake_segmenter, paths, tmp_path / "out")
    assert len(outcome.failures) == 1 and "x[1].png: no such file" in outcome.failures[0]
    assert _names(tmp_path / "out") == ["y.png"]


def test_files_of_an_image(tmp_path: Path, loaded: list[tuple]) -> None:
    photo, output = _photo(tmp_path / "in" / "room.png"), tmp_path / "out"
    argv = ["--input", str(photo), "--vocabulary", "lamp, light; wall", "--output", str(output)]
    mixed = ["MODEL.X", "1", *argv, "MODEL.Z", "3", "--opts", "MODEL.Y", "2"]
    assert main(mixed) is None
    assert loaded == [("small", None, ["MODEL.X", "1", "MODEL.Z", "3", "MODEL.Y", "2"])]
    argv = [*argv[:-1], str(tmp_path / "more"), "--precision", "bf16", "--batch-size", "2"]
    assert main(argv) is None
    assert loaded[1] == ("small", None, ["MODEL.PRECISION", "bf16", "TEST.IMS_PER_BATCH", "2"])
    assert _files(output) == [
        "predictions/instances.json",
        "predictions/lines.jsonl",
        "predictions/panoptic.json",
        "predictions/panoptic/room.png",
        "room.png",
    ]
    ids = np.asarray(Image.open(output / "predictions/panoptic/room.png"))[..., 0]
    bright = np.asarray(Image.open(photo))[..., 0] > 127
    assert np.array_equal(ids, np.where(bright, 1, 2))
    content = _content(output)
    assert content["info"]["notes"] == ["random weights"]
    assert content["images"][0]["file_name"] == "room.png"
    assert content["info"]["root"] == str(photo.parent)
    assert [c["synonyms"] for c in content["categories"]] == [["lamp", "light"], ["wall"]]
    assert content["annotations"][0]["segments_info"][0]["area"] == bright.sum()
    assert Image.open(output / "room.png").size[0] > 640


def test_score_reads_what_the_demo_writes(tmp_path: Path) -> None:
    """A run against itself scores 1, against the same on other pictures it does not."""
    for name, seed in (("one", 0), ("two", 5)):
        photo = _photo(tmp_path / name / "a.png", seed)
        segment(fake_segmenter, [photo], tmp_path / name / "out")
    scores = {}
    for name in ("one", "two"):
        argv = ["panoptic", "--json", str(tmp_path / "scores.json")]
        for kind, folder in (("gt", "one"), ("pred", name)):
            output = tmp_path / folder / "out" / "predictions"
            argv += [f"--{kind}", f"{output}/panoptic.json", f"--{kind}-dir", f"{output}/panoptic"]
        assert not score.main(argv)
        scores[name] = json.loads((tmp_path / "scores.json").read_text())["All"]["pq"]
    assert scores["one"] == 1 and scores["two"] < 1
    truth, other = (tmp_path / n / "out/predictions/instances.json" for n in ("one", "two"))
    for found, expected in ((truth, 1), (other, 0)):
        argv = ["instances", "--gt", str(truth), "--pred", str(found)]
        assert not score.main([*argv, "--json", str(tmp_path / "scores.json")])
        assert json.loads((tmp_path / "scores.json").read_text())["AP"] == pytest.approx(expected)


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
    assert _names(output) == ["a.png", "c.png"]


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
    assert capsys.readouterr().err.count("\n") == 1 and _files(output) == []


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    output = tmp_path / "out"
    paths = [
        _photo(tmp_path / "in" / name, seed)
        for seed, name in enumerate(["x/a.png", "y/a.png", "y/a.jpg", "y/A.PNG", "y/2.png"])
    ]
    assert segment(fake_segmenter, paths, output).failures == []
    for path, annotation in zip(paths, _content(output)["annotations"], strict=True):
        ids = np.asarray(Image.open(output / "predictions/panoptic" / annotation["file_name"]))
        assert np.array_equal(ids[..., 0] == 1, np.asarray(Image.open(path)).mean(axis=2) > 127)
    assert [entry["file_name"] for entry in _content(output)["annotations"]] == [
        "x/a.png", "y/a.png", "y/a.jpg.png", "y/A_2.png", "y/2.png",
    ]  # fmt: skip
    assert _names(output) == ["x/a.png", "y/a.png", "y/a.jpg", "y/A.PNG", "y/2.png"]


def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    photo = _photo(tmp_path / "a.png")
    before = photo.read_bytes()
    assert segment(fake_segmenter, [photo], tmp_path).failures == []
    assert photo.read_bytes() == before and _names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png.png").exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ZeroDivisionError])
def test_a_run_that_ends_midway_keeps_what_is_done(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output = tmp_path / "out"
    calls = iter([None, None, ending])

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        if error := next(calls):
            raise error
        return fake_segmenter(image, vocabulary)

    with pytest.raises(ending):
        segment(segmenter, paths, output)
    assert len(_content(output)["images"]) == 2
    assert not [file for file in output.iterdir() if file.name.startswith(".")]


def test_each_image_is_on_disk_before_the_next_but_one(tmp_path: Path) -> None:
    """Nothing of it waits in memory for the end of the run."""
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output, seen = tmp_path / "out", []

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        """Waits until the results before it are written: that is done by another thread."""
        deadline, written = time.monotonic() + 10, -1
        while written < len(seen) and time.monotonic() < deadline:
            written = len(list(images_of(output / "predictions" / "lines.jsonl")))
        seen.append(written)
        return fake_segmenter(image, vocabulary)

    segment(segmenter, paths, output)
    assert seen == [0, 1, 2]


def test_without_a_folder_each_run_that_ends_has_its_own(
    tmp_path: Path, loaded: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--input", str(_photo(tmp_path / "a.png")), "--vocabulary", "lamp; wall"]
    for _ in range(3):
        assert main(argv) is None
    folders = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert folders == ["demo", "demo_2", "demo_3"]
    lines = tmp_path / "output" / "demo" / "predictions" / "lines.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))  # was stopped
    assert main(argv) is None
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == folders
    assert main([*argv, "--threshold", "0.1"]) is None
    assert (tmp_path / "output" / "demo_4").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--vocabulary", "lamp; floor"], "another vocabulary"),
        (["--things", ""], "another vocabulary"),
        (["--threshold", "0.5"], "threshold 0.25, now 0.5"),
        (["--part", "1/2"], "1 parts, now 2"),
    ],
)
def test_other_settings_are_not_mixed(
    tmp_path: Path, loaded: list[tuple], changed: list[str], message: str
) -> None:
    output = tmp_path / "out"
    argv = ["--input", str(_photo(tmp_path / "a.png")), "--output", str(output)]
    argv += ["--vocabulary", "lamp; wall", "--things", "lamp"]
    assert main(argv) is None
    with pytest.raises(
        UserError, match=f"made with other settings .{message}.; choose .* --overwrite"
    ):
        main([*argv, *changed])
    assert main([*argv, *changed, "--overwrite"]) is None
    assert _names(output) in (["a.png"], [])  # the second part may have it


def test_what_is_done_is_not_done_again(
    tmp_path: Path, loaded: list[tuple], capsys: pytest.CaptureFixture
) -> None:
    output, folder = tmp_path / "out", tmp_path / "in"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input", str(folder)]
    _photo(folder / "b.png")
    assert main(argv) is None
    before = (output / "b.png").stat().st_mtime_ns
    _photo(folder / "a.png")
    (folder / "b.jpg").write_text("no image")
    assert main(argv) == 1
    assert "1 of 3 in" in capsys.readouterr().out
    assert _names(output) == ["b.png", "a.png"]
    _photo(folder / "b.jpg")
    assert main([*argv, "--batch-size", "2"]) is None
    assert "; 2 were done before" in capsys.readouterr().out
    assert _names(output) == ["b.png", "a.png", "b.jpg"]
    assert (output / "b.png").stat().st_mtime_ns == before and (output / "b.jpg.png").exists()
    made = (output / "predictions" / "panoptic.json").stat().st_mtime_ns
    assert main(argv) is None
    assert (output / "predictions" / "panoptic.json").stat().st_mtime_ns == made


def test_half_written_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    photos = [_photo(tmp_path / "in" / name / "a.png") for name in ("one", "two")]
    output = tmp_path / "out"
    folders = [output / "one", output / "predictions" / "panoptic" / "two"]
    left, own = [], output / "one" / ".a.b.png"
    for path in [*(folder / "a.png" for folder in folders), output / "one" / "film.mp4"]:
        with contextlib.suppress(KeyboardInterrupt), atomic_path(path) as temporary:
            left.append(temporary)
            raise KeyboardInterrupt
        left[-1].touch()  # as a process that was killed outright leaves it
    own.touch()
    segment(fake_segmenter, photos, output)
    assert not [path for path in left if path.exists()]
    assert own.exists()


def test_folders_are_searched_deeper_on_request(
    tmp_path: Path, loaded: list[tuple], capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "in"
    for name in ("nested/2024/jan/a.png", "a.png", ".hidden/a.png"):
        _photo(folder / name)
    output = folder / "out"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input", str(folder)]
    for _ in range(2):  # results that lie below the input are no inputs
        assert main([*argv, "--recursive"]) is None
    assert _names(output) == ["a.png", "nested/2024/jan/a.png"]
    assert (output / "nested/2024/jan/a.png").exists()
    with pytest.raises(UserError, match="1 folders in it are not searched without --recursive"):
        main([*argv[:-1], str(folder / "nested")])


def test_parts_make_one_result(
    tmp_path: Path, loaded: list[tuple], caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(9):
        _photo(folder / f"{number}.png", number)
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input", str(folder)]
    for part in ("3/3", "1/3"):
        assert main([*argv, "--part", part]) is None
        assert not (output / "predictions" / "panoptic.json").exists()
    assert "will be written once part 2 of 3 has ended too" in caplog.text
    assert main([*argv, "--part", "2/3"]) is None
    assert sorted(_names(output)) == [f"{number}.png" for number in range(9)]
    assert [image["id"] for image in _content(output)["images"]] == list(range(1, 10))
    for wrong in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(UserError, match="expected K/N with K in 1-N"):
            main([*argv, "--part", wrong])


def test_a_part_without_an_input_ends_too(tmp_path: Path, loaded: list[tuple]) -> None:
    output = tmp_path / "out"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output)]
    argv += ["--input", str(_photo(tmp_path / "a.png"))]
    for number in range(1, 5):
        assert main([*argv, "--part", f"{number}/4"]) is None
    assert _names(output) == ["a.png"]


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path, loaded: list[tuple]) -> None:
    output = tmp_path / "out"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output)]
    argv += ["--input", str(_photo(tmp_path / "a.png"))]
    code = f"""
import time
from pathlib import Path
from frozenseg.engine.lock import only_writer
with only_writer(Path({str(output / "predictions")!r}), "lines.lock"):
    print("locked", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another run is at work there"):
            main(argv)
    finally:
        other.kill()
        other.wait()
    assert main(argv) is None


def test_less_certain_regions_and_objects_are_left_out(tmp_path: Path, loaded: list[tuple]) -> None:
    argv = ["--vocabulary", "lamp; wall", "--input", str(_photo(tmp_path / "a.png"))]
    for threshold, count in (("0.5", 2), ("0.51", 0)):
        output = tmp_path / threshold
        assert main([*argv, "--threshold", threshold, "--output", str(output)]) is None
        assert len(_content(output)["annotations"][0]["segments_info"]) == count
        objects = json.loads((output / "predictions" / "instances.json").read_text())
        assert len(objects["annotations"]) == count // 2
    with pytest.raises(UserError, match="threshold 2.0: must lie in 0-1"):
        main([*argv, "--threshold", "2"])


def test_predictions_of_an_earlier_run_are_replaced_on_purpose(
    tmp_path: Path, loaded: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    argv = ["--vocabulary", "lamp; wall", "--output", str(output), "--input"]
    assert main([*argv, str(_photo(tmp_path / "a.png"))]) is None
    again = ["--overwrite", *argv, str(_photo(tmp_path / "b.png"))]
    with monkeypatch.context() as patch:
        patch.setattr(prediction_settings, "load_with_settings", _no_model)
        with pytest.raises(UserError, match="no such weights"):
            main(again)
    assert _names(output) == ["a.png"]
    assert main(again) is None
    assert _names(output) == ["b.png"]


def _no_model(*_: object, **__: object) -> None:
    raise UserError("no such weights")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.commands.test_demo import fake_segmenter, segment, streaming

folder, done = Path(sys.argv[1]), []
@streaming
def segmenter(image, vocabulary):
    done.append(1)
    if len(done) > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_segmenter(image, vocabulary)
segment(segmenter, sorted(folder.glob("*.*")), folder / "out")
"""


def test_a_run_that_is_killed_twice_goes_on_and_has_each_image_once(tmp_path: Path) -> None:
    for number in range(60):
        _photo(tmp_path / f"{number:02d}.png", number)
    lines = tmp_path / "out" / "predictions" / "lines.jsonl"
    before = 0
    for images in (15, 25):
        argv = [sys.executable, "-c", KILLED, str(tmp_path), str(images)]
        ended = subprocess.run(argv, cwd=Path(__file__).parents[2])
        assert ended.returncode == -signal.SIGKILL
        done = len(list(images_of(lines)))
        assert before < done < 60
        before = done
        with open(lines, "ab") as file:
            file.write(b'{"input": "half of a li')  # as a kill in the middle of a write leaves it
    calls = []

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        calls.append(1)
        return fake_segmenter(image, vocabulary)

    outcome = segment(segmenter, sorted(tmp_path.glob("*.png")), tmp_path / "out")
    assert len(calls) == 60 - before and outcome.earlier == before
    assert _names(tmp_path / "out") == [f"{number:02d}.png" for number in range(60)]
    for number, annotation in enumerate(_content(tmp_path / "out")["annotations"]):
        ids = np.asarray(
            Image.open(tmp_path / "out/predictions/panoptic" / annotation["file_name"])
        )
        bright = np.asarray(Image.open(tmp_path / f"{number:02d}.png"))[..., 0] > 127
        assert np.array_equal(ids[..., 0] == 1, bright)


def test_a_video_that_was_stopped_is_done_anew(tmp_path: Path) -> None:
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        for level in (10, 250, 10, 250, 10):
            append(np.full((48, 64, 3), level, dtype=np.uint8))
    output, paths = tmp_path / "out", [_photo(tmp_path / "a.png"), tmp_path / "clip.mp4"]
    seen = []

    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return fake_segmenter(image, vocabulary)

    with pytest.raises(KeyboardInterrupt):
        segment(segmenter, paths, output)
    assert segment(segmenter, paths, output).earlier == 1
    assert _names(output) == ["a.png", *(f"clip.mp4#{number}" for number in range(1, 6))]
    assert segment(segmenter, paths, output).earlier == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_told_to_end_finishes_its_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    _photo(tmp_path / "a.png")
    code = f"""
import os, sys
from pathlib import Path
from frozenseg.build import prediction_settings
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
segmenter.embed, segmenter.model = fake_segmenter.embed, fake_segmenter.model
prediction_settings.load_with_settings = lambda *_, **__: (segmenter, {{}})
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
        assert (tmp_path / "out/predictions/panoptic" / entry["file_name"]).is_file()


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_photo(tmp_path / f"{letter}.png") for letter in "abc"]
    output = tmp_path / "out"

    def write(path: Path, ids: np.ndarray) -> None:
        with writing(path):
            if path.name == "b.png":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("frozenseg.commands.segment_files.write_panoptic_png", write)
    with pytest.raises(WriteError, match="b.png: cannot be written .No space left"):
        segment(fake_segmenter, paths, output)
    assert _names(output) in (["a.png"], ["a.png", "c.png"])  # the third may be at work already


def test_long_names(tmp_path: Path) -> None:
    paths = [_photo(tmp_path / "in" / f"{'é' * 124}{letter}.png") for letter in "ab"]
    output = tmp_path / "out"
    assert segment(fake_segmenter, paths, output).failures == []
    assert len(list(output.glob("*.png"))) == 2
    assert _names(output) == [path.name for path in paths]


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
    assert "\na.png: 1 lamp, 1 wall" in printed.out
    assert "found: lamp in 1, wall in 1" in printed.out


def test_of_few_images_each_has_a_line_of_its_own(
    tmp_path: Path, loaded: list[tuple], capsys: pytest.CaptureFixture
) -> None:
    def printed(name: str) -> list[str]:
        output = tmp_path / "out" / Path(name).name
        inputs = ["--input", str(tmp_path / name), "--output", str(output)]
        main(["--vocabulary", "lamp; wall", "--recursive", *inputs])
        return capsys.readouterr().out.splitlines()

    for number in range(21):
        _photo(tmp_path / "many" / "deep" / f"{number:02d}.png")
    _photo(tmp_path / "few" / "a.png")
    _photo(tmp_path / "few" / "sub" / "b.png")
    assert printed("few")[-4:-2] == ["a.png: 1 lamp, 1 wall", "sub/b.png: 1 lamp, 1 wall"]
    assert printed("few/a.png")[-2] == "a.png: 1 lamp, 1 wall"  # and no sum of one
    assert "wall in 21" in printed("many")[-1] and ".png" not in "".join(printed("many"))


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
    said = [line for line in printed.err.splitlines() if "PyAV is not installed" not in line]
    assert said == [f"incomplete: {cut}: {frames} of the 10 frames that it declares can be read"]


def test_a_video_between_images(tmp_path: Path) -> None:
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        for level in (10, 250, 10, 250, 10):
            append(np.full((48, 64, 3), level, dtype=np.uint8))
    output = tmp_path / "out"
    paths = [_photo(tmp_path / "a.png"), tmp_path / "clip.mp4", _photo(tmp_path / "b.png")]
    assert segment(fake_segmenter, paths, output).failures == []
    assert _names(output) == ["a.png", *(f"clip.mp4#{n}" for n in range(1, 6)), "b.png"]
    found = [entry["segments_info"][0]["category_id"] for entry in _content(output)["annotations"]]
    assert found[1:6] == [2, 1, 2, 1, 2]


def test_a_segmenters_complaint_is_reported_with_the_file(tmp_path: Path) -> None:
    @streaming
    def segmenter(image: np.ndarray, vocabulary: Vocabulary) -> SegmentationResult:
        raise UserError("too large")

    photo = _photo(tmp_path / "a.png")
    outcome = segment(segmenter, [photo], tmp_path)
    assert outcome.failures == [f"{tmp_path / 'a.png'}: too large"]
    assert not list((tmp_path / "predictions").iterdir())


def test_video(tmp_path: Path, loaded: list[tuple]) -> None:
    output = tmp_path / "out"
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        for level in (10, 250, 10):
            append(np.full((48, 64, 3), level, dtype=np.uint8))
    argv = ["--input", str(tmp_path / "clip.mp4"), "--output", str(output)]
    assert main([*argv, "--vocabulary", "lamp; wall"]) is None
    drawn = [frame.pixels for frame in read_video(output / "clip.mp4").frames()]
    assert len(drawn) == 3 and drawn[0].shape[1] == 640  # small frames are drawn larger
    assert read_video(output / "clip.mp4").fps == pytest.approx(8)
    content = _content(output)
    assert [image["file_name"].split("#")[1] for image in content["images"]] == ["1", "2", "3"]
    found = [entry["segments_info"][0]["category_id"] for entry in content["annotations"]]
    assert found == [2, 1, 2]
    for entry in content["annotations"]:
        png = output / "predictions/panoptic" / entry["file_name"]
        assert np.asarray(Image.open(png)).shape == (48, 64, 3)


def test_without_pictures(tmp_path: Path, loaded: list[tuple]) -> None:
    with video_writer(tmp_path / "clip.mp4", fps=8) as append:
        append(np.full((48, 64, 3), 10, dtype=np.uint8))
    inputs, output = [tmp_path / "clip.mp4", _photo(tmp_path / "a.png")], tmp_path / "out"
    argv = ["--no-pictures", "--vocabulary", "lamp; wall", "--output", str(output), "--input"]
    assert main([*argv, *map(str, inputs)]) is None
    assert _files(output) == [
        "predictions/instances.json",
        "predictions/lines.jsonl",
        "predictions/panoptic.json",
        "predictions/panoptic/a.png",
        "predictions/panoptic/clip/000001.png",
        "predictions/video_panoptic.json",
        "predictions/youtube_vis.json",
    ]


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
    assert _files(output) == []
    assert "classes: 2, from --vocabulary: lamp, wall; 1 seen" in capsys.readouterr().out


def test_a_film_and_a_folder_of_its_frames_keep_apart(tmp_path: Path) -> None:
    """The label maps of a film have a folder of its name."""
    output, frame = tmp_path / "out", _photo(tmp_path / "in" / "clip" / "000001.png")
    film = tmp_path / "in" / "clip.mp4"
    film.write_bytes(b"")
    header = Header(categories_of(WORDS.names, WORDS.is_thing), {}, str(tmp_path / "in"))
    with contextlib.closing(PredictionLines(output / "predictions", header)) as lines:
        for paths, names in (
            ([frame, film], ["clip/000001", "clip.mp4"]),
            ([film, frame], ["clip", "clip_2/000001"]),
            ([film, _photo(tmp_path / "in" / "clip.png")], ["clip", "clip_2"]),
        ):
            assert [entry.name for entry in named_inputs(paths, output, lines)] == names
