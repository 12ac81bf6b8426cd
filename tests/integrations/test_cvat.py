"""The function for CVAT, without a server: what cvat-cli loads, calls and sends."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import frozenseg
from frozenseg.data.rle import decode_masks, encode_segmentation
from tests.results.cases import SIZE, WORDS, made

cvat_masks = pytest.importorskip("cvat_sdk.masks", reason="pip install cvat-sdk")

PATH = Path(__file__).resolve().parents[2] / "integrations" / "cvat_function.py"


@pytest.fixture
def module() -> ModuleType:
    """The file, loaded as cvat-cli loads it."""
    spec = importlib.util.spec_from_file_location("__cvat_function__", PATH)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def function(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> object:
    def segmenter(image: Image.Image, words: object, threshold: float) -> object:
        return made().filter(threshold=threshold)

    monkeypatch.setattr(frozenseg, "load", lambda model, **_: segmenter)
    return module.create(vocabulary="dog, hound; sky; traffic light", threshold=0.3)


def context(threshold: float | None = None, polygons: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        conf_threshold=threshold, conv_mask_to_poly=polygons, frame_name="street.jpg"
    )


def test_labels(function: object) -> None:
    assert [(label.id, label.name) for label in function.spec.labels] == [*enumerate(WORDS.labels)]


@pytest.mark.parametrize(("threshold", "count"), [(None, 2), (0.0, 3), (0.8, 1)])
def test_masks_decode_to_the_same(function: object, threshold: float, count: int) -> None:
    shapes = function.detect(context(threshold), Image.new("RGB", SIZE[::-1]))
    objects = made().objects()
    assert len(shapes) == count
    for shape, mask, class_id in zip(shapes, objects.masks, objects.class_ids, strict=False):
        read = cvat_masks.decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
        np.testing.assert_array_equal(read, mask)
        assert shape.label_id == class_id and shape.type.value == "mask"


def test_polygons_on_request(function: object) -> None:
    shapes = function.detect(context(0.0, True), Image.new("RGB", SIZE[::-1]))
    assert {shape.type.value for shape in shapes} == {"polygon"}
    rings = [shape.points for shape in shapes if shape.label_id == 1]
    drawn = decode_masks([encode_segmentation(rings, *SIZE)], SIZE)[0]
    np.testing.assert_array_equal(drawn, made().objects().masks[0])
