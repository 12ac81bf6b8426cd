"""What a command writes at its end is tried before it begins: one line, status 2, no work lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from frozenseg.commands import convert_checkpoint, mean_results, score, view_samples
from frozenseg.commands.output_argument import output_file
from frozenseg.devtools.commands import (
    analyze_model,
    benchmark,
    benchmark_deformable,
    benchmark_proposals,
    benchmark_scoring,
    benchmark_service,
    measure_memory,
    pack_weights,
)
from frozenseg.errors import UserError
from frozenseg.files import check_writable, write_json
from frozenseg.small_world.commands import (
    make_small_world,
    measure_video,
    small_world_probe,
    train_small_sam,
    train_small_vit,
)
from tests.disk import files_end_at

DETECTIONS = ["instances", "--gt", "gone.json", "--pred", "gone.json"]
WRITERS: dict[str, tuple[Callable[[list[str]], object], list[str], str]] = {
    "score": (score.main, [*DETECTIONS, "--json"], ".json"),
    "mean_results": (mean_results.main, ["gone.json", "--json"], ".json"),
    "analyze_model": (analyze_model.main, ["--json"], ".json"),
    "benchmark": (benchmark.main, ["--tiny", "--json"], ".json"),
    "benchmark chart": (benchmark.main, ["--tiny", "--chart"], ".png"),
    "benchmark_deformable": (benchmark_deformable.main, ["--json"], ".json"),
    "benchmark_proposals": (benchmark_proposals.main, ["--json"], ".json"),
    "benchmark_scoring": (benchmark_scoring.main, ["--json"], ".json"),
    "benchmark_service": (benchmark_service.main, ["--json"], ".json"),
    "measure_memory": (measure_memory.main, ["--json"], ".json"),
    "measure_video": (measure_video.main, ["--json"], ".json"),
    "small_world_probe": (small_world_probe.main, ["--json"], ".json"),
    "view_samples": (view_samples.main, ["--dataset", "gone", "--output"], ".png"),
    "make_small_world": (make_small_world.main, ["--sheet"], ".png"),
    "convert_checkpoint": (convert_checkpoint.main, ["gone.pth"], ".safetensors"),
    "pack_weights": (pack_weights.main, ["gone.pth"], ".safetensors"),
    "train_small_sam": (train_small_sam.main, ["--steps", "1", "--output"], ""),
    "train_small_vit": (train_small_vit.main, ["--method", "moco", "--output"], ""),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("place", ["below a file", "in /proc", "too long", "a folder"])
def test_output_is_tried_first(name: str, place: str, tmp_path: Path) -> None:
    main, argv, ending = WRITERS[name]
    (tmp_path / "file").write_text("")
    output = {
        "below a file": tmp_path / "file" / f"x{ending}",
        "in /proc": Path(f"/proc/x{ending}"),
        "too long": tmp_path / f"{'x' * 256}{ending}",
        "a folder": tmp_path / f"folder{ending}",
    }[place]
    if place == "a folder":
        (output / "weights.safetensors").mkdir(parents=True)  # the name of a trainer's file
    with pytest.raises(UserError, match="cannot be written"):
        main([*argv, str(output)])


@pytest.mark.parametrize("ending", [".xyz", "", ".psd", ".json"])
def test_pictures_of_a_kind_that_cannot_be_written(ending: str, tmp_path: Path) -> None:
    for name in ("benchmark chart", "view_samples", "make_small_world"):
        main, argv, _ = WRITERS[name]
        with pytest.raises(UserError, match="picture.s name must end in .png, .jpg"):
            main([*argv, str(tmp_path / f"a{ending}")])


def test_trying_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("before")
    for name in ("there.json", "new.json", "below/new.json"):
        check_writable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "there.json"]
    assert (tmp_path / "there.json").read_text() == "before"
    with files_end_at(100), pytest.raises(UserError, match="new.json: cannot be written"):
        check_writable(tmp_path / "new.json")


def test_trying_an_argument_makes_no_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert output_file(str(tmp_path / "there" / "new" / "x.json")).name == "x.json"
    with pytest.raises(UserError, match="cannot be written"):
        output_file(str(tmp_path / "new" / f"{'x' * 300}.json"))
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_devices_are_written_to_as_they_stand() -> None:
    code = "from frozenseg.files import write_json; write_json('/dev/stdout', [1])"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[1]\n", "")
    write_json("/dev/null", [1])
    assert Path("/dev/null").is_char_device()


def test_a_long_name_that_the_file_system_takes(tmp_path: Path) -> None:
    for name in (f"{'x' * 250}.json", "é" * 120 + ".json", "." + "x" * 240):
        write_json(tmp_path / name, [1])
        assert (tmp_path / name).read_text() == "[1]\n"
