"""Ground truth of records against the arrays that were written to disk, and against pycocotools."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from frozenseg.data.annotations import (
    BACKGROUND_CLASS,
    VOID_CLASS,
    instance_labels,
    load_panoptic,
    load_semantic,
    panoptic_labels,
    present_classes,
    semantic_labels,
)
from frozenseg.data.readers import read_instances, read_panoptic
from frozenseg.data.records import Instances, Record, Segments
from frozenseg.errors import UserError
from tests.data.tiny import encode, id_map, load_instances, write_dataset


@pytest.fixture
def record(tmp_path):
    write_dataset(tmp_path, [(40, 60)])
    records, _ = read_panoptic(tmp_path / "panoptic.json", tmp_path / "png", tmp_path / "images")
    return records[0]


def test_panoptic_ids_decode(record):
    ids, segments = load_panoptic(record)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, id_map(40, 60))
    assert len(segments) == 4


def test_semantic_from_panoptic(record):
    expected = np.full((40, 60), VOID_CLASS)
    for segment, class_id in [(5, 1), (300, 0), (70000, 1), (16777215, 2)]:
        expected[id_map(40, 60) == segment] = class_id
    labels = load_semantic(record)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


def test_panoptic_labels_leave_crowds_out(record):
    labels = panoptic_labels(record)
    assert labels.maps.dtype == np.uint8 and labels.class_ids.tolist() == [1, 0, 2]
    masks = labels.maps == labels.values[:, None, None]
    ids = id_map(40, 60)
    for mask, segment in zip(masks, (5, 300, 16777215), strict=True):
        np.testing.assert_array_equal(mask, ids == segment)


def test_labels_follow_the_order_of_the_json(record):
    """Segments are listed in any order; their masks come in that order."""
    order = [3, 1, 0, 2]
    arrays = [values[order] for values in _arrays(record)]
    labels = panoptic_labels(Record(**{**vars(record), "segments": Segments(*arrays)}))
    assert labels.class_ids.tolist() == [2, 0, 1]
    masks = labels.maps == labels.values[:, None, None]
    for mask, segment in zip(masks, (16777215, 300, 5), strict=True):
        np.testing.assert_array_equal(mask, id_map(40, 60) == segment)


def test_areas_of_the_coco_sample(reference):
    """COCO states each segment's area and box in its JSON."""
    sample = reference / "coco_sample"
    path = sample / "panoptic_examples.json"
    records, _ = read_panoptic(path, sample / "panoptic_examples", sample)
    annotations = json.loads(path.read_text())["annotations"]
    for record, annotation in zip(records, annotations, strict=True):
        ids, segments = load_panoptic(record)
        areas = [int((ids == segment).sum()) for segment in segments.ids]
        assert areas == [info["area"] for info in annotation["segments_info"]]
        x, y, width, height = annotation["segments_info"][0]["bbox"]
        rows, columns = np.nonzero(ids == segments.ids[0])
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() - x + 1, rows.max() - y + 1) == (width, height)


def _replace_png(record, pixels):
    Image.fromarray(pixels).save(record.panoptic_path)


def test_png_that_does_not_belong(record):
    ids = id_map(40, 60)
    for stray in (6, 16777214, 1):
        ids[0, 0] = stray
        _replace_png(record, encode(ids))
        with pytest.raises(
            UserError, match=f"1.png: holds id {stray}, which the segments of image"
        ):
            load_panoptic(record)


def test_id_above_all_listed_ones(record):
    ids = np.zeros((40, 60), dtype=np.int64)
    ids[3, 3] = 400
    _replace_png(record, encode(ids))
    first = Segments(*(values[:1] for values in _arrays(record)))
    few = Record(**{**vars(record), "segments": first})
    with pytest.raises(UserError, match="holds id 400"):
        load_panoptic(few)


def _arrays(record):
    return record.segments.ids, record.segments.class_ids, record.segments.is_crowd


def test_png_of_another_size_grey_or_cut_off(record):
    _replace_png(record, encode(id_map(41, 60)))
    with pytest.raises(UserError, match=r"1.png: is 41 x 60 .* its image is 40 x 60"):
        load_panoptic(record)
    _replace_png(record, np.zeros((40, 60), dtype=np.uint16))
    with pytest.raises(UserError, match="1.png: has one channel"):
        load_panoptic(record)
    _replace_png(record, encode(np.random.default_rng(0).integers(0, 2**24, (40, 60))))
    with open(record.panoptic_path, "r+b") as file:
        file.truncate(700)
    with pytest.raises(UserError, match=r"1.png: damaged image"):
        load_panoptic(record)


def _semantic(tmp_path, values, ignore=255, num_classes=3):
    path = tmp_path / "labels.png"
    Image.fromarray(values).save(path)
    return Record(
        "x", "x.jpg", None, None, num_classes, semantic_path=str(path), semantic_ignore=ignore
    )


@pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
def test_semantic_maps_of_8_and_16_bit(tmp_path, dtype, ignore):
    values = np.array([[0, 1, 2], [ignore, 2, 2]], dtype=dtype)
    labels = load_semantic(_semantic(tmp_path, values, ignore))
    assert labels.tolist() == [[0, 1, 2], [VOID_CLASS, 2, 2]]
    maps = semantic_labels(_semantic(tmp_path, values[:, 1:], ignore))
    assert maps.class_ids.tolist() == [1, 2]
    assert (maps.maps == maps.values[:, None, None]).sum(axis=(1, 2)).tolist() == [1, 3]


def test_semantic_map_with_an_unknown_class_or_colours(tmp_path):
    with pytest.raises(UserError, match="labels.png: holds class id 3, but there are 3 classes"):
        load_semantic(_semantic(tmp_path, np.array([[0, 3]], dtype=np.uint8)))
    with pytest.raises(UserError, match="labels.png: has colours"):
        load_semantic(_semantic(tmp_path, np.eye(3, dtype=np.uint8)[None]))
    assert load_semantic(_semantic(tmp_path, np.full((2, 2), 255, np.uint8))).max() == VOID_CLASS


def test_instances_are_pycocotools(reference, tmp_path):
    path = reference / "evaluation" / "instances_gt.json"
    content = json.loads(path.read_text())
    content["annotations"].append(  # the reference has RLE only
        {
            "id": 10**6,
            "image_id": 1000,
            "category_id": 13,
            "area": 1,
            "iscrowd": 0,
            "bbox": [0, 0, 1, 1],
            "segmentation": [[5.5, 4, 60, 8, 50.2, 70, 9, 40], [70, 70, 90, 70, 80, 90]],
        }
    )
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    for image in content["images"]:
        (tmp_path / image["file_name"]).touch()
    records, categories = read_instances(path, tmp_path)
    truth = COCO(str(path))
    for record in records:
        masks, instances = load_instances(record)
        annotations = truth.imgToAnns[record.image_id]
        assert masks.shape == (len(annotations), record.height, record.width)
        for mask, class_id, annotation in zip(masks, instances.class_ids, annotations, strict=True):
            assert categories.dataset_ids[class_id] == annotation["category_id"]
            np.testing.assert_array_equal(mask, truth.annToMask(annotation) == 1)
        kept = instance_labels(record)
        assert len(kept.maps) == len(kept.values) == sum(not a["iscrowd"] for a in annotations)


def test_background_and_classes_that_are_not_asked_for(tmp_path):
    """254 is labelled, of no class; class 1 is held out and becomes background; 255 is unknown."""
    path = tmp_path / "labels.png"
    Image.fromarray(np.array([[0, 1, 2], [254, 255, 2]], np.uint8)).save(path)
    record = Record(
        "x", "x.jpg", None, None, 3, semantic_path=str(path), semantic_background=254,
        classes=(2, 0),
    )  # fmt: skip
    labels = load_semantic(record)
    assert labels.tolist() == [[1, BACKGROUND_CLASS, 0], [BACKGROUND_CLASS, VOID_CLASS, 0]]
    assert present_classes(labels) == [0, 1]
    found = semantic_labels(record)
    assert found.has_background and found.class_ids.tolist() == [0, 1]
    masks = found.maps == found.values[:, None, None]
    assert masks[0].tolist() == (labels == 0).tolist()
    assert masks[1].tolist() == (labels == 1).tolist()
    assert (found.maps[0] != 0).tolist() == (labels != VOID_CLASS).tolist()


def test_semantic_from_objects_small_above_large_and_crowds_below(tmp_path):
    def box(x0, y0, x1, y1):
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]

    rows = [(2, box(2, 2, 4, 4), 0), (1, box(0, 0, 6, 5), 0), (2, box(0, 0, 8, 5), 1)]
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "segmentation": shape, "iscrowd": crowd}
        for i, (c, shape, crowd) in enumerate(rows)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 6, "width": 10}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    (tmp_path / "1.jpg").write_bytes(b"")
    (record,), _ = read_instances(tmp_path / "x.json", tmp_path)
    expected = np.full((6, 10), BACKGROUND_CLASS)
    expected[0:5, 0:8] = 1
    expected[0:5, 0:6] = 0
    expected[2:4, 2:4] = 1
    np.testing.assert_array_equal(load_semantic(record), expected)


def test_objects_are_painted_one_after_the_other(tmp_path):
    """All masks of a large picture together would need gigabytes; here they are 144 MB."""
    side, count = 1200, 100
    corners = [[x, y] for x, y in np.random.default_rng(0).integers(0, side // 2, (count, 2))]
    polygons = [
        [[x, y, x + 9 * n + 9, y, x + 9 * n + 9, y + 5 * n + 9, x, y + 5 * n + 9]]
        for n, (x, y) in enumerate(np.array(corners).tolist())
    ]
    crowd = np.arange(count) % 10 == 0
    instances = Instances(polygons, np.arange(count) % 7, crowd)
    record = Record("x", "x.jpg", side, side, 7, instances=instances)
    masks, _ = load_instances(record)
    expected = np.full((side, side), BACKGROUND_CLASS)
    areas = masks.sum(axis=(1, 2))
    for index in sorted(range(count), key=lambda index: (not crowd[index], -areas[index], index)):
        expected[masks[index]] = index % 7
    del masks
    tracemalloc.start()
    found = load_semantic(record)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert peak < 30e6
