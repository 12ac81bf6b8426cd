"""The source for FiftyOne's zoo. FiftyOne starts a database when it is imported, so the two modules
that the source imports are stand-ins here; only what it calls in them is there."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import frozenseg
from tests.results.cases import made

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "fiftyone_zoo"


class Detection(SimpleNamespace):
    @classmethod
    def from_mask(cls, mask: np.ndarray, label: str, **attributes: object) -> "Detection":
        return cls(mask=mask, label=label, **attributes)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    labels, models = ModuleType("fiftyone.core.labels"), ModuleType("fiftyone.core.models")
    labels.Detection = Detection
    labels.Detections = lambda detections: SimpleNamespace(detections=detections)
    models.Model = type("Model", (), {})
    for name in ("fiftyone", "fiftyone.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["fiftyone.core"].labels, sys.modules["fiftyone.core"].models = labels, models
    monkeypatch.setitem(sys.modules, "fiftyone.core.labels", labels)
    monkeypatch.setitem(sys.modules, "fiftyone.core.models", models)
    spec = importlib.util.spec_from_file_location("frozenseg_zoo", FOLDER / "__init__.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_manifest_names_a_model(module: ModuleType, tmp_path: Path) -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert manifest["name"]  # without it FiftyOne skips the source silently
    (model,) = manifest["models"]
    target = tmp_path / model["base_filename"]
    module.download_model(model["base_name"], str(target))
    assert target.is_file()


def test_detections_have_the_masks(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = SimpleNamespace(
        batch=lambda images, words, threshold: [made().filter(threshold=threshold)] * len(images)
    )
    monkeypatch.setattr(frozenseg, "load", lambda model, **_: segmenter)
    model = module.load_model(vocabulary="dog, hound; sky; traffic light", threshold=0.5)
    image = made().image
    (one,), both = [model.predict(image)], model.predict_all([image, image])
    objects = made().objects()
    assert len(both) == 2 and len(one.detections) == 2
    for found, mask, name in zip(one.detections, objects.masks, objects.names, strict=False):
        np.testing.assert_array_equal(found.mask, mask)
        assert found.label == name and 0.5 <= found.confidence <= 1
    assert (model.media_type, model.ragged_batches, model.transforms) == ("image", True, None)


def test_classes_are_needed(module: ModuleType) -> None:
    with pytest.raises(frozenseg.UserError, match="name the classes: vocabulary="):
        module.load_model()
