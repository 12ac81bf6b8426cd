"""What is written can be read back: panoptic PNGs, COCO JSON, masks as RLE."""

import json
import math
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from frozenseg.data.coco_records import categories_of
from frozenseg.data.prediction_lines import Header, PredictionLines, images_of, read_header
from frozenseg.data.results import encode_panoptic, write_panoptic_png, write_standard_files
from frozenseg.errors import UserError, WriteError
from frozenseg.structures import InstanceResult, PanopticResult, Segment
from tests.disk import files_end_at

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


def _lines(folder: Path, names: list[tuple[str, ...]] = NAMES, **more: Any) -> PredictionLines:
    return PredictionLines(folder, Header(categories_of(names, IS_THING), {}, "/images"), **more)


def _add(lines: PredictionLines, name: str, panoptic: PanopticResult, **more: Any) -> None:
    lines.add(source=name, file_name=name, panoptic_file=f"{name}.png", panoptic=panoptic, **more)


def _predictions(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The files of two images, the second with nothing in it: panoptic and instances."""
    lines = _lines(folder)
    _add(lines, "a.jpg", _panoptic(), instances=_instances())
    nothing = PanopticResult(np.zeros((4, 5), dtype=np.int32), [])
    empty = InstanceResult(
        np.zeros((0, 4)), np.zeros((0, 4, 5), bool), np.zeros(0), np.zeros(0, int), []
    )
    _add(lines, "b.jpg", nothing, instances=empty, note="random")
    lines.close()
    write_standard_files(folder)
    return _written(folder)


def _written(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    files = (folder / "panoptic.json", folder / "instances.json")
    panoptic, instances = (json.loads(file.read_text()) for file in files)
    return panoptic, instances


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
    content, _ = _predictions(tmp_path)
    colors = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    ids = colors[..., 0] + 256 * colors[..., 1]
    assert np.array_equal(ids, panoptic.ids)
    image, annotation = content["images"][0], content["annotations"][0]
    assert (image["height"], image["width"], image["file_name"]) == (9, 11, "a.jpg")
    assert annotation["image_id"] == image["id"] and annotation["file_name"] == "a.jpg.png"
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


def test_instances_are_a_coco_data_set(tmp_path: Path) -> None:
    _, content = _predictions(tmp_path)
    coco, expected = COCO(str(tmp_path / "instances.json")), _instances()
    assert coco.getImgIds() == [1, 2] and coco.getCatIds(catNms=["car"]) == [1]
    entries = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [entry["id"] for entry in entries] == [1, 2, 3] and len(content["annotations"]) == 3
    for entry, mask, score in zip(entries, expected.masks, expected.scores, strict=True):
        assert np.array_equal(coco.annToMask(entry), mask) and entry["area"] == mask.sum()
        assert np.float32(entry["score"]) == score
        assert entry["bbox"] == [1, 2, 6, 7] and entry["iscrowd"] == 0
        assert entry["category_id"] == content["categories"][0]["id"]
    assert len(coco.loadRes(content["annotations"]).getAnnIds()) == 3


def test_notes_are_kept(tmp_path: Path) -> None:
    for content in _predictions(tmp_path):
        assert content["info"]["notes"] == ["random"] and content["info"]["root"] == "/images"


def test_an_image_with_nothing_in_it_is_still_there(tmp_path: Path) -> None:
    content, _ = _predictions(tmp_path)
    assert content["images"][1]["id"] == 2
    assert content["annotations"][1]["segments_info"] == []


def test_objects_without_a_pixel_are_left_out(tmp_path: Path) -> None:
    lines, objects = _lines(tmp_path), _instances(4)
    objects.masks[[0, 2]] = False
    _add(lines, "a", _panoptic(), instances=objects)
    lines.close()
    write_standard_files(tmp_path)
    written = _written(tmp_path)[1]["annotations"]
    assert [entry["score"] for entry in written] == objects.scores[[1, 3]].tolist()
    for entry, mask in zip(written, objects.masks[[1, 3]], strict=True):
        assert np.array_equal(rle.decode(entry["segmentation"]), mask)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Of 400 images as of 40, while they come and when the files are put together."""

    def most(folder: Path, images: int) -> int:
        lines, panoptic, objects = _lines(folder), _panoptic(), _instances(20)
        tracemalloc.start()
        for number in range(images):
            _add(lines, f"{number}", panoptic, instances=objects)
        lines.close()
        write_standard_files(folder)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (folder / "instances.json").stat().st_size > images * 2000
        return peak

    most(tmp_path / "warm", 2)
    few, many = most(tmp_path / "few", 40), most(tmp_path / "many", 400)
    assert many < few + 20_000  # a line has 4,000 bytes


def test_a_line_that_does_not_fit_on_the_disk_leaves_whole_lines(tmp_path: Path) -> None:
    lines = _lines(tmp_path)
    _add(lines, "a", _panoptic())
    before = lines.path.read_bytes()
    with files_end_at(len(before) + 100), pytest.raises(WriteError, match="lines.jsonl"):
        _add(lines, "b", _panoptic())
    assert lines.path.read_bytes() == before
    with files_end_at(100), pytest.raises(WriteError, match="panoptic.json: cannot"):
        write_standard_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
    _add(lines, "b", _panoptic())  # there is room again
    lines.close()
    write_standard_files(tmp_path)
    assert [entry["id"] for entry in _written(tmp_path)[0]["images"]] == [1, 2]


def test_what_is_cut_off_is_done_again_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    lines = _lines(tmp_path)
    for name in "ab":
        _add(lines, name, _panoptic())
    lines.close()
    whole = lines.path.read_bytes()
    header_size = whole.index(b"\n") + 1
    for cut in (5, header_size - 1, header_size, header_size + 9, len(whole) - 1, len(whole)):
        lines.path.write_bytes(whole[:cut])
        again = _lines(tmp_path)
        assert again.done == {name: name for name in "ab"[: whole[header_size:cut].count(b"\n")]}
        for name in "ab":
            if name not in again.done:
                _add(again, name, _panoptic())
        again.close()
        assert lines.path.read_bytes() == whole
    lines.path.write_bytes(whole[: header_size + 9] + b"\n" + whole[header_size:])
    with pytest.raises(UserError, match="line 2 is damaged; start again with --overwrite"):
        _lines(tmp_path)
    for other in (b"5\n", b"[1]\n", b'"text"\n'):  # of other programs, or mended by hand
        lines.path.write_bytes(whole[:header_size] + other)
        with pytest.raises(UserError, match="line 2 is damaged"):
            _lines(tmp_path)
    for other in ("{}", "[]", '{"format": 1}'):
        lines.path.write_text(f"{other}\n")
        with pytest.raises(UserError, match="was written by another version"):
            _lines(tmp_path)
    _lines(tmp_path, overwrite=True).close()
    assert list(tmp_path.iterdir()) == []  # a run that did nothing


TEXTS = st.text(min_size=1, max_size=20)  # with quotes, line breaks, any letters
IMAGES = st.lists(
    st.tuples(
        TEXTS,
        arrays(np.int32, (3, 4), elements=st.integers(0, 3)),
        arrays(bool, st.tuples(st.integers(0, 3), st.just(3), st.just(4))),
        st.none() | TEXTS,
    ),
    max_size=5,
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=3, max_size=3), IMAGES)
def test_what_is_written_is_read(labels: list[str], images: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = _lines(folder, [(label,) for label in labels])
        for file_name, ids, masks, note in images:
            number = len(masks)
            objects = InstanceResult(
                np.zeros((number, 4)), masks, np.ones(number), np.zeros(number, int), ["a"] * number
            )
            segments = [
                Segment(
                    n, n - 1, labels[n - 1], True, math.nan, int((ids == n).sum()), (0, 0, 1, 1)
                )
                for n in np.unique(ids[ids > 0]).tolist()
            ]
            _add(lines, file_name, PanopticResult(ids, segments), instances=objects, note=note)
        lines.close()
        assert [path.name for path in folder.iterdir()] == ["lines.jsonl"] * bool(images)
        if not images:
            return
        write_standard_files(folder)
        panoptic, instances = _written(folder)
        assert panoptic["categories"] == read_header(lines.path).categories
        assert [category["name"] for category in panoptic["categories"]] == labels
        entries = list(images_of(lines.path))
        assert (
            [{"id": i, **entry["image"]} for i, entry in enumerate(entries, 1)]
            == (panoptic["images"])
            == instances["images"]
        )
        assert [image["file_name"] for image in panoptic["images"]] == [row[0] for row in images]
        assert panoptic["info"]["notes"] == sorted({row[3] for row in images if row[3]})
        masks = [mask for row in images for mask in row[2] if mask.any()]
        assert len(instances["annotations"]) == len(masks)
        for entry, mask in zip(instances["annotations"], masks, strict=True):
            assert np.array_equal(rle.decode(entry["segmentation"]), mask)
        for annotation, (_, ids, _, _) in zip(panoptic["annotations"], images, strict=True):
            found = {info["id"]: info["area"] for info in annotation["segments_info"]}
            assert found == {n: int((ids == n).sum()) for n in np.unique(ids[ids > 0]).tolist()}
