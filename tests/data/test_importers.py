"""Other tools read our files of predictions: each with its own package, and the masks are equal."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from frozenseg.data.coco_records import categories_of
from frozenseg.data.prediction_lines import Header, PredictionLines
from frozenseg.data.results import write_panoptic_png, write_standard_files
from frozenseg.structures import InstanceResult, PanopticResult, Segment

NAMES = (("lamp", "light"), ("wall",))
Written = tuple[Path, COCO]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A folder with three images and their predictions, and its instances as pycocotools reads
    them; masks have holes and parts, and the last image has nothing."""
    folder = tmp_path_factory.mktemp("tools")
    generator = np.random.default_rng(0)
    header = Header(categories_of(NAMES, (True, False)), {}, str(folder / "images"))
    lines = PredictionLines(folder / "predictions", header)
    (folder / "images" / "sub").mkdir(parents=True)
    for name, count in (("a.png", 3), ("sub/b.png", 1), ("c.png", 0)):
        Image.fromarray(generator.integers(0, 256, (24, 36, 3), np.uint8)).save(
            folder / "images" / name
        )
        masks = np.zeros((count, 24, 36), bool)
        for number in range(count):
            masks[number, 4 * number : 4 * number + 9, 2:30] = True
            masks[number, 4 * number + 3 : 4 * number + 6, 10:14] = False
            masks[number, 20:22, 4 * number : 4 * number + 3] = True
        boxes = np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4)
        scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
        classes = np.arange(count) % 2
        ids = np.zeros((24, 36), np.int32)
        for number, mask in enumerate(masks, 1):
            ids[mask] = number
        segments = [
            Segment(
                number,
                number % 2,
                NAMES[number % 2][0],
                number % 2 == 0,
                0.5,
                int((ids == number).sum()),
                _box(ids == number),
            )
            for number in range(1, count + 1)
        ]
        png = f"{name.removesuffix('.png')}.png"
        write_panoptic_png(folder / "predictions" / "panoptic" / png, ids)
        lines.add(
            source=name,
            file_name=name,
            panoptic_file=png,
            panoptic=PanopticResult(ids, segments),
            instances=InstanceResult(boxes, masks, scores, classes, [NAMES[i][0] for i in classes]),
        )
    lines.close()
    write_standard_files(folder / "predictions")
    return folder, COCO(str(folder / "predictions" / "instances.json"))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def _truth(coco: COCO, name: str) -> list[tuple[str, np.ndarray]]:
    """The class and the mask of each object of an image, as pycocotools reads them."""
    (image,) = (image for image in coco.imgs.values() if image["file_name"] == name)
    entries = coco.imgToAnns[image["id"]]
    return [(coco.cats[e["category_id"]]["name"], coco.annToMask(e) > 0) for e in entries]


def _equal(found: list[tuple[str, np.ndarray]], truth: list[tuple[str, np.ndarray]]) -> bool:
    names = [name for name, _ in found] == [name for name, _ in truth]
    return names and all(np.array_equal(a[1], b[1]) for a, b in zip(found, truth, strict=True))


def test_pycocotools(written: Written) -> None:
    _, coco = written
    assert [len(_truth(coco, name)) for name in ("a.png", "sub/b.png", "c.png")] == [3, 1, 0]
    for entry in coco.anns.values():
        mask = coco.annToMask(entry)
        assert entry["area"] == mask.sum()
        x0, y0, x1, y1 = _box(mask)
        assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]


def test_panopticapi(written: Written) -> None:
    reason = "pip install git+https://github.com/cocodataset/panopticapi.git"
    evaluation = pytest.importorskip("panopticapi.evaluation", reason=reason)
    path = str(written[0] / "predictions" / "panoptic.json")
    found = evaluation.pq_compute(path, path)  # the folder of the PNGs is found by the name
    assert [found[kind]["pq"] for kind in ("All", "Things", "Stuff")] == [1, 1, 1]


def test_supervision(written: Written) -> None:
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    folder, coco = written
    data = supervision.DetectionDataset.from_coco(
        str(folder / "images"), str(folder / "predictions" / "instances.json"), force_masks=True
    )
    assert len(data) == 3 and data.classes == ["lamp", "wall"]
    for path, _, objects in data:
        name = Path(path).relative_to(folder / "images").as_posix()
        masks = [] if objects.mask is None else list(objects.mask)
        found = [data.classes[i] for i in objects.class_id]
        assert _equal(list(zip(found, masks, strict=True)), _truth(coco, name))


def test_fiftyone(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader of COCO files; a data set of its own would need its database."""
    for name, value in (
        ("FIFTYONE_DO_NOT_TRACK", "true"),
        ("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:1"),
        ("FIFTYONE_DATABASE_VALIDATION", "false"),
    ):
        monkeypatch.setitem(os.environ, name, value)
    reader = pytest.importorskip("fiftyone.utils.coco", reason="pip install fiftyone")
    folder, coco = written
    path = str(folder / "predictions" / "instances.json")
    _, classes, parents, images, entries = reader.load_coco_detection_annotations(path)
    for image_id, image in images.items():
        size = (image["width"], image["height"])
        found = []
        for entry in entries.get(image_id, []):
            label = entry.to_detection(size, classes, parents, load_segmentation=True)
            x, y = (round(a * b) for a, b in zip(label.bounding_box[:2], size, strict=True))
            mask = np.zeros((size[1], size[0]), bool)
            height, width = label.mask.shape
            mask[y : y + height, x : x + width] = label.mask
            assert label.confidence is not None
            found.append((label.label, mask))
        assert _equal(found, _truth(coco, image["file_name"]))


def test_datumaro_whose_formats_are_those_of_cvat(written: Written, tmp_path: Path) -> None:
    dataset = pytest.importorskip("datumaro.components.dataset", reason="pip install datumaro")
    folder, coco = written
    (tmp_path / "annotations").mkdir()
    shutil.copy(
        folder / "predictions" / "instances.json", tmp_path / "annotations/instances_default.json"
    )
    shutil.copytree(folder / "images", tmp_path / "images" / "default")
    data = dataset.Dataset.import_from(str(tmp_path), "coco_instances")
    labels = [label.name for label in data.categories()[_label_type()]]
    assert labels == ["lamp", "wall"] and len(list(data)) == 3
    for item in data:
        masks = [entry for entry in item.annotations if hasattr(entry, "image")]
        masks.sort(key=lambda entry: entry.id)
        found = [(labels[entry.label], np.asarray(entry.image) > 0) for entry in masks]
        assert _equal(found, _truth(coco, f"{item.id}.png"))


def _label_type() -> object:
    from datumaro.components.annotation import AnnotationType

    return AnnotationType.label
