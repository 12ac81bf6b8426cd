"""Sound files as other programs write them, and files that contradict themselves."""

import json
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from frozenseg import notes
from frozenseg.data import image_files, images
from frozenseg.data.annotations import (
    load_image,
    panoptic_labels,
    require_objects,
)
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import cut_masks
from frozenseg.data.folders import files_by_stem
from frozenseg.data.image_files import list_images
from frozenseg.data.image_inputs import to_array
from frozenseg.data.images import MAX_PIXELS, read_image
from frozenseg.data.label_maps import image_size, read_labels, read_panoptic_ids
from frozenseg.data.readers import read_instances, read_panoptic
from frozenseg.data.records import Record, Segments
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.on_disk import score_panoptic
from frozenseg.files import read_json
from tests.data.tiny import write_dataset, write_json


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    """What is said once per process is said in each test."""
    monkeypatch.setattr(notes, "_said", set())
    notes.note.cache_clear()


def _exif(tag: int, kind: int, count: int, value: bytes, behind: bytes = b"") -> bytes:
    """EXIF with orientation 6 and one more entry, `behind` at offset 38."""
    rows = [(0x112, 3, 1, struct.pack("<H", 6)), (tag, kind, count, value)]
    table = b"".join(struct.pack("<HHI", *row[:3]) + row[3].ljust(4, b"\0") for row in rows)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + table + bytes(4) + behind


ODD_EXIF = {
    "resolution as text": _exif(0x11A, 2, 4, b"72 \0"),
    "resolution with a sign": _exif(0x11A, 10, 1, struct.pack("<I", 38), struct.pack("<ii", -7, 3)),
    "two numbers as a name": _exif(0x131, 11, 2, struct.pack("<I", 38), struct.pack("<ff", 1, 2)),
}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", ODD_EXIF)
def test_a_turn_beside_exif_that_cannot_be_written_back(tmp_path, name):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 250
    exif = ODD_EXIF[name]
    path = tmp_path / "a.jpg"
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, quality=95)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert np.abs(read_image(path).astype(int) - upright).max() < 20


def _tagged(path: Path, pixels: np.ndarray, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_the_annotation_decides_whether_a_turn_is_meant(tmp_path, suffix, turn, caplog):
    stored = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    _tagged(tmp_path / f"a.{suffix}", stored, turn)
    path = tmp_path / f"a.{suffix}"
    upright = read_image(path)
    assert upright.shape == (7, 4, 3) and image_size(path) == (7, 4)
    assert (read_image(path, (7, 4)) == upright).all() and not caplog.text
    assert (read_image(path, (4, 7)) == stored).all()
    assert "annotated as stored" in caplog.text
    assert read_image(path, (5, 5)).shape == (7, 4, 3)  # neither: the caller tells the sizes


def test_a_turn_that_sizes_do_not_decide_is_made_and_said(tmp_path, caplog):
    stored = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    for name in ("a.png", "b.png"):
        _tagged(tmp_path / name, stored, 3)
        assert (read_image(tmp_path / name, (4, 7)) == stored[::-1, ::-1]).all()
    assert caplog.text.count("does not show whether") == 1


def test_a_label_map_is_turned_like_its_image(tmp_path):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    _tagged(tmp_path / "labels.png", labels, 6)
    _tagged(tmp_path / "image.png", np.dstack([labels] * 3), 6)
    record = Record("a", str(tmp_path / "image.png"), None, None, 6,
                    semantic_path=str(tmp_path / "labels.png"))  # fmt: skip
    assert (load_image(record)[..., 0] == read_labels(tmp_path / "labels.png")).all()


def test_formats_that_start_other_programs_are_refused_by_content(tmp_path, monkeypatch):
    started = tmp_path / "started"
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {started}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    body = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for name in ("a.eps", "a.jpg", "a.png"):
        (tmp_path / name).write_bytes(body)
        for read in (read_image, read_labels, image_size):
            with pytest.raises(
                UserError, match=f"{name}: not an image, or of a format that is not"
            ):
                read(tmp_path / name)
    assert not started.exists()


def test_one_limit_for_pictures_and_their_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow's own counts for neither
    for name in ("a.png", "a.tif"):
        Image.new("L", (60, 50), 3).save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (50, 60, 3)
        assert read_labels(tmp_path / name).shape == (50, 60)
    for read in (read_image, read_labels, image_size):
        monkeypatch.setattr("frozenseg.data.images.MAX_PIXELS", 2999)
        with pytest.raises(UserError, match="60 x 50 pixels, more than 2,999"):
            read(tmp_path / "a.png")


def test_pages_and_frames_that_are_left_out_are_said(tmp_path, caplog):
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    for name in ("pages.tif", "frames.gif", "frames.webp"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
        assert read_image(tmp_path / name)[0, 0, 0] > 200
        assert f"{name}: 2 of 3 pages left out" in caplog.text


def test_what_a_folder_holds_besides_images_is_counted(tmp_path, caplog):
    for name in ("a.png", ".hidden.png", "b.DNG", "c.dng", "d.txt", "e", "f.pdf", "g.eps"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    assert [path.name for path in list_images([str(tmp_path)])] == ["a.png"]
    assert "6 of 7 files left out: .dng (2)" in caplog.text and "no suffix (1)" in caplog.text
    assert "1 folders in it are not searched" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no images in this folder; 6 of 6 files left out: \.dng"):
        list_images([str(tmp_path)])


def test_heic_is_read_with_its_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason='pip install "frozenseg[heif]"')
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    heif.register_heif_opener()
    Image.fromarray(pixels).save(tmp_path / "a.HEIC", quality=-1)
    assert [path.name for path in list_images([str(tmp_path)])] == ["a.HEIC"]
    found = read_image(tmp_path / "a.HEIC")
    assert found.shape == (40, 60, 3)
    assert found[:, :28].min() > 240 and found[:, 32:].max() < 15


def test_heic_without_its_package_says_how(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for module in (images, image_files):
        monkeypatch.setattr(module, "readable_formats", lambda: [*images.FORMATS])
    monkeypatch.setattr(image_files, "reads_heif", lambda: False)
    for name in ("a.png", "b.HEIC"):
        (tmp_path / name).write_bytes(b"\0\0\0\030ftypheic\0\0\0\0mif1heic")
    assert len(list_images([str(tmp_path)])) == 1
    with pytest.raises(
        UserError, match=r"b\.HEIC: .*save it as PNG or JPEG \(to read HEIC .*\[heif\]"
    ):
        read_image(tmp_path / "b.HEIC")
    assert 'left out: .heic (1) (to read HEIC and HEIF: pip install "froz' in caplog.text


def test_two_files_of_one_stem_are_refused_and_hidden_ones_passed_over(tmp_path, caplog):
    for name in ("b.png", "a.png", ".a.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list(files_by_stem(tmp_path, (".png", ".tif"), "label maps")) == ["a", "b"]
    assert "1 of 3 files left out: .txt (1)" in caplog.text
    (tmp_path / "a.tif").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.tif: a\.png has the same name before the dot"):
        files_by_stem(tmp_path, (".png", ".tif"), "label maps")


BAD_JSON = {
    "utf-16": (json.dumps({"a": 1}).encode("utf-16"), "not text in UTF-8"),
    "latin-1": (b'{"a": "caf\xe9"}', "not text in UTF-8"),
    "a key twice": (b'{"a": [], "b": 1, "a": [1]}', "the key 'a' occurs twice"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "half a character": (b'{"a": "\\ud800"}', "half a character"),
    "a number without end": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "cut off": (b'{"a": 1', "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_is_no_data(tmp_path, name):
    data, words = BAD_JSON[name]
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=f"x.json: .*{words}") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_json_with_a_byte_order_mark_and_whole_characters(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "x.json") == {"a": "\U0001f600"}


def _change(root: Path, change) -> None:
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    write_json(root, content)


def _read(root: Path):
    return read_panoptic(root / "panoptic.json", root / "png", root / "images")


def test_flags_and_numbers_are_read_in_all_spellings(tmp_path):
    write_dataset(tmp_path, [(12, 20)])
    expected = _read(tmp_path)

    def spell(content):
        for info in content["annotations"][0]["segments_info"]:
            info["iscrowd"] = ["false", "true"][info["iscrowd"]]
            info["category_id"] = float(info["category_id"])
        for category in content["categories"]:
            category["isthing"] = str(category["isthing"])

    _change(tmp_path, spell)
    records, categories = _read(tmp_path)
    assert categories == expected[1]
    assert records[0].segments.is_crowd.tolist() == expected[0][0].segments.is_crowd.tolist()
    for value in (7.9, "7", True):
        _change(tmp_path, lambda c, v=value: c["categories"][0].update(id=v))
        with pytest.raises(UserError, match=r"categories\[0\]: 'id' is"):
            _read(tmp_path)


def test_one_png_has_one_image(tmp_path):
    write_dataset(tmp_path, [(12, 20), (12, 20)])
    _change(tmp_path, lambda c: c["annotations"][1].update(file_name="1.png"))
    with pytest.raises(UserError, match=r"annotations\[1\]: 1.png is that of image 1 already"):
        _read(tmp_path)


def test_sizes_and_names_that_truth_contradicts_are_counted(tmp_path, caplog):
    write_dataset(tmp_path, [(12, 20), (12, 20), (12, 20)])
    source, pngs = str(tmp_path / "panoptic.json"), str(tmp_path / "png")

    def contradict(content):
        content["images"][0].update(height=13)
        for image, name in zip(content["images"][1:], ("3.png", "2.png"), strict=True):
            image.update(file_name=name)

    _change(tmp_path, contradict)
    assert score_panoptic(source, pngs, source, pngs)["All"]["pq"] == 1
    assert "1 of 3 images state a size that differs from that of their PNG" in caplog.text
    assert "2 of 3 files have the number of their image as name" in caplog.text


def test_png_with_long_comments_and_profiles_is_sound(tmp_path):
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    text = PngImagePlugin.PngInfo()
    for number in range(66):  # of 1 MB each
        text.add_text(f"history {number}", "x" * 2**20, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "x" * 2**21, zip=True)
    picture.save(tmp_path / "a.png", pnginfo=text, icc_profile=bytes(2**21))
    assert (read_image(tmp_path / "a.png")[..., 0] == np.asarray(picture)).all()
    assert (read_labels(tmp_path / "a.png") == np.asarray(picture)).all()
    assert image_size(tmp_path / "a.png") == (6, 10)
    now = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert now == limits


@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_picture_inside_an_icon_is_held_to_the_limit_as_well(tmp_path, monkeypatch):
    Image.new("1", (90, 90)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22)
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + content)
    monkeypatch.setattr("frozenseg.data.images.MAX_PIXELS", 2000)
    with pytest.raises(UserError, match=r"a.ico: has more than 2,000 pixels"):
        read_image(tmp_path / "a.ico")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000", "TIFF"])
def test_label_maps_that_are_compressed_as_photographs(tmp_path, kind):
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    options = {"compression": "jpeg"} if kind == "TIFF" else {}
    picture.save(tmp_path / "a.png", format=kind, **options)
    for read in (read_labels, read_panoptic_ids):
        with pytest.raises(UserError, match=r"a.png: is compressed as a photograph"):
            read(tmp_path / "a.png")


def test_pages_of_label_maps_that_are_left_out_are_said(tmp_path, caplog):
    pages = [Image.new("L", (8, 6), value) for value in (1, 2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert (read_labels(tmp_path / "a.tif") == 1).all()
    assert "a.tif: 1 of 2 pages left out" in caplog.text


def test_a_png_that_is_turned_has_the_size_it_is_turned_to(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("L", (8, 6)).save(tmp_path / "a.png", exif=exif)
    assert image_size(tmp_path / "a.png") == read_labels(tmp_path / "a.png").shape == (8, 6)


def test_premultiplied_grey_is_an_image():
    assert to_array(Image.new("LA", (4, 3), (7, 255)).convert("La")).shape == (3, 4, 3)


def test_a_png_of_another_image_is_refused_by_its_name(tmp_path):
    write_dataset(tmp_path, [(12, 20), (12, 20)])

    def swap(content):
        names = [annotation["file_name"] for annotation in content["annotations"]]
        for annotation, name in zip(content["annotations"], names[::-1], strict=True):
            annotation["file_name"] = name

    whole = tmp_path / "whole.json"
    whole.write_text((tmp_path / "panoptic.json").read_text())
    _change(tmp_path, swap)
    with pytest.raises(UserError, match=r"lists 2.png for image 1, .* the name of image 2"):
        _read(tmp_path)
    pngs, swapped = str(tmp_path / "png"), str(tmp_path / "panoptic.json")
    with pytest.raises(UserError, match=r"lists 2.png for image 1, .* the name of image 2"):
        score_panoptic(str(whole), pngs, swapped, pngs)


@pytest.mark.parametrize("area", [1, 10**6, 0, -5, "x", None])
def test_areas_of_panoptic_truth_are_counted(tmp_path, area, caplog):
    write_dataset(tmp_path, [(16, 24)])
    pngs, plain = str(tmp_path / "png"), tmp_path / "plain.json"

    def without_crowd(content):
        infos = content["annotations"][0]["segments_info"]
        for info in infos:
            info["iscrowd"] = 0

    _change(tmp_path, without_crowd)
    plain.write_text((tmp_path / "panoptic.json").read_text())

    def state(content):
        for info in content["annotations"][0]["segments_info"]:
            info["area"] = area

    _change(tmp_path, state)
    with caplog.at_level(logging.WARNING):
        scores = score_panoptic(str(tmp_path / "panoptic.json"), pngs, str(plain), pngs)
    assert scores["All"] == {"pq": 1, "sq": 1, "rq": 1, "n": 3}
    assert ("4 of 4 segments state an 'area' that" in caplog.text) == (area is not None)


def _square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def _instances(root: Path, **changes) -> Path:
    rows = [
        {"image_id": 1, "category_id": 4, "segmentation": _square(3 * n, 2, 2), "area": 4.0}
        for n in range(4)
    ]
    rows[0].update(changes)
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 12, "width": 20}],
        "categories": [{"id": 4, "name": "a"}],
        "annotations": rows,
    }
    path = root / "instances.json"
    path.write_text(json.dumps(content))
    Image.new("RGB", (20, 12)).save(root / "1.png")
    return path


@pytest.mark.parametrize("area", [-4, 0, 1e9, float("nan"), "x", None])
def test_an_impossible_area_is_that_of_the_mask(tmp_path, area, caplog):
    path = _instances(tmp_path, area=area)
    metric = InstanceAP(ground_truth=path)
    masks = np.zeros((4, 12, 20), bool)
    for n in range(4):
        masks[n, 2:4, 3 * n : 3 * n + 2] = True
    metric.update(1, masks, None, [0.9] * 4, [4] * 4)
    assert metric.compute()["AP"] == pytest.approx(1)
    assert ("1 of 4 objects state an area" in caplog.text) == (area is not None)


NOTHING = [[], [[1, 1, 5, 5]], [[3, 3] * 4], [[30, 2, 35, 2, 35, 9]], [[2, 2, 2, 5, 2, 9]],
           {"size": [12, 20], "counts": [240]}]  # fmt: skip


@pytest.mark.parametrize("segmentation", NOTHING)
def test_objects_that_enclose_nothing_are_left_out_by_all(tmp_path, segmentation, caplog):
    path = _instances(tmp_path, segmentation=segmentation)
    records, _ = read_instances(path, tmp_path)
    assert len(records[0].instances) == 3
    assert "1 of 4 objects left out" in caplog.text
    metric = InstanceAP(ground_truth=path)
    masks = np.zeros((3, 12, 20), bool)
    for n in range(3):
        masks[n, 2:4, 3 * n + 3 : 3 * n + 5] = True
    metric.update(1, masks, None, [0.9] * 3, [4] * 3)
    assert metric.compute()["AP"] == pytest.approx(1)


def test_a_polygon_of_two_points_beside_a_sound_one(tmp_path, caplog):
    path = _instances(tmp_path, segmentation=[*_square(0, 2, 2), [1, 1, 3, 3]])
    assert len(read_instances(path, tmp_path)[0][0].instances) == 4
    assert "some polygons of 1 objects left out" in caplog.text


def test_own_sets_are_named_by_their_files(tmp_path):
    path = _instances(tmp_path)
    records, categories = load_records(f"coco_instances:{path}:{tmp_path}")
    assert len(records[0].instances) == 4 and categories.names == ("a",)
    with pytest.raises(UserError, match="coco_instances:JSON:IMAGE_DIR"):
        load_records(f"coco_panoptic:{_with_isthing(path)}:{tmp_path}:{tmp_path}")
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("L", (20, 12)).save(tmp_path / "labels" / "1.png")
    Image.new("RGB", (20, 12)).save(tmp_path / "images" / "1.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    name = f"label_maps:{tmp_path}/images:{tmp_path}/labels:{tmp_path}/classes.txt"
    records, categories = load_records(name)
    assert len(records) == 1 and categories.names == ("cat", "dog")
    assert records[0].semantic_ignore == 255


def test_numbers_of_a_list_and_values_of_label_maps(tmp_path, caplog):
    """A value is a place in the list, so other numbers in it would name other classes."""
    for folder, mode in (("labels", "L"), ("images", "RGB")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (20, 12)).save(tmp_path / folder / "1.png")
    name = f"label_maps:{tmp_path}/images:{tmp_path}/labels:{tmp_path}/classes.txt"

    def read(text):
        (tmp_path / "classes.txt").write_text(text)
        return load_records(name)

    assert read("0:cat\n1:dog\n")[1].names == ("cat", "dog") and not caplog.text
    with pytest.raises(UserError, match="its 3 classes are not numbered 0 to 2"):
        read("0:car\n2:road\n5:sky\n")
    read("0:invalid_class_id\n1:wall\n2:sky\n")
    assert "counts from 1, label maps from 0: label 0 is 'wall'" in caplog.text
    many = "".join(f"thing number {number}\n" for number in range(300))
    assert read(many)[0][0].semantic_ignore == 65535  # 255 is a class of this list


def _with_isthing(path: Path) -> Path:
    content = json.loads(path.read_text())
    content["categories"][0]["isthing"] = 1
    path.write_text(json.dumps(content))
    return path


def test_a_set_in_which_nothing_would_be_found(tmp_path, caplog):
    write_dataset(tmp_path, [(12, 20), (14, 22)])
    records, _ = _read(tmp_path)
    require_objects(records, "panoptic", "mine")
    assert "mine: 2 of 8 objects are crowd regions" in caplog.text

    def crowd(content):
        for annotation in content["annotations"]:
            for info in annotation["segments_info"]:
                info["iscrowd"] = 1

    _change(tmp_path, crowd)
    with pytest.raises(UserError, match="mine: none of its 2 images has an object"):
        require_objects(_read(tmp_path)[0], "panoptic", "mine")
    for number in (1, 2):
        Image.new("L", (20, 12), 255).save(tmp_path / f"{number}.png")
    void = [
        Record(str(n), "x.jpg", None, None, 3, semantic_path=str(tmp_path / f"{n}.png"))
        for n in (1, 2)
    ]
    with pytest.raises(UserError, match="nothing would be found"):
        require_objects(void, "semantic", "void")
    path = _instances(tmp_path)
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["iscrowd"] = "1"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="none of its 1 images has an object"):
        require_objects(read_instances(path, tmp_path)[0], "instances", "crowds")


def test_listed_panoptic_segments_without_a_pixel_are_no_objects(tmp_path):
    """As many of them as there are, none gets the mask of another one."""
    ids = np.arange(255).reshape(5, 51)
    colours = np.stack([ids & 255, ids >> 8, ids >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "1.png")
    listed = Segments(
        np.arange(1, 601, dtype=np.int32), np.zeros(600, np.int32), np.zeros(600, bool)
    )
    record = Record(1, "x.jpg", 5, 51, 1, panoptic_path=str(tmp_path / "1.png"), segments=listed)
    targets = cut_masks(panoptic_labels(record), keep_empty=False)
    assert len(targets.class_ids) == 254
    assert targets.masks.sum(dim=0).max() == 1


def test_sizes_beyond_the_limit_are_refused_in_the_json(tmp_path):
    write_dataset(tmp_path, [(12, 20)])
    _change(tmp_path, lambda c: c["images"][0].update(height=40_000, width=40_000))
    with pytest.raises(UserError, match=f"more than {MAX_PIXELS:,}"):
        _read(tmp_path)
