"""The benchmark: its clock, its report, and whole runs with a tiny model on the CPU."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.devtools.commands.analyze_model import count_flops
from frozenseg.devtools.commands.benchmark import main
from frozenseg.devtools.commands.measure_memory import main as measure_memory_command
from frozenseg.devtools.speed import clock
from frozenseg.devtools.speed.clock import Place, Stopwatch
from frozenseg.devtools.speed.memory import measure_memory
from frozenseg.devtools.speed.report import growth
from frozenseg.devtools.speed.setting import Setting
from frozenseg.devtools.tiny import TINY
from frozenseg.encoders.sam import SIZES, plain_image_encoder
from frozenseg.errors import UserError

CPU = torch.device("cpu")
SMALL = ("--device", "cpu", "--tiny", "--repeats", "1", "--threads", "1")


class Outer:
    def __init__(self, hands: SimpleNamespace) -> None:
        self.hands = hands
        self.inner = Inner(hands)

    def work(self) -> int:
        self.hands.now += 2.0
        return 1 + self.inner.work()


class Inner:
    def __init__(self, hands: SimpleNamespace) -> None:
        self.hands = hands

    def work(self) -> int:
        self.hands.now += 6.0
        return 41


def test_the_clock_counts_what_is_inside_once_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hands = SimpleNamespace(now=100.0)
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: hands.now))
    outer, watch = Outer(hands), Stopwatch(CPU)
    places = [Place("inner", outer.inner, "work"), Place("outer", Outer, "work")]
    with watch.on(places):
        assert outer.work() == outer.work() == 42
    assert watch.read() == {"inner": 12.0, "outer": 4.0}
    assert outer.work() == 42 and watch.read() == {} and "work" not in vars(outer.inner)


def test_memory_holds_all_that_the_work_touches() -> None:
    def work() -> None:
        torch.zeros(200 * 250_000).add_(1)  # 0.2 GB, every page written

    assert measure_memory(work, CPU).report()["above_gb"] > 0.19


def test_growth_is_a_power_of_the_work() -> None:
    def point(work: float) -> dict:
        rows = {"whole": 0.01 * work, "square": 1e-4 * work**2, "fixed": 0.005, "little": 1e-9}
        return {
            "work": work,
            "seconds": {name: {"median": value} for name, value in rows.items()},
            "memory": {"above_gb": 0.1 * work**0.5},
        }

    powers = growth([point(10), point(30), point(40)])
    expected = {"whole": 1, "square": 2, "fixed": 0, "memory above the model": 0.5}
    assert powers == pytest.approx(expected, abs=1e-3)


def test_names_are_shared_by_the_classes() -> None:
    setting = Setting((8, 8), classes=150, names=403)
    counts = [len(group) for group in setting.vocabulary().names]
    assert sum(counts) == 403 and set(counts) == {2, 3}
    assert torch.bincount(setting.text(4).class_index).tolist() == counts


def test_the_baseline_is_segment_anythings_own() -> None:
    own = plain_image_encoder("tiny")
    assert type(own.blocks[0].attn).__module__ == "segment_anything.modeling.image_encoder"
    assert SIZES["vit_b"].side == 1024 and SIZES["vit_b"].depth == 12


def test_stages_add_up_to_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With a second setting of our own beside it, which finds the same."""
    outputs = ["--json", str(tmp_path / "out.json"), "--chart", str(tmp_path / "out.png")]
    assert main([*SMALL, *outputs, "--beside-eager"]) is None
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {name: row["median"] for name, row in report["seconds"].items()}
    assert (report["classes"], report["names"], report["queries"]) == (150, 403, 20)
    assert report["stages"] == [
        *(
            "decoding",
            "resizing",
            "CLIP trunk",
            "SAM encoder",
            "pixel decoder",
            "SAM pixel decoder",
        ),
        *("transformer decoder", "classification", "post-processing", "other"),
    ]
    assert all(rows[name] > 0 for name in report["stages"])
    assert sum(rows[name] for name in report["stages"]) == pytest.approx(rows["whole"], abs=1e-4)
    for name in ("scoring", "segment-anything's encoder", "open_clip's trunk", "matrix product"):
        assert rows[name] > 0
    both = rows["segment-anything's encoder"] + rows["open_clip's trunk"]
    assert report["whole_over_baselines"] == pytest.approx(rows["whole"] / both, rel=0.02)
    assert report["panoptic_agreement_with_float32"] > 0.999
    assert report["memory"]["model_gb"] > 0.1
    assert Image.open(tmp_path / "out.png").size[0] > 500
    assert "post-processing, panoptic alone" in capsys.readouterr().out


def test_a_training_step(tmp_path: Path) -> None:
    assert (
        main([*SMALL, "--training", "--batch", "2", "--json", str(tmp_path / "out.json")]) is None
    )
    report = json.loads((tmp_path / "out.json").read_text())
    rows = {name: row["median"] for name, row in report["seconds"].items()}
    assert {"losses", "backward", "optimiser", "CLIP trunk"} <= set(report["stages"])
    assert sum(rows[name] for name in report["stages"]) == pytest.approx(rows["whole"], abs=1e-4)
    assert report["images_per_second"] == pytest.approx(2 / rows["whole"], rel=0.01)
    assert report["size"] == [64, 64] and "classification" not in rows


@pytest.mark.parametrize(("name", "works"), [("vocabulary", [20, 60]), ("size", [0.005, 0.02])])
def test_a_sweep(name: str, works: list[float], tmp_path: Path) -> None:
    outputs = ["--json", str(tmp_path / "out.json"), "--chart", str(tmp_path / "out.png")]
    assert main([*SMALL, *outputs, "--sweep", name]) is None
    report = json.loads((tmp_path / "out.json").read_text())
    assert [point["work"] for point in report["points"]] == works
    assert ("size" in report) == (name != "size")  # one size for all, or one for each
    assert report["points"][1]["size"] == ([115, 172] if name == "size" else [64, 96])
    assert "whole" in report["growth"] and (tmp_path / "out.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "65x64", "--training"], "--size: multiples of 32"),
        (["--size", "800"], "--size 800: HEIGHTxWIDTH"),
        (["--size", "0x8"], "--size 0x8: HEIGHTxWIDTH"),
        (["--size", "8x8", "--tiny"], "--size 8x8: one side must be longer than 32 pixels"),
        (["--threads", "-1"], "--threads -1: must be at least 0"),
        (["--names", "10"], "--names 10: each of 150 classes needs one"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--batch", "2"], "--batch: works only with --training"),
        (["--training", "--sweep", "size"], "--training: cannot be combined with --sweep"),
        (["--sweep", "size", "--size", "64x64"], "--sweep size: cannot be combined with --size"),
        (
            ["--sweep", "queries", "--queries", "20"],
            "--sweep queries: cannot be combined with --queries",
        ),
        (
            ["--sweep", "vocabulary", "--classes", "20"],
            "vocabulary: cannot be combined with --classes",
        ),
    ],
)
def test_what_does_not_go_together(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(argv)


@pytest.mark.parametrize("size", [("0", "0"), ("64", "-1")])
def test_memory_of_nothing_is_refused(size: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=f"--size {size[1]}: must be at least 1"):
        measure_memory_command(["--size", *size])
    with pytest.raises(UserError, match="--classes 0: must be at least 1"):
        measure_memory_command(["--classes", "0"])


@pytest.mark.filterwarnings("ignore:TF32")  # PyTorch's own, when oneDNN is switched off
def test_flops_of_the_stages_add_up() -> None:
    """CLIP's share by hand for its first layer: a 4 x 4 convolution with stride 4. Fused layers
    count as the others."""
    model = build_model(load_config(None, [*TINY, "MODEL.DEVICE", "cpu"])).eval()
    found = count_flops(model, (64, 96), 5)
    with torch.backends.mkldnn.flags(enabled=False):
        assert count_flops(model, (64, 96), 5) == found
    assert found["total"] == sum(count for name, count in found.items() if name != "total")
    stem = model.clip.trunk.visual.trunk.stem[0]
    assert found["CLIP trunk"] > 2 * 16 * 24 * stem.weight.numel() > 0
    assert found["SAM encoder"] > 0 and found["transformer decoder"] > 0
