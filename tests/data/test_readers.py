"""Readers on tiny datasets, the real COCO sample, and every kind of broken annotation."""

import copy
import json
import logging

import pytest
from PIL import Image

from frozenseg.data.readers import read_instances, read_panoptic, read_semantic
from frozenseg.data.records import Categories
from frozenseg.errors import UserError
from tests.data.tiny import write_dataset, write_json

SIZES = [(40, 60), (33, 21), (50, 50)]


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path / "set", SIZES)
    return tmp_path / "set"


def read(root, **options):
    return read_panoptic(root / "panoptic.json", root / "png", root / "images", **options)


def test_panoptic_records(root):
    records, categories = read(root)
    assert categories.names == ("dog", "cat", "grass")  # by ascending dataset id
    assert categories.is_thing == (True, True, False)
    assert categories.dataset_ids == (3, 7, 90) and categories.class_ids == {3: 0, 7: 1, 90: 2}
    assert [(record.height, record.width) for record in records] == SIZES
    first = records[0]
    assert first.image_id == 1 and first.image_path == str(root / "images" / "1.png")
    assert first.segments.ids.tolist() == [5, 300, 70000, 16777215]
    assert first.segments.class_ids.tolist() == [1, 0, 1, 2]
    assert first.segments.is_crowd.tolist() == [False, False, True, False]


def test_coco_sample(reference):
    sample = reference / "coco_sample"
    records, categories = read_panoptic(
        sample / "panoptic_examples.json", sample / "panoptic_examples", sample
    )
    listed = json.loads((sample / "panoptic_coco_categories.json").read_text())
    assert list(categories.names) == [entry["name"] for entry in listed]
    assert sum(categories.is_thing) == 80 and len(categories) == 133
    assert [record.image_id for record in records] == [142238, 439180]
    annotation = json.loads((sample / "panoptic_examples.json").read_text())["annotations"][0]
    class_ids = records[0].segments.class_ids
    assert [categories.dataset_ids[index] for index in class_ids] == [
        info["category_id"] for info in annotation["segments_info"]
    ]


def _change(root, change):
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    write_json(root, content)


BAD_PANOPTIC = {
    "unlisted category": (
        lambda c: c["annotations"][1]["segments_info"][2].update(category_id=999),
        r"panoptic.json: annotations\[1\] .*category 999 is not among",
    ),
    "unlisted image": (
        lambda c: c["annotations"][1].update(image_id=77),
        r"annotations\[1\]: image 77 is not among",
    ),
    "no image_id": (
        lambda c: c["annotations"][2].pop("image_id"),
        r"annotations\[2\]: has no 'image_id'",
    ),
    "no height": (lambda c: c["images"][1].pop("height"), r"images\[1\]: has no 'height'"),
    "height as text": (
        lambda c: c["images"][1].update(height="x"),
        r"images\[1\]: 'height' is 'x'",
    ),
    "zero width": (lambda c: c["images"][0].update(width=0), r"images\[0\]: 'width' is 0"),
    "segment id twice": (
        lambda c: c["annotations"][0]["segments_info"][1].update(id=5),
        r"annotations\[0\] .*lists a segment id twice",
    ),
    "segment id too large": (
        lambda c: c["annotations"][0]["segments_info"][1].update(id=2**24),
        r"annotations\[0\] .*'id' is 16777216",
    ),
    "segments not a list": (
        lambda c: c["annotations"][0].update(segments_info=3),
        r"annotations\[0\]: segments_info: a list was expected",
    ),
    "image id twice": (lambda c: c["images"][1].update(id=1), "image id 1 is listed twice"),
    "annotation twice": (
        lambda c: c["annotations"][1].update(image_id=1),
        r"annotations\[1\] is the second annotation of image 1",
    ),
    "category twice": (lambda c: c["categories"][1].update(id=7), "category id 7 is listed twice"),
    "no categories": (lambda c: c.pop("categories"), "'categories'"),
    "empty categories": (lambda c: c.update(categories=[]), "list of categories is empty"),
    "empty images": (lambda c: c.update(images=[]), "lists no images"),
    "empty annotations": (lambda c: c.update(annotations=[]), "lists no annotations"),
    "missing image": (
        lambda c: c["images"][1].update(file_name="gone.png"),
        r"images/gone.png: no such file; 1 of 3 images",
    ),
    "missing PNG": (
        lambda c: c["annotations"][2].update(file_name="gone.png"),
        r"png/gone.png: no such file; 1 of 3 panoptic PNGs",
    ),
}


@pytest.mark.parametrize("case", BAD_PANOPTIC)
def test_broken_panoptic_json(root, case):
    change, message = BAD_PANOPTIC[case]
    _change(root, change)
    with pytest.raises(UserError, match=message) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_json_cut_off_and_folders_gone(root):
    path = root / "panoptic.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="panoptic.json: not valid JSON"):
        read(root)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="panoptic.json: has no list 'categories'; a JSON object"):
        read(root)
    path.write_text(whole)
    (root / "png").rename(root / "moved")
    with pytest.raises(UserError, match="png: no such folder"):
        read(root)
    (root / "png").write_text("a file")
    with pytest.raises(UserError, match="png: is a file"):
        read(root)
    path.unlink()
    with pytest.raises(UserError, match="panoptic.json: no such file"):
        read(root)


def test_images_without_annotation_are_left_out_with_a_warning(root, caplog):
    _change(root, lambda content: content["annotations"].pop(1))
    with caplog.at_level(logging.WARNING):
        records, _ = read(root)
    assert [record.image_id for record in records] == [1, 3]
    assert "1 of 3 images have no annotation" in caplog.text


def test_semantic_folder_beside_panoptic(root, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in (1, 2, 3):
        Image.new("L", (4, 4)).save(labels / f"{number}.png")
    records, _ = read(root, semantic_dir=labels)
    assert records[1].semantic_path == str(labels / "2.png")
    with pytest.raises(UserError, match=r"labels: 2 cannot mark unlabelled pixels"):
        read(root, semantic_dir=labels, ignore=2)
    read(root, ignore=2)  # without label maps it means nothing
    (labels / "2.png").unlink()
    with pytest.raises(UserError, match="labels/2.png: no such file; 1 of 3 label maps"):
        read(root, semantic_dir=labels)


def test_semantic_folders(root, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    categories = Categories(("a", "b"), (True, False), (0, 1))
    with pytest.raises(UserError, match="labels: holds no label maps"):
        read_semantic(root / "images", labels, categories)
    Image.new("L", (4, 4)).save(labels / "2.png")
    Image.new("L", (4, 4)).save(labels / "1.png")
    (labels / "README.txt").write_text("not a label map")
    records, _ = read_semantic(root / "images", labels, categories, ignore=65535)
    assert [record.image_id for record in records] == ["1", "2"]  # image 3 has no label map
    assert records[0].image_path == str(root / "images" / "1.png")
    assert records[0].semantic_ignore == 65535 and records[0].num_classes == 2
    Image.new("L", (4, 4)).save(labels / "orphan.png")
    with pytest.raises(UserError, match="labels/orphan.png: no image orphan"):
        read_semantic(root / "images", labels, categories)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_semantic(tmp_path / "nowhere", labels, categories)


INSTANCES = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "2.png", "height": 33, "width": 21},
    ],
    "categories": [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}],
    "annotations": [
        {"image_id": 1, "category_id": 9, "segmentation": [[5, 5, 20, 5, 20, 25, 5, 25]]},
        {
            "image_id": 1,
            "category_id": 4,
            "iscrowd": 1,
            "segmentation": {"size": [40, 60], "counts": [400, 100, 1900]},
        },
        {"image_id": 1, "category_id": 4, "segmentation": [[1, 1, 2, 2]]},  # two points: no area
    ],
}


def _read_instances(root, content):
    (root / "instances.json").write_text(json.dumps(content))
    return read_instances(root / "instances.json", root / "images")


def test_instance_records(root):
    records, categories = _read_instances(root, INSTANCES)
    assert categories.names == ("a", "b") and categories.is_thing == (True, True)
    assert [len(record.instances) for record in records] == [2, 0]
    assert records[0].instances.class_ids.tolist() == [1, 0]
    assert records[0].instances.is_crowd.tolist() == [False, True]


def test_lvis_names_its_files_by_coco_url(root):
    content = copy.deepcopy(INSTANCES)
    for image in content["images"]:
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/images/{name}"
    (root / "lvis.json").write_text(json.dumps(content))
    records, _ = read_instances(root / "lvis.json", root)
    assert records[0].image_path == str(root / "images" / "1.png")
    for image in content["images"]:
        del image["coco_url"]
    with pytest.raises(UserError, match=r"images\[0\]: has no 'file_name'"):
        _read_instances(root, content)


BAD_SHAPES = {
    "RLE of another size": {"size": [40, 61], "counts": [2440]},
    "RLE too short": {"size": [40, 60], "counts": [400, 100]},
    "negative run": {"size": [40, 60], "counts": [2500, -100]},
    "runs that wrap around": {"size": [40, 60], "counts": [2**62, 2**62, 2**62, 2**62 + 2400]},
    "polygons nested too deep": [[[5, 5], [20, 5], [20, 25]]],
    "polygons as objects": [{}],
    "an x without its y": [[5, 5, 20, 5, 20, 25, 5]],
    "compressed RLE cut off": {"size": [40, 60], "counts": "Q`9"},
    "compressed RLE of nothing": {"size": [40, 60], "counts": ""},
    "not a code": {"size": [40, 60], "counts": "\x01\x02"},
    "no counts": {"size": [40, 60]},
    "a number": 5,
    "a flat polygon": [5, 5, 20, 5, 20, 25],
    "letters": [[1, 2, 3, 4, 5, "x"]],
    "a point in the sky": [[1, 2, 3, 4, 5, 1e12]],
    "not a number": [[1, 2, 3, 4, 5, float("nan")]],
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_broken_segmentations(root, case):
    content = copy.deepcopy(INSTANCES)
    content["annotations"][1]["segmentation"] = BAD_SHAPES[case]
    with pytest.raises(
        UserError, match=r"instances.json: annotations\[1\]: .*(malformed|has no|RLE|'counts' is)"
    ):
        _read_instances(root, content)


def test_unlisted_category_and_image_of_an_instance(root):
    content = copy.deepcopy(INSTANCES)
    content["annotations"][0]["category_id"] = 5
    with pytest.raises(UserError, match=r"annotations\[0\]: category 5"):
        _read_instances(root, content)
    content["annotations"][0].update(category_id=4, image_id=3)
    with pytest.raises(UserError, match=r"annotations\[0\]: image 3"):
        _read_instances(root, content)
