"""What is written can be read back: panoptic PNGs, COCO JSON, masks as RLE."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from frozenseg.data.results import Predictions, encode_panoptic, write_panoptic_png
from frozenseg.errors import UserError
from frozenseg.structures import InstanceResult, PanopticResult, Segment

NAMES = [("car", "truck"), ("road",), ("sky", "heaven")]
IS_THING = [True, False, False]


def _panoptic() -> PanopticResult:
    ids = np.zeros((9, 11), dtype=np.int32)
    ids[5:] = 1
    ids[4:7, 3:8] = 2
    ids[:2] = 3
    segments = []
    for number, class_id in [(1, 1), (2, 0), (3, 2)]:
        rows, columns = np.nonzero(ids == number)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)  # numpy integers
        name = NAMES[class_id][0]
        segments.append(Segment(number, class_id, name, number == 2, 0.5, len(rows), box))
    return PanopticResult(ids, segments)


def _instances(count: int = 3) -> InstanceResult:
    masks = np.random.default_rng(0).random((count, 9, 11)) > 0.6
    boxes = np.tile(np.array([[1, 2, 7, 9]], dtype=np.float32), (count, 1))
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return InstanceResult(boxes, masks, scores, np.zeros(count, dtype=np.int64), ["car"] * count)


def _predictions() -> Predictions:
    predictions = Predictions(names=NAMES, is_thing=IS_THING)
    predictions.add(
        file_name="a.jpg", panoptic_file="a.png", panoptic=_panoptic(), instances=_instances()
    )
    nothing = PanopticResult(np.zeros((4, 5), dtype=np.int32), [])
    empty = InstanceResult(
        np.zeros((0, 4)), np.zeros((0, 4, 5), bool), np.zeros(0), np.zeros(0, int), []
    )
    predictions.add(
        file_name="b.jpg", panoptic_file="b.png", panoptic=nothing, instances=empty, note="random"
    )
    return predictions


def test_ids_in_png_are_those_of_the_coco_format(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 3937500, (1 << 24) - 1]], dtype=np.int32)
    write_panoptic_png(tmp_path / "a.png", ids)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "RGB"
    decoded = [
        [r + 256 * g + 256**2 * b for r, g, b in row] for row in np.asarray(image).astype(int)
    ]
    assert decoded == ids.tolist()


def test_ids_beyond_the_format_are_refused() -> None:
    for value in (-1, 1 << 24):
        with pytest.raises(UserError, match="0-16777215"):
            encode_panoptic(np.array([[value]]))


def test_the_coco_sample_comes_back(reference: Path, tmp_path: Path) -> None:
    """Real annotation, decoded with Pillow alone, and written by us: the same bytes of ids."""
    source = reference / "coco_sample" / "panoptic_examples" / "000000142238.png"
    colors = np.asarray(Image.open(source).convert("RGB"))
    ids = (colors.astype(np.int32) * [1, 256, 65536]).sum(axis=2)
    write_panoptic_png(tmp_path / "a.png", ids)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), colors)


def test_json_and_png_come_back_as_the_segments(tmp_path: Path) -> None:
    panoptic = _panoptic()
    write_panoptic_png(tmp_path / "a.png", panoptic.ids)
    _predictions().save(tmp_path / "predictions.json")
    content = json.loads((tmp_path / "predictions.json").read_text())
    colors = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    ids = colors[..., 0] + 256 * colors[..., 1]
    assert np.array_equal(ids, panoptic.ids)
    image, annotation = content["images"][0], content["annotations"][0]
    assert (image["height"], image["width"], image["file_name"]) == (9, 11, "a.jpg")
    assert annotation["image_id"] == image["id"] and annotation["file_name"] == "a.png"
    categories = {category["id"]: category for category in content["categories"]}
    assert [category["name"] for category in categories.values()] == ["car", "road", "sky"]
    assert [category["isthing"] for category in categories.values()] == [1, 0, 0]
    assert categories[3]["synonyms"] == ["sky", "heaven"]
    for info, segment in zip(annotation["segments_info"], panoptic.segments, strict=True):
        assert categories[info["category_id"]]["name"] == segment.name
        assert info["area"] == (ids == info["id"]).sum() and info["iscrowd"] == 0
        x, y, width, height = info["bbox"]
        cut = ids[y : y + height, x : x + width] == info["id"]
        assert cut.sum() == info["area"] and cut.any(axis=0).all() and cut.any(axis=1).all()


def test_instances_are_coco_results(tmp_path: Path) -> None:
    predictions = _predictions()
    predictions.save(tmp_path / "predictions.json")
    content = json.loads((tmp_path / "predictions.json").read_text())
    instances, expected = content["instances"], _instances()
    assert [entry["image_id"] for entry in instances] == [1, 1, 1]
    for entry, mask, score in zip(instances, expected.masks, expected.scores, strict=True):
        assert np.array_equal(rle.decode(entry["segmentation"]), mask)
        assert np.float32(entry["score"]) == score and entry["name"] == "car"
        assert entry["bbox"] == [1, 2, 6, 7]
        assert entry["category_id"] == content["categories"][0]["id"]
    coco = COCO()
    coco.dataset = {"images": content["images"], "categories": content["categories"], "info": {}}
    coco.createIndex()
    assert len(coco.loadRes(instances).getAnnIds()) == 3


def test_notes_are_kept(tmp_path: Path) -> None:
    assert _predictions().content()["info"]["notes"] == ["random"]


def test_an_image_with_nothing_in_it_is_still_there() -> None:
    content = _predictions().content()
    assert content["images"][1]["id"] == 2
    assert content["annotations"][1]["segments_info"] == []
