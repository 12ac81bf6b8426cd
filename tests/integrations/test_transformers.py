"""FrozenSeg in Transformers' pipeline("image-segmentation")."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frozenseg
from tests.results.cases import SIZE, made

transformers = pytest.importorskip("transformers", reason="pip install transformers")

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "transformers"


def test_the_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def segmenter(image: object, vocabulary: object, threshold: float) -> object:
        asked.append((tuple(image.shape), vocabulary.names, threshold))
        return made()

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(frozenseg, "load", lambda model, **_: segmenter)
    segment = transformers.pipeline("image-segmentation", model=str(FOLDER), trust_remote_code=True)
    found = segment(Image.fromarray(made().image), threshold=0.4)
    names = (("sky",), ("sand", "beach"), ("car",), ("mountain",))
    assert asked == [((3, *SIZE), names, 0)]
    assert [(entry["label"], entry["score"]) for entry in found] == [
        ("sand, beach", 0.9),  # of class 1
        ("sky", 0.5),
    ]
    for entry, mask in zip(found, made().objects().masks, strict=False):
        np.testing.assert_array_equal(np.asarray(entry["mask"]) > 0, mask)
    assert segment.model.vocabulary.is_thing == (False, False, True, False)
    segment.model.vocabulary = frozenseg.Vocabulary.parse("water; cloud, mist", things="water")
    found = segment(Image.fromarray(made().image), threshold=0.4)
    assert asked[1][1] == (("water",), ("cloud", "mist"))
    assert [entry["label"] for entry in found] == ["cloud, mist", "water"]
    assert segment.model.config.things == ["water"]
