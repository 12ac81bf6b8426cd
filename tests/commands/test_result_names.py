"""Files of the demo: it replaces none but its own, and each input has results of its own."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frozenseg.build import prediction_settings
from frozenseg.commands import run, score
from frozenseg.commands.demo import main
from frozenseg.commands.result_names import named_inputs
from frozenseg.data.coco_records import categories_of
from frozenseg.data.prediction_lines import Header, Part, PredictionLines, as_text
from frozenseg.data.video import video_writer
from frozenseg.errors import UserError, WriteError
from frozenseg.files import read_json
from tests.commands.test_demo import WORDS, fake_segmenter

CLASSES = ["--vocabulary", "lamp; wall"]


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the loading of a model; has an entry for each time."""
    calls: list[int] = []

    def load(*_: object, **__: object) -> tuple:
        calls.append(1)
        return fake_segmenter, {"weights": "00"}

    monkeypatch.setattr(prediction_settings, "load_with_settings", load)
    return calls


def photo(path: Path, seed: int = 0) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    Image.fromarray(np.broadcast_to(pixels, (20, 30, 3)).copy()).save(path)
    return path


def film(path: Path, frames: int = 3) -> Path:
    """A video whose bright part grows."""
    whole = path.with_name("film.mp4")
    with video_writer(whole, fps=8) as append:
        for number in range(frames):
            pixels = np.full((48, 64, 3), 20, np.uint8)
            pixels[: 8 * number + 4] = 240
            append(pixels)
    return whole.rename(path)


def demo(*inputs: Path | str, output: Path | str | None = None, more: str = "") -> int | None:
    chosen = [] if output is None else ["--output", str(output)]
    return main([*CLASSES, *chosen, *more.split(), "--input", *map(str, inputs)])


def annotations(output: Path) -> dict[str, str]:
    """The PNG of each image."""
    content = read_json(output / "predictions" / "panoptic.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return {names[entry["image_id"]]: entry["file_name"] for entry in content["annotations"]}


def without_states(output: Path) -> None:
    """Make the lines those of an older version, which noted nothing about the files of inputs."""
    path = output / "predictions" / "lines.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    plain = [{name: value for name, value in line.items() if name != "file"} for line in lines]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in plain))


def is_of(output: Path, png: str, source: Path) -> bool:
    """Whether a label map is that of an image."""
    ids = np.asarray(Image.open(output / "predictions" / "panoptic" / png))[..., 0]
    return np.array_equal(ids == 1, np.asarray(Image.open(source)).mean(axis=2) > 127)


def files(output: Path) -> dict[str, bytes]:
    """The files of a folder but for the lines, with what they hold."""
    found = (path for path in output.rglob("*.*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in found
        if path.suffix != ".jsonl"
    }


def test_no_file_of_the_user_is_replaced(tmp_path: Path) -> None:
    inputs = [photo(tmp_path / "photo.jpg"), film(tmp_path / "clip.mov")]
    for name in ("photo.png", "clip.mp4"):
        (tmp_path / name).write_text("of the user")
    for more in ("", "", "--overwrite"):
        assert demo(*inputs, output=tmp_path, more=more) is None
        assert (tmp_path / "photo.png").read_text() == "of the user"
        assert (tmp_path / "clip.mp4").read_text() == "of the user"
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *("clip.mov", "clip.mov.mp4", "clip.mp4", "photo.jpg", "photo.jpg.png", "photo.png"),
            "predictions",
        ]


def test_of_a_replaced_run_the_pictures_are_replaced(tmp_path: Path) -> None:
    inputs, output = [photo(tmp_path / "a.jpg"), film(tmp_path / "clip.mov")], tmp_path / "out"
    assert demo(*inputs, output=output) is None
    before = files(output)
    photo(tmp_path / "a.jpg", 1)
    film(tmp_path / "clip.mov", 2)
    assert demo(*inputs, output=output, more="--overwrite") is None
    after = files(output)
    assert after.keys() == before.keys() - {"predictions/panoptic/clip/000003.png"}
    assert after["a.png"] != before["a.png"] and after["clip.mp4"] != before["clip.mp4"]


@pytest.mark.parametrize(
    "name", ["panoptic.json", "instances.json", "youtube_vis.json", "panoptic/a.png"]
)
def test_predictions_of_another_program_are_not_replaced(
    name: str,
    tmp_path: Path,
    loads: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    own = tmp_path / "predictions" / name
    own.parent.mkdir(parents=True)
    own.write_text("of the user")
    argv = ["--input", str(photo(tmp_path / "a.jpg")), "--output", str(tmp_path), *CLASSES]
    monkeypatch.setattr(sys, "argv", ["demo", *argv])
    with pytest.raises(SystemExit) as caught:
        run(main)
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and loads == [] and printed.count("\n") == 1
    assert f"holds {Path(name).parts[0]}, but no lines*.jsonl" in printed
    assert "replace it with --overwrite" in printed
    assert own.read_text() == "of the user"
    assert main([*argv, "--overwrite"]) is None
    assert list(annotations(tmp_path)) == ["a.jpg"]
    kept = own.exists() and own.read_bytes() == b"of the user"
    assert kept == (name == "panoptic/a.png")  # there is room for another name


def test_the_default_folder_is_none_of_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "output" / "demo" / "predictions" / "panoptic.json"
    own.parent.mkdir(parents=True)
    own.write_text("of the user")
    assert demo(photo(tmp_path / "a.jpg")) is None
    assert own.read_text() == "of the user"
    assert list(annotations(tmp_path / "output" / "demo_2")) == ["a.jpg"]


KILLED = """
import json, os, signal, sys
from frozenseg.build import prediction_settings
from frozenseg.commands import demo, segment_files
from frozenseg.data import prediction_lines
from tests.commands.test_demo import fake_segmenter

prediction_settings.load_with_settings = lambda *_, **__: (fake_segmenter, {"weights": "00"})
for name, argv in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        place = segment_files if name == "write_picture" else prediction_lines.PredictionLines
        setattr(place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        demo.main(argv)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, argv
"""


def test_a_kill_leads_to_no_second_name(tmp_path: Path) -> None:
    """Before a picture and before a line; of a first run, and of one that replaces another."""
    other, image = photo(tmp_path / "y.jpg"), photo(tmp_path / "x.jpg")
    clip, runs, outputs = film(tmp_path / "x.mov"), [], []
    steps = [("write_picture", image), ("add", image), ("add", clip), ("end_video", clip)]
    for killed_before, source in steps:
        for more in ([], ["--overwrite"]):
            output = tmp_path / f"{killed_before}{source.suffix}{len(more)}"
            if more:
                demo(other, source, output=output)
            argv = [*CLASSES, "--output", str(output), *more, "--input", str(source)]
            runs.append((killed_before, argv))
            outputs.append((output, source))
    code = [sys.executable, "-c", KILLED, json.dumps(runs)]
    subprocess.run(code, cwd=Path(__file__).parents[2], check=True)
    for source in (image, clip):
        demo(source, output=tmp_path / source.suffix)
    for output, source in outputs:
        assert (output / "predictions" / "panoptic").exists()
        assert demo(source, output=output) is None
        found = {name: text for name, text in files(output).items() if "y.png" not in name}
        assert found == files(tmp_path / source.suffix), output


def test_a_full_disk_leads_to_no_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(*_: object, **__: object) -> None:
        raise WriteError("lines.jsonl: cannot be written")

    source, output = photo(tmp_path / "x.jpg"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(PredictionLines, "add", add)
        with pytest.raises(WriteError):
            demo(source, output=output)
    assert (output / "x.png").exists()
    assert demo(source, output=output) is None
    assert annotations(output) == {"x.jpg": "x.png"}


def test_a_name_of_an_earlier_run_that_is_the_user_s_by_now(tmp_path: Path) -> None:
    """The name was chosen for an image that failed then, and nothing was written."""
    broken, output = tmp_path / "x.jpg", tmp_path / "out"
    broken.write_text("no image")
    photo(tmp_path / "y.jpg")
    assert demo(tmp_path, output=output) == 1
    (output / "x.png").write_text("of the user")
    photo(broken)
    assert demo(tmp_path, output=output) is None
    assert annotations(output) == {"y.jpg": "y.png", "x.jpg": "x.jpg.png"}
    assert (output / "x.png").read_text() == "of the user"


def _twins() -> str:
    """A name of which NAME.jpg is in the first of two parts and NAME.bmp in the second."""
    names = (f"x{number}" for number in range(100))
    one, two = Part(1, 2), Part(2, 2)
    return next(name for name in names if one.has(f"{name}.jpg") and two.has(f"{name}.bmp"))


def test_a_file_that_is_added_between_two_parts_has_a_name_of_its_own(tmp_path: Path) -> None:
    name, folder, output = _twins(), tmp_path / "in", tmp_path / "out"
    first = photo(folder / f"{name}.jpg")
    assert demo(folder, output=output, more="--part 1/2") is None
    picture = (output / f"{name}.png").read_bytes()
    second = photo(folder / f"{name}.bmp", 1)
    assert demo(folder, output=output, more="--part 2/2") is None
    assert (output / f"{name}.png").read_bytes() == picture
    pngs = annotations(output)
    assert pngs == {first.name: f"{name}.png", second.name: f"{name}.bmp.png"}
    assert is_of(output, pngs[first.name], first) and is_of(output, pngs[second.name], second)


def test_parts_at_work_know_of_the_names_that_others_will_write(tmp_path: Path) -> None:
    header = Header(categories_of(WORDS.names, WORDS.is_thing), {}, str(tmp_path))
    name, output = _twins(), tmp_path / "out"
    paths = [photo(tmp_path / f"{name}.bmp"), photo(tmp_path / f"{name}.jpg")]
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(
                contextlib.closing(
                    PredictionLines(output / "predictions", header, part=Part(number, 2))
                )
            )
            for number in (1, 2)
        ]
        chosen = named_inputs(paths[1:], output, lines[0])
        lines[0].claim({entry.source: entry.name for entry in chosen})
        names = [entry.name for entry in named_inputs(paths, output, lines[1])]
    assert names == [f"{name}.bmp", name]


def test_a_part_that_has_ended_stays_so_though_an_input_fails_again(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(6):
        photo(folder / f"{number}.png", number)
    broken = next(f"x{n}.png" for n in range(100) if Part(1, 2).has(f"x{n}.png"))
    (folder / broken).write_text("no image")
    sizes = []
    for _ in range(3):
        assert demo(folder, output=output, more="--part 1/2") == 1
        sizes.append((output / "predictions" / "lines_1_of_2.jsonl").stat().st_size)
    assert sizes[1] == sizes[2]
    (folder / f"_{broken}").write_text("no image")
    assert demo(folder, output=output, more="--part 1/2") == 1
    (folder / f"_{broken}").unlink()
    assert demo(folder, output=output, more="--part 2/2") is None
    assert len(annotations(output)) == 6


def test_results_of_earlier_runs_are_no_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.jpg")
    film(tmp_path / "clip.mov")
    for _ in range(3):
        assert demo(".", more="--recursive --no-track") is None
    inputs = ["clip.mov#1", "clip.mov#2", "clip.mov#3", "photo.jpg"]
    for name in ("demo", "demo_2", "demo_3"):
        assert list(annotations(tmp_path / "output" / name)) == inputs
    assert ".: 6 results of earlier runs are left out" in caplog.text
    # A folder may hold photographs beside results.
    assert demo("photo.jpg", "clip.mov", output=".") is None
    photo(tmp_path / "more.png")
    for entry in (".", "**/*.*"):
        output = tmp_path.parent / f"{tmp_path.name}_{len(entry)}"
        assert demo(entry, output=output, more="--recursive --no-track") is None
        assert list(annotations(output)) == [*inputs[:3], "more.png", "photo.jpg"]
    # What is named by itself, or by its folder, is taken.
    for number, entry in enumerate(("output/demo/photo.png", "output/demo/predictions/panoptic")):
        assert demo(entry, output=f"output/own_{number}") is None
        assert list(annotations(tmp_path / f"output/own_{number}")) == ["photo.png"]
    with pytest.raises(UserError, match="output/demo: contains only results of earlier runs"):
        demo("output/demo", output="output/more")


def test_no_video_files_of_a_replaced_run_stay(tmp_path: Path) -> None:
    pytest.importorskip("av", reason='pip install "frozenseg[video]"')
    output = tmp_path / "out"
    videos = [output / "predictions" / f"{name}.json" for name in ("youtube_vis", "video_panoptic")]
    assert demo(film(tmp_path / "clip.mov"), output=output) is None
    assert all(path.exists() for path in videos)
    assert demo(photo(tmp_path / "a.jpg"), output=output, more="--overwrite") is None
    assert not any(path.exists() for path in videos)


def test_pictures_that_a_run_left_out_are_drawn_later(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        photo(folder / f"{number}.jpg", number)
    inputs = [folder, film(tmp_path / "clip.mov")]
    assert demo(*inputs, output=tmp_path / "whole") is None
    assert demo(*inputs, output=output, more="--no-pictures") is None
    assert not list(output.glob("*.*"))
    (output / "in").mkdir()
    (output / "in" / "1.png").write_text("of the user")
    capsys.readouterr()
    assert demo(*inputs, output=output) is None
    assert "; 4 were done before, of which 2 were drawn now" in capsys.readouterr().out
    assert "1 output videos of earlier runs are missing; --overwrite makes them" in caplog.text
    for name in ("in/0.png", "in/2.png"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (output / "in" / "1.png").read_text() == "of the user"
    (output / "in" / "0.png").unlink()
    Image.new("RGB", (9, 9)).save(folder / "0.jpg")  # another picture by now
    without_states(output)
    assert demo(*inputs, output=output) == 1
    assert f"incomplete: {folder / '0.jpg'}: its picture cannot be drawn" in capsys.readouterr().err


def test_no_picture_of_a_replaced_run_stays_beside_new_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    inputs, output = [photo(tmp_path / "a.jpg"), film(tmp_path / "clip.mov")], tmp_path / "out"
    assert demo(*inputs, output=output) is None
    other = "--vocabulary cup;sky"
    assert demo(*inputs, output=output, more=f"{other} --overwrite --no-pictures") is None
    assert not list(output.glob("*.*"))
    assert demo(*inputs, output=output, more=other) is None
    assert "; 2 were done before, of which 1 were drawn now" in capsys.readouterr().out
    assert demo(inputs[0], output=tmp_path / "alone", more=other) is None
    assert (output / "a.png").read_bytes() == (tmp_path / "alone" / "a.png").read_bytes()


def test_no_label_maps_of_a_replaced_run_stay_beside_those_of_a_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip, output = film(tmp_path / "clip.mov", frames=6), tmp_path / "out"
    maps = output / "predictions" / "panoptic" / "clip"
    assert demo(clip, output=output) is None
    assert len(list(maps.iterdir())) == 6
    assert demo(clip, output=output, more="--overwrite --stride 3") is None
    assert sorted(path.name for path in maps.iterdir()) == ["000001.png", "000004.png"]

    # Earlier versions left them there, where they hid that another was lost.
    (maps / "000004.png").rename(maps / "000002.png")
    (maps / "000003.png").write_bytes((maps / "000001.png").read_bytes())
    assert demo(clip, output=output, more="--stride 3") is None
    assert "1 inputs are made again: their label maps are missing, or some are of" in caplog.text
    assert sorted(path.name for path in maps.iterdir()) == ["000001.png", "000004.png"]


def test_results_that_are_gone_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        photo(folder / f"{number}.jpg", number)
    film(folder / "clip.mov")
    predictions = output / "predictions"
    assert demo(folder, output=output) is None
    whole, listed = files(output), annotations(output)
    (predictions / "panoptic" / "1.png").unlink()
    (predictions / "panoptic" / "clip" / "000002.png").unlink()
    assert demo(folder, output=output) is None
    assert "2 of 4 in" in capsys.readouterr().out.splitlines()[-2]
    assert "2 inputs are made again: their label maps are missing" in caplog.text
    assert files(output).keys() == whole.keys() and annotations(output) == listed
    assert is_of(output, "1.png", folder / "1.jpg")

    (predictions / "youtube_vis.json").unlink()
    assert demo(folder, output=output) is None
    assert (predictions / "youtube_vis.json").exists()

    (predictions / "panoptic" / "1.png").unlink()
    (folder / "1.jpg").write_text("no image")
    for _ in range(2):
        assert demo(folder, output=output) == 1
        assert "1.jpg" not in annotations(output) and len(annotations(output)) == len(listed) - 1
    photo(folder / "1.jpg", 1)
    assert demo(folder, output=output) is None
    assert files(output).keys() == whole.keys() and annotations(output) == listed


def test_results_of_files_that_have_changed_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    images = [photo(folder / f"{number}.bmp", number) for number in range(3)]
    clip = film(folder / "clip.mov")
    assert demo(folder, output=output) is None
    whole = files(output)
    for path in folder.iterdir():  # a copy of the folder, with new times
        os.utime(path, ns=(9, path.stat().st_mtime_ns - 1))
    assert demo(folder, output=output) is None
    assert "; 4 were done before" in capsys.readouterr().out
    assert files(output) == whole

    size = images[1].stat().st_size
    assert photo(images[1], 7).stat().st_size == size
    film(tmp_path / "other.mov", frames=2).replace(clip)
    assert demo(folder, output=output, more="--no-pictures") is None
    assert "2 of 4 in" in capsys.readouterr().out
    assert "2 inputs are made again: their files have changed since they were read" in caplog.text
    assert files(output).keys() == whole.keys() - {"1.png", "clip.mp4"} - {
        "predictions/panoptic/clip/000003.png"
    }
    assert len(annotations(output)) == 5
    assert is_of(output, "1.png", images[1])
    assert demo(folder, output=output) is None
    assert "; 4 were done before, of which 1 were drawn now" in capsys.readouterr().out
    assert demo(images[1], output=tmp_path / "alone") is None
    assert (output / "1.png").read_bytes() == (tmp_path / "alone" / "1.png").read_bytes()

    without_states(output)
    photo(images[1], 8)
    assert demo(folder, output=output) is None
    assert "; 4 were done before" in capsys.readouterr().out


def test_names_that_are_no_text_in_utf_8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder, output = tmp_path / os.fsdecode(b"in\xfe"), tmp_path / "out"
    names = [b"b\xffd.png", b"b\\xffd.png", b"\xe9t\xe9/b\xffd.png", "été.png".encode()]
    try:
        paths = [photo(folder / os.fsdecode(name), seed) for seed, name in enumerate(names)]
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    assert demo(folder, output=output, more="--recursive") is None
    content = read_json(output / "predictions" / "panoptic.json")
    read_json(output / "predictions" / "instances.json")
    assert content["info"]["root"] == f"{tmp_path}/in\\xfe"
    expected = ["b\\xffd.png", "b\\x5cxffd.png", "\\xe9t\\xe9/b\\xffd.png", "été.png"]
    found = annotations(output)
    assert found == {name: name for name in expected}
    for name, path in zip(expected, paths, strict=True):
        assert is_of(output, found[name], path) and (output / name).exists()
    argv = [f"--{kind}={output}/predictions/panoptic.json" for kind in ("gt", "pred")]
    argv += [f"--{kind}-dir={output}/predictions/panoptic" for kind in ("gt", "pred")]
    assert not score.main(["panoptic", *argv])
    before = files(output)
    assert demo(folder, output=output, more="--recursive") is None  # all are known again
    assert files(output) == before


def test_each_name_has_a_text_of_its_own() -> None:
    pieces = [b"\\", b"x", b"f", b"\xff", b"5c", b"\xc3\xa9"]
    names = {b"".join(row) for row in np.array(np.meshgrid(*[pieces] * 4)).reshape(4, -1).T}
    texts = {as_text(os.fsdecode(name)) for name in names}
    assert len(texts) == len(names)
    assert all(text.encode() for text in texts)
