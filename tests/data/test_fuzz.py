"""Random damage to annotation files and pictures: a right result or a `UserError`, nothing else."""

import copy
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from frozenseg.data.benchmarks import find_benchmark
from frozenseg.data.checks import check
from frozenseg.data.images import read_image
from frozenseg.data.label_maps import read_labels, read_panoptic_ids
from frozenseg.data.mending import mend
from frozenseg.data.readers import read_instances, read_panoptic
from frozenseg.data.rle import checked_rle, encode_masks
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.on_disk import score_panoptic
from tests.data.tiny import load_instances, write_dataset

BOUNDED = settings(derandomize=True, deadline=None, max_examples=150)
SIZE = (12, 9)


def _box(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


MASK = np.zeros((1, *SIZE), bool)
MASK[0, 2:7, 3:8] = True
INSTANCES = {
    "images": [{"id": n, "file_name": f"{n}.png", "height": 12, "width": 9} for n in (1, 2)],
    "categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b", "isthing": 1}],
    "annotations": [
        {"image_id": 1, "category_id": 4, "segmentation": _box(1, 1, 5, 6), "iscrowd": 0},
        {"image_id": 1, "category_id": 9, "segmentation": encode_masks(MASK)[0], "area": 25},
        {"image_id": 2, "category_id": 9, "segmentation": _box(2, 3, 4, 4), "bbox": [2, 3, 4, 4]},
    ],
}
# What tools write instead of a value, and what they leave behind when they break.
ODD = st.sampled_from(
    [None, True, False, 0, 1, 2, -1, 7, 7.0, 7.9, 1e400, float("nan"), 10**30, 2**63]
    + ["", "0", "1", "false", "true", "x", "1.png", "\0", [], {}, [1, 2], [[1, 2, 3]], [[]], [{}]]
    + [{"size": [12, 9], "counts": [108]}, {"size": [12, 9], "counts": "0"}, [[1, 1] * 3]]
)


def _places(value, path=()):
    """The paths to all values inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


@st.composite
def damaged(draw, content):
    """`content` with one or two values replaced, removed or repeated."""
    found = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(list(_places(found)) or [("images",)]))
        holder = found
        for key in path:
            holder = holder[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if kind == "replace":
            holder[last] = copy.deepcopy(draw(ODD))
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder.pop(last)
    return found


def _accepted(function) -> bool:
    try:
        function()
    except UserError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for number in (1, 2):
        Image.new("RGB", (9, 12)).save(folder / f"{number}.png")
    return folder


@BOUNDED
@given(content=damaged(INSTANCES))
def test_readers_check_and_scorer_agree_on_instance_files(folder, content):
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    records = []
    trained = _accepted(lambda: records.extend(read_instances(path, folder)[0]))
    scored = _accepted(lambda: InstanceAP(ground_truth=path))
    names = [row.get("file_name") for row in content["images"]] if trained else []
    if scored and not trained:  # a scorer looks for no image
        assert not all(row.get("file_name") in ("1.png", "2.png") for row in content["images"])
        return
    assert trained == scored, names
    row = find_benchmark(f"coco_instances:{path}:{folder}")
    assert _accepted(lambda: InstanceAP(ground_truth=path, kind="bbox")) >= scored
    sound = not any(finding.wrong for finding in check(row, Path("/"), sample=0))
    sizes = {(record.height, record.width) for record in records}
    learnable = any((~record.instances.is_crowd).any() for record in records)
    assert sound == (trained and learnable and sizes == {SIZE})


def _mended(row) -> Path | None:
    """The mended copy of a data set's JSON, None where it cannot be, or need not be, mended."""
    Path(row.annotations).with_suffix(".fixed.json").unlink(missing_ok=True)
    made = []
    if not _accepted(lambda: made.extend(mend(row, Path("/")))):
        return None
    path, changes = made
    assert path.is_file() == bool(changes)
    return path if changes else None


@BOUNDED
@given(content=damaged(INSTANCES))
def test_a_mended_instance_file_has_the_same_objects(folder, content):
    path = folder / "mend.json"
    path.write_text(json.dumps(content))
    row = find_benchmark(f"coco_instances:{path}:{folder}")
    before = []
    read = _accepted(lambda: before.extend(read_instances(path, folder)[0]))
    made = _mended(row)
    if made is None or not read:
        return
    after, _ = read_instances(made, folder)
    assert json.loads(path.read_text()) == json.loads(json.dumps(content))
    for old, new in zip(before, after, strict=True):
        assert (load_instances(old)[0] == load_instances(new)[0]).all()
        assert (old.instances.class_ids == new.instances.class_ids).all()
    ids = [row["id"] for row in json.loads(made.read_text())["annotations"]]
    assert min(ids, default=1) > 0 and len(set(ids)) == len(ids)
    assert _mended(find_benchmark(f"coco_instances:{made}:{folder}")) is None  # once is enough


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("panoptic")
    return root, write_dataset(root, [(12, 20), (16, 10)])


@BOUNDED
@given(data=st.data())
def test_reader_and_scorer_agree_on_panoptic_files(panoptic, data):
    root, whole = panoptic
    content = data.draw(damaged(whole))
    path = root / "damaged.json"
    path.write_text(json.dumps(content))
    trained = _accepted(lambda: read_panoptic(path, root / "png", root / "images"))
    scored = _accepted(lambda: score_panoptic(str(path), root / "png", str(path), root / "png"))
    if trained and not scored:  # then it is the PNGs that do not fit
        with pytest.raises(UserError, match=r"png/\d\.png"):
            score_panoptic(str(path), root / "png", str(path), root / "png")
    if scored and not trained:  # a scorer looks for no images
        files = [{row.get("file_name") for row in c.get("images", [])} for c in (content, whole)]
        assert files[0] != files[1] or len(content["images"]) != 2


@BOUNDED
@given(data=st.data())
def test_a_mended_panoptic_file_is_read_alike(panoptic, data):
    root, whole = panoptic
    content = data.draw(damaged(whole))
    path = root / "mend.json"
    path.write_text(json.dumps(content))
    before = []
    read = _accepted(lambda: before.extend(read_panoptic(path, root / "png", root / "images")[0]))
    made = _mended(find_benchmark(f"coco_panoptic:{path}:{root}/png:{root}/images"))
    if made is None or not read:
        return
    after, _ = read_panoptic(made, root / "png", root / "images")
    for old, new in zip(before, after, strict=True):
        assert (old.segments.ids == new.segments.ids).all()
        assert (old.segments.is_crowd == new.segments.is_crowd).all()


@BOUNDED
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    data=st.data(),
)
def test_run_lengths_round_trip_as_in_pycocotools(rows, columns, data):
    bits = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    mask = np.array(bits, np.uint8).reshape(rows, columns)
    theirs = mask_util.encode(np.asfortranarray(mask))
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    plain = {"size": [rows, columns], "counts": ([0] if flat[0] else []) + runs}
    floats = {**plain, "counts": [float(run) for run in plain["counts"]]}
    for code in (theirs, {**theirs, "counts": theirs["counts"].decode()}, plain, floats):
        found, inside = checked_rle(code, (rows, columns), "x")
        assert inside == mask.sum() and (mask_util.decode(found) == mask).all()


@BOUNDED
@given(
    counts=st.one_of(
        st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12),
        st.text(max_size=6),
        st.binary(max_size=8),
        st.lists(st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**62, 0.5, None, "3"]))),
        st.lists(st.integers(0, 60), min_size=1, max_size=3).map(lambda r: [*r, 108 - sum(r)]),
    )
)
def test_malformed_run_lengths_are_refused(counts):
    try:
        code, inside = checked_rle({"size": list(SIZE), "counts": counts}, SIZE, "mask 0")
    except UserError as error:
        assert str(error).startswith("mask 0: ") and "\n" not in str(error)
        return
    assert inside == mask_util.area(code) == mask_util.decode(code).sum()
    outside = encode_masks(mask_util.decode(code)[None] == 0)[0]
    assert mask_util.area(outside) + inside == SIZE[0] * SIZE[1]  # no pixel is left over


def _slow_ids(colours):
    return [[int(r) + 256 * int(g) + 65536 * int(b) for r, g, b in row] for row in colours]


@BOUNDED
@given(
    colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=12).map(
        lambda rows: np.array(rows, np.uint8).reshape(1, -1, 3)
    ),
    kind=st.sampled_from(["RGB", "RGBA", "P", "tRNS", "16 raw", "16 scaled", "L", "LA", "tif"]),
)
def test_panoptic_ids_of_all_depths_and_modes(tmp_path_factory, colours, kind):
    path = tmp_path_factory.getbasetemp() / f"ids.{'tif' if kind == 'tif' else 'png'}"
    if kind in ("L", "LA"):  # what an optimizer makes of colours that are grey
        colours = np.repeat(colours[..., :1], 3, axis=-1)
        Image.fromarray(colours).convert(kind).save(path)
    elif kind.startswith("16"):
        wide = colours.astype(np.uint16) * (257 if "scaled" in kind else 1)
        assert cv2.imwrite(str(path), wide[..., ::-1])
    elif kind == "RGBA":
        alpha = np.arange(colours.shape[1], dtype=np.uint8)[None, :, None]
        Image.fromarray(np.concatenate([colours, alpha], axis=-1)).save(path)
    elif kind == "P":
        listed, indices = np.unique(colours[0], axis=0, return_inverse=True)
        image = Image.fromarray(indices.reshape(1, -1).astype(np.uint8))
        image.putpalette(listed.ravel().tolist())
        image.save(path)
    elif kind == "tRNS":
        Image.fromarray(colours).save(path, transparency=tuple(colours[0, 0].tolist()))
    else:
        Image.fromarray(colours).save(path)
    assert read_panoptic_ids(path).tolist() == _slow_ids(colours)


@BOUNDED
@given(
    values=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8),
    kind=st.sampled_from(["uint8", "uint16", "int32", "P", "RGB", "LA", "float32", "16 grey RGB"]),
)
def test_labels_of_all_depths_and_modes(tmp_path_factory, values, kind):
    top = {"uint16": 65535, "16 grey RGB": 65535, "int32": 2**31 - 1, "float32": 2**24}
    labels = np.array([values]) % (top.get(kind, 255) + 1)
    path = tmp_path_factory.getbasetemp() / f"labels.{'tif' if 'float' in kind else 'png'}"
    if kind in ("uint8", "uint16", "float32"):
        Image.fromarray(labels.astype(kind)).save(path)
    elif kind == "int32":
        path = path.with_suffix(".tif")
        Image.fromarray(labels.astype(np.int32)).save(path)
    elif kind == "16 grey RGB":
        assert cv2.imwrite(str(path), np.dstack([labels.astype(np.uint16)] * 3))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        if kind == "P":
            image.putpalette(list(np.random.default_rng(0).permutation(768) % 256))
        (image if kind == "P" else image.convert(kind)).save(path)
    assert read_labels(path).tolist() == labels.tolist()


FORMATS = ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX", "DDS", "SGI"]


def _whole_files() -> dict[str, bytes]:
    photo = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    found = {}
    for kind in FORMATS:
        stream = io.BytesIO()
        options = {"exif": exif.tobytes()} if kind in ("PNG", "JPEG", "WEBP") else {}
        Image.fromarray(photo).save(stream, kind, **options)
        found[kind] = stream.getvalue()
    return found


FILES = _whole_files()


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(FORMATS),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
)
def test_bytes_of_pictures(tmp_path_factory, kind, cut, changes):
    data = bytearray(FILES[kind])
    for place, value in changes:
        data[int(place * min(len(data), 120))] = value  # the head decides most
    if cut < 0.5:
        data = data[: max(1, int(2 * cut * len(data)))]
    path = tmp_path_factory.getbasetemp() / "fuzzed.png"
    path.write_bytes(bytes(data))
    for read in (read_image, read_panoptic_ids, read_labels):
        try:
            assert read(path).ndim in (2, 3)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
