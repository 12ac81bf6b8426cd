"""`measure_gpu`: sections that fail, crash or take too long, and the whole on the CPU."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frozenseg.devtools.commands.measure_gpu import SECTIONS, main
from frozenseg.devtools.gpu import sections
from frozenseg.devtools.gpu.activations import LARGEST_FLOAT16, largest_activations
from frozenseg.devtools.gpu.report import flat, headlines
from frozenseg.devtools.gpu.sections import Results, Section, run_section
from frozenseg.devtools.gpu.trial import Trial
from frozenseg.errors import UserError
from frozenseg.structures import ImageBatch
from tests.conftest import build_tiny

MINUTES = 8


def works(trial: Trial) -> Results:
    yield "number", 1


def fails(trial: Trial) -> Results:
    yield "before", 2
    raise RuntimeError("a kernel is missing")


def crashes(trial: Trial) -> Results:
    yield "before", 3
    os._exit(1)


def hangs(trial: Trial) -> Results:
    (trial.folder / "hangs").touch()
    yield "before", 4
    time.sleep(600)


def trial_in(folder: Path) -> Trial:
    return Trial(device=torch.device("cpu"), tiny=True, folder=folder, scratch=folder)


def test_all_sections_together_take_at_most_eight_minutes() -> None:
    assert sum(section.limit for section in SECTIONS.values()) <= MINUTES * 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_fails_crashes_or_hangs_ends_one_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the sections leaps to their end as soon as one hangs."""
    limit = 250

    def monotonic() -> float:
        return time.monotonic() + limit * (tmp_path / "hangs").exists()

    monkeypatch.setattr(sections, "time", SimpleNamespace(monotonic=monotonic))
    parts = {"fails": fails, "works": works, "crashes": crashes, "hangs": hangs, "late": works}
    found = run_section(Section("of a test", limit, parts), trial_in(tmp_path))
    assert list(found) == list(parts)
    assert found["works"].results == {"number": 1} and found["works"].failure is None
    assert [found[name].results["before"] for name in ("fails", "crashes", "hangs")] == [2, 3, 4]
    assert "a kernel is missing" in (found["fails"].failure or "")
    assert "ended without a message" in (found["crashes"].failure or "")
    assert "stopped" in (found["hangs"].failure or "")
    assert "not begun" in (found["late"].failure or "")
    assert "test, fails: RuntimeError: a kernel is missing" in headlines({"test": found})


def test_results_within_results_become_rows() -> None:
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b: c": 2, "b: d: e": 3}


def test_an_unknown_section_is_named() -> None:
    with pytest.raises(UserError, match="--sections sped: unknown; .*speed"):
        main(["--sections", "sped"])


def test_the_largest_activation_is_found_in_its_stage_and_module() -> None:
    model = build_tiny()
    with torch.no_grad():
        model.pixel_decoder.mask_features.bias.fill_(70000.0)
    text = trial_in(Path()).setting().text(model.text_encoder.embed_dim)
    images = ImageBatch.collate([torch.zeros(3, 64, 96)], model.size_divisor)
    with torch.no_grad(), largest_activations(model) as largest:
        model.predict(images, text)
    stages = largest.of_stages()
    assert stages["pixel decoder"] > LARGEST_FLOAT16 > stages["CLIP trunk"] > 0
    assert largest.of_modules()["pixel_decoder.mask_features"] == stages["pixel decoder"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_sections_run_on_the_cpu(tmp_path: Path) -> None:
    assert main(["--device", "cpu", "--tiny", "--limit", "300", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert list(report["sections"]) == list(SECTIONS)
    found = {name: flat(part) for name, part in report["sections"].items()}
    assert found["tests"]["marked gpu: results: not passed"] == 0
    equal = "small model without SAM's masks: results: fp32: panoptic, worst"
    assert found["equality"][equal] == 100
    assert found["speed"]["fp16, batch 8: results: model, images/s"] > 0
    assert found["training"]["batch 16: results: images/s"] > 0
    same = "losses: results: float32: largest relative difference"
    assert float(found["small_world"][same]) < 1e-5
    written = {path.name for path in tmp_path.iterdir()}
    assert {"report.md", "results.json", "profile_training.txt"} <= written and len(written) <= 8
