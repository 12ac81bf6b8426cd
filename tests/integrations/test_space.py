"""The page of a Hugging Face Space; Gradio, which only shows what it gives, is a stand-in here."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

import frozenseg
from frozenseg.structures import PanopticResult
from tests.results.cases import SIZE, made

PATH = Path(__file__).resolve().parents[2] / "demo" / "space" / "app.py"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "gradio", MagicMock(Error=RuntimeError))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(frozenseg, "load", lambda model: None)
    spec = importlib.util.spec_from_file_location("frozenseg_space", PATH)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("scored", [True, False])
def test_masks_have_names_and_the_scores_that_there_are(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, scored: bool
) -> None:
    found = made().panoptic
    if not scored:
        unscored = [replace(segment, score=float("nan")) for segment in found.segments]
        found = PanopticResult(found.ids, unscored)
    result = made(panoptic=found)
    monkeypatch.setattr(module, "segmenter", lambda image, words, threshold: result)
    (image, masks), line = module.segment(Image.new("RGB", SIZE[::-1]), "dog; sky", 0.25)
    assert line == result.summary() and image is result.image
    for (mask, label), segment in zip(masks, found.segments, strict=True):
        np.testing.assert_array_equal(mask > 0, found.ids == segment.id)
        assert label == (f"{segment.name} {segment.score:.2f}" if scored else segment.name)
