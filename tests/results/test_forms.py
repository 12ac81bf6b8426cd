"""The forms of a result, each read back by the tool it is for: the same masks."""

import json
import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.data.rle import decode_masks, encode_segmentation
from frozenseg.errors import UserError
from frozenseg.results.label_studio import brush_code
from frozenseg.results.outlines import joined, outlines
from frozenseg.results.summary import summary
from frozenseg.structures import PanopticResult
from tests.results.cases import SIZE, WORDS, made, masks

# ---- in words


def test_a_result_in_words() -> None:
    result = made()
    assert result.summary() == "2 dogs, 1 sky; 31 ms"
    assert repr(result) == "<SegmentationResult 53 x 37: 2 dogs, 1 sky; 31 ms>"
    assert len(result) == 3
    off = made(panoptic=None, semantic=None, instances=None)
    assert repr(off) == "<SegmentationResult 53 x 37: all results are switched off>"
    nothing = made(panoptic=PanopticResult(np.zeros(SIZE, np.int32), []), seconds=None)
    assert nothing.summary() == "none of the classes" and len(nothing) == 0


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("bus", "buses"),
        ("sky", "skies"),
        ("toy", "toys"),
        ("brick wall", "brick walls"),
        ("witch", "witches"),
        ("собака", "собака"),
        ("level 2", "level 2"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert summary([name, name], None) == f"2 {many}"
    assert summary([name], None) == f"1 {name}"


def test_many_classes_are_counted() -> None:
    assert summary(map(str, range(12)), None).endswith("1 7, 4 more classes")


# ---- choice


def test_a_filter_drops_what_is_below_and_numbers_the_rest() -> None:
    result = made()
    best = result.filter(threshold=0.5)
    assert [segment.id for segment in best.panoptic.segments] == [1, 2]
    kept = np.where(result.panoptic.ids == 3, 0, result.panoptic.ids)
    dogs = result.filter(names="dog").panoptic
    assert [(segment.id, segment.name) for segment in dogs.segments] == [(1, "dog"), (2, "dog")]
    np.testing.assert_array_equal(dogs.ids, np.array([0, 0, 1, 2], np.int32)[result.panoptic.ids])
    np.testing.assert_array_equal(best.panoptic.ids, kept)
    assert best.instances.scores.tolist() == result.instances.scores[:2].tolist()
    assert best.instances.names == ["dog", "traffic light"]
    np.testing.assert_array_equal(best.semantic, result.semantic)
    assert result.filter(threshold=0.0).panoptic is result.panoptic
    again = best.filter(threshold=0.5)
    np.testing.assert_array_equal(again.panoptic.ids, best.panoptic.ids)


def test_a_filter_leaves_the_identities_of_a_video_in_the_pixels() -> None:
    result = made()
    tracks = [replace(segment, track_id=segment.id) for segment in result.panoptic.segments]
    result = replace(result, panoptic=replace(result.panoptic, segments=tracks))
    some = result.filter(names="dog").panoptic
    left = [segment.id for segment in some.segments]
    assert [segment.track_id for segment in some.segments] == left == [2, 3]
    expected = np.where(np.isin(result.panoptic.ids, left), result.panoptic.ids, 0)
    np.testing.assert_array_equal(some.ids, expected)


@pytest.mark.parametrize("threshold", [1.5, -1, float("nan"), 10**400, 1 + 0j, "1", True, None])
def test_a_threshold_that_is_none(threshold: object) -> None:
    with pytest.raises(UserError, match="^threshold .*: must (lie in|be a number from) 0"):
        made().filter(threshold=threshold)


@pytest.mark.parametrize("opacity", [-0.1, 50, float("nan")])
def test_an_opacity_that_is_none(opacity: float) -> None:
    with pytest.raises(UserError, match="opacity .*: must lie in 0-1"):
        made().draw(opacity=opacity)


@pytest.mark.parametrize("names", ["hound", ["Dog"], ["dog, hound"]])
def test_a_filter_by_any_name_of_a_class(names: object) -> None:
    result = made()
    dogs = result.filter(names=names)
    assert {segment.name for segment in dogs.regions.segments} == {"dog"}
    assert set(dogs.instances.names) == {"dog"} and len(dogs.instances) == 2
    assert ((dogs.semantic == 0) == (result.semantic == 0)).all()
    assert (dogs.semantic[result.semantic == 1] == -1).all()
    assert dogs.vocabulary == result.vocabulary


def test_a_filter_keeps_segments_without_a_score() -> None:
    """As tracked results of models that give none have them."""
    regions = made(panoptic=None).regions
    assert [math.isnan(segment.score) for segment in regions.segments] == [True] * 2
    result = made(panoptic=regions)
    assert len(result.filter(threshold=0.5)) == len(result.filter()) == 2
    assert [s.name for s in result.filter(names="sky").panoptic.segments] == ["sky"]


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", None, True])
def test_thresholds_that_are_none(threshold: object) -> None:
    with pytest.raises(UserError, match="^threshold .*: must"):
        made().filter(threshold=threshold)
    with pytest.raises(ValueError):
        made().filter(threshold=threshold)


def test_a_name_that_no_class_has() -> None:
    with pytest.raises(UserError, match="names: 'cat' is not in the vocabulary; known: dog"):
        made().filter(names="cat")


def test_empty_masks_and_scores_of_zero_are_dropped() -> None:
    result = made()
    objects = result.instances
    objects.masks[1], objects.boxes[1], objects.scores[2] = False, 0, 0
    assert result.filter().instances.scores.tolist() == objects.scores[[0, 3]].tolist()


def test_instances_alone_can_be_drawn() -> None:
    """The best one covers the others; one without a visible pixel is no segment."""
    result = made(panoptic=None, semantic=None)
    masks = result.instances.masks
    masks[3] = masks[0]
    found = result.regions
    covered = np.where(masks.any(0), masks.argmax(0) + 1, 0)
    np.testing.assert_array_equal(found.ids, covered)
    assert [segment.area for segment in found.segments] == [
        (covered == number).sum() for number in (1, 2, 3)
    ]
    none = made(panoptic=None, semantic=None).filter(threshold=1)
    assert len(none.regions.segments) == 0 and not none.regions.ids.any()


# ---- polygons


def filled(polygons: list[np.ndarray]) -> np.ndarray:
    """What pycocotools makes of polygons."""
    rings = [ring.ravel().tolist() for ring in polygons]
    return decode_masks([encode_segmentation(rings, *SIZE)], SIZE)[0]


@pytest.mark.parametrize("number", range(4))
def test_outlines_are_exact(number: int) -> None:
    mask = masks()[number]
    np.testing.assert_array_equal(filled(outlines(mask)), mask)
    np.testing.assert_array_equal(filled([joined(outlines(mask))]), mask)


def test_outlines_are_exact_on_noise_of_all_densities() -> None:
    rng = np.random.default_rng(1)
    for density in np.linspace(0.02, 0.98, 25):
        mask = rng.random(SIZE) < density
        np.testing.assert_array_equal(filled(outlines(mask)), mask)


def test_few_corners_and_nothing() -> None:
    square = np.zeros(SIZE, dtype=bool)
    square[2:5, 7:9] = True
    (ring,) = outlines(square)
    assert sorted(map(tuple, ring.tolist())) == [(7, 2), (7, 5), (9, 2), (9, 5)]
    assert outlines(np.zeros(SIZE, dtype=bool)) == []


def test_an_object_without_pixels_has_no_yolo_line() -> None:
    found = made().instances
    empty = replace(found, masks=found.masks & (np.arange(4) != 1)[:, None, None])
    lines = made(instances=empty).to_yolo("instances").splitlines()
    assert [line.split()[0] for line in lines] == ["0", "0", "2"]


def test_yolo_lines_give_the_masks_again() -> None:
    result = made()
    lines = result.to_yolo("instances").splitlines()
    assert len(lines) == 4
    for line, mask, class_id in zip(
        lines, result.instances.masks, result.instances.class_ids, strict=True
    ):
        number, *places = line.split()
        points = np.array(places, dtype=float).reshape(-1, 2)
        assert int(number) == class_id and points.min() >= 0 and points.max() <= 1
        np.testing.assert_array_equal(filled([points * [SIZE[1], SIZE[0]]]), mask)


# ---- COCO


def test_coco_documents_through_pycocotools(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    result = made()
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(result.to_coco(image_id=np.int64(7))["instances"]))
    with pytest.raises(UserError, match="image_id 'x': must be a whole number"):
        result.to_coco(image_id="x")
    data = coco.COCO(str(path))
    assert data.loadImgs(7)[0]["file_name"] == "street.jpg"
    found = data.loadAnns(data.getAnnIds(imgIds=[7]))
    for entry, mask, name in zip(
        found, result.instances.masks, result.instances.names, strict=True
    ):
        np.testing.assert_array_equal(data.annToMask(entry).astype(bool), mask)
        assert data.loadCats(entry["category_id"])[0]["name"] == name
        assert entry["area"] == mask.sum()
    assert isinstance(found[0]["segmentation"]["counts"], str)


def test_saved_files_are_coco_panoptic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = made()
    assert result.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == [
        "street_drawn.png",
        "street_instances.json",
        "street_panoptic.json",
        "street_panoptic.png",
    ]
    document = json.loads((tmp_path / "new/folder/street_panoptic.json").read_text())
    (annotation,) = document["annotations"]
    ids = read_panoptic_ids(str(tmp_path / "new/folder" / annotation["file_name"]))
    np.testing.assert_array_equal(ids, result.panoptic.ids)
    assert [entry["id"] for entry in annotation["segments_info"]] == [1, 2, 3]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert result.save("~/at_home") == tmp_path / "at_home"
    assert made(file_name=None).save(tmp_path, "x") and (tmp_path / "x_drawn.png").is_file()
    with pytest.raises(UserError, match=r"name 'a\\x00': has a null character"):
        result.save(tmp_path, "a\0")


def test_a_machine_that_shows_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **_: object) -> int:
            shown.append(image.size)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    made().show()
    assert shown == [made().draw().size]
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(UserError, match="no image viewer was found; write a file"):
        made().show()


def test_a_notebook_shows_the_drawing() -> None:
    png = made()._repr_png_()
    assert png.startswith(b"\x89PNG")


# ---- Transformers, supervision, detectron2


def test_the_form_of_transformers() -> None:
    found = made().to_dict()
    assert found["segmentation"].dtype == torch.int32 and found["segmentation"].shape == SIZE
    assert found["segments_info"] == [
        {"id": 1, "label_id": 1, "was_fused": True, "score": 0.9},
        {"id": 2, "label_id": 0, "was_fused": False, "score": 0.5},
        {"id": 3, "label_id": 0, "was_fused": False, "score": 0.2},
    ]
    semantic = made(panoptic=None).to_dict()["segments_info"]
    assert [entry["score"] for entry in semantic] == [None, None]


def test_changes_in_a_form_leave_the_result_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs relabel and scale in place."""
    detectron2 = types.ModuleType("detectron2.structures")
    detectron2.Boxes, detectron2.Instances = lambda boxes: boxes, lambda _, **fields: fields
    supervision = types.ModuleType("supervision")
    supervision.Detections = lambda **fields: fields
    modules = {"detectron2": types.ModuleType("detectron2"), "detectron2.structures": detectron2}
    for name, module in {**modules, "supervision": supervision}.items():
        monkeypatch.setitem(sys.modules, name, module)
    result, before = made(), made()
    result.to_dict()["segmentation"].zero_()
    found = result.to_detectron2()
    found["panoptic_seg"][0].zero_()
    for name in ("pred_boxes", "scores", "pred_masks"):
        found["instances"][name].zero_()
    for name in ("xyxy", "mask", "confidence", "class_id"):
        result.to_supervision("instances")[name][:] = 0
    np.testing.assert_array_equal(result.panoptic.ids, before.panoptic.ids)
    for name in ("boxes", "masks", "scores", "class_ids"):
        np.testing.assert_array_equal(
            getattr(result.instances, name), getattr(before.instances, name)
        )


def test_supervision(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    result = made()
    found = result.to_supervision("instances")
    np.testing.assert_array_equal(found.mask, result.instances.masks)
    assert found.data["class_name"].tolist() == result.instances.names
    labels = dict(enumerate(WORDS.labels))
    same = supervision.Detections.from_transformers(result.to_dict(), id2label=labels)
    segments = result.to_supervision()
    np.testing.assert_array_equal(same.mask, segments.mask)
    assert same.data["class_name"].tolist() == segments.data["class_name"].tolist()
    assert len(result.filter(threshold=1).to_supervision()) == 0
    assert made(panoptic=None).to_supervision().confidence is None
    Image.fromarray(result.image).save(tmp_path / "street.jpg")
    result.save(tmp_path)
    data = supervision.DetectionDataset.from_coco(
        str(tmp_path), str(tmp_path / "street_instances.json"), force_masks=True
    )
    ((_, _, read),) = list(data)
    np.testing.assert_array_equal(read.mask, result.instances.masks)


def test_detectron2_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for detectron2's two classes, which keep what they are given."""
    module = types.ModuleType("detectron2.structures")
    module.Boxes = lambda boxes: boxes
    module.Instances = lambda size, **fields: {"image_size": size, **fields}
    monkeypatch.setitem(sys.modules, "detectron2", types.ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.structures", module)
    result = made()
    found = result.to_detectron2()
    ids, infos = found["panoptic_seg"]
    np.testing.assert_array_equal(ids.numpy(), result.panoptic.ids)
    assert [info["category_id"] for info in infos] == [1, 0, 0]
    assert [info["isthing"] for info in infos] == [False, True, True]
    assert found["instances"]["image_size"] == SIZE
    np.testing.assert_array_equal(found["instances"]["pred_masks"], result.instances.masks)
    assert found["instances"]["pred_classes"].tolist() == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("module", "method"),
    [("supervision", "to_supervision"), ("detectron2.structures", "to_detectron2")],
)
def test_a_package_that_is_absent(
    module: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^{method} needs .*: pip install"):
        getattr(made(), method)()
    with pytest.raises(ImportError):
        getattr(made(), method)()


# ---- Label Studio


def unpacked(code: list[int]) -> np.ndarray:
    """Read the bytes of rle-pack: a decoder written from its description, for this test."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values).reshape(*SIZE, 4)


@pytest.mark.parametrize("number", range(4))
def test_brush_masks_read_back(number: int) -> None:
    mask = masks()[number]
    expected = np.where(mask, 255, 0)[..., None].repeat(4, -1)
    np.testing.assert_array_equal(unpacked(brush_code(mask)), expected)


def test_brush_masks_as_label_studios_own_converter_reads_them() -> None:
    brush = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="pip install label-studio-sdk"
    )
    result = made()
    prediction = result.to_label_studio("instances")
    large = np.zeros((700, 900), dtype=bool)  # runs longer than a length can be
    large[400:] = True
    codes = [entry["value"]["rle"] for entry in prediction["result"]] + [brush_code(large)]
    for code, mask in zip(codes, [*result.instances.masks, large], strict=True):
        read = brush.decode_rle(code).reshape(*mask.shape, 4)
        np.testing.assert_array_equal(read[..., 3] > 0, mask)


def test_predictions_for_label_studio() -> None:
    prediction = json.loads(json.dumps(made().to_label_studio(from_name="tag", to_name="photo")))
    assert prediction["model_version"] == "frozenseg"
    first = prediction["result"][0]
    assert first["type"] == "brushlabels" and first["value"]["brushlabels"] == ["sky"]
    assert (first["from_name"], first["to_name"]) == ("tag", "photo")
    assert (first["original_width"], first["original_height"]) == (SIZE[1], SIZE[0])
    assert len({entry["id"] for entry in prediction["result"]}) == 3
    corners = made().to_label_studio("instances", kind="polygon")["result"]
    of_first = [entry for entry in corners if entry["score"] > 0.7]
    rings = [np.array(entry["value"]["points"]) / 100 * [SIZE[1], SIZE[0]] for entry in of_first]
    np.testing.assert_array_equal(filled(rings), masks()[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.polygons("things"), "task 'things': must be 'panoptic' or 'instances'"),
        (lambda r: r.to_label_studio(kind="box"), "kind 'box': must be 'brush' or 'polygon'"),
    ],
)
def test_choices_that_do_not_exist(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(made())


def test_instances_that_are_switched_off() -> None:
    with pytest.raises(UserError, match="instances are switched off"):
        made(instances=None).to_yolo("instances")
