"""Benchmarks with rules of their own, from the files of the data set to the table of results.

What the model itself finds is written as the truth: evaluated, it must score (nearly) full marks.
"""

import importlib.util
import json
import math
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util

from frozenseg.build.prediction import load
from frozenseg.build.transforms import eval_transform
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.data.benchmarks import find_benchmark
from frozenseg.data.readers import cityscapes_file
from frozenseg.errors import UserError
from frozenseg.evaluation.on_disk import score_lvis
from frozenseg.files import write_json
from frozenseg.predictor import Predictor
from frozenseg.structures import InstanceResult
from frozenseg.text.vocabulary import Vocabulary
from tests.data.tiny import encode
from tests.engine.tiny import TinyRun

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
FIRST_THING = 24


@pytest.fixture
def run(tmp_path, monkeypatch) -> TinyRun:
    torch.set_num_threads(1)
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return TinyRun(tmp_path)


def predictor_of(run: TinyRun, *options: str) -> Predictor:
    """The model that `main` tests: the same seed gives the same random weights, and the same
    classes count as seen."""
    return load(run.config, options=["DATASETS.TRAIN", f"('{run.dataset}',)", *options])


def evaluated(run: TinyRun, name: str, *more: str) -> dict[str, Any]:
    options = ("DATASETS.TEST", f"('{name}',)", *more)
    assert main(run.arguments("eval", *options, flags=("--eval-only",))) == 0
    found = json.loads((run.root / "eval" / "results.json").read_text())
    assert list(found) == [name]
    summary = found[name]["summary"]
    return {key: math.nan if value is None else value for key, value in summary.items()}


def distinct(found: InstanceResult, most: int) -> Iterator[tuple[np.ndarray, int]]:
    """Masks and classes of the best detections that do not overlap."""
    taken = np.zeros(found.masks.shape[1:], dtype=bool)
    for index in np.argsort(-found.scores, kind="stable"):
        mask = found.masks[index]
        if mask.sum() > 30 and not (mask & taken).any() and most:
            taken |= mask
            most -= 1
            yield mask, int(found.class_ids[index])


def coded(mask: np.ndarray) -> dict[str, Any]:
    code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_lvis_is_that_of_the_scoring_command(run: TinyRun) -> None:
    folder = run.root / "coco" / "val2017"
    folder.mkdir(parents=True)
    names = ("cat", "dog", "bird")
    model = predictor_of(run)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": 2 * i + 1, "name": name, "frequency": "rcf"[i]} for i, name in enumerate(names)
        ],
    }
    vocabulary = Vocabulary(tuple((name,) for name in names), (True,) * 3)
    detections = []
    for number, path in enumerate(sorted((run.root / "data" / "images").iterdir()), start=1):
        shutil.copy(path, folder / f"{number:012d}.png")
        found = model(path, vocabulary=vocabulary, threshold=0).instances
        height, width = found.masks.shape[1:]
        content["images"].append(
            {
                "id": number,
                "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.png",
                "height": height,
                "width": width,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        )
        rows = zip(found.masks, found.class_ids.tolist(), found.scores.tolist(), strict=True)
        detections += [
            {"image_id": number, "category_id": 2 * class_id + 1, "score": score,
             "segmentation": coded(mask)}
            for mask, class_id, score in rows
        ]  # fmt: skip
        for mask, class_id in distinct(found, 1):
            code = coded(mask)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 2 * class_id + 1,
                    "segmentation": code,
                    "bbox": mask_util.toBbox(code).tolist(),
                    "area": int(mask.sum()),
                }
            )
    assert len(content["annotations"]) >= 3
    (run.root / "lvis").mkdir()
    truth, results = run.root / "lvis" / "lvis_v1_val.json", run.root / "results.json"
    write_json(truth, content)
    write_json(results, detections)
    summary = evaluated(run, "openvocab_lvis_v1_val")
    expected = score_lvis(str(truth), str(results))
    for key in ("AP", "AP50", "APr", "APc", "APf"):
        assert summary[key] == pytest.approx(100 * expected[key], nan_ok=True)
    assert {"box AP", "AP-seen", "AP-unseen"} <= set(summary)
    assert summary["AP50"] > 20


# The one detection of an image is its truth; where the best class is no thing there is none.
ONE_EACH = ("TEST.DETECTIONS_PER_IMAGE", "1")


def write_cityscapes(run: TinyRun) -> None:
    root = run.root / "cityscapes"
    names = Vocabulary.packaged("cityscapes")
    model = predictor_of(run, *ONE_EACH)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": number, "name": name, "isthing": int(number >= FIRST_THING)}
            for number, name in zip(CITYSCAPES_IDS, names.labels, strict=True)
        ],
    }
    for number, source in enumerate(sorted((run.root / "data" / "images").iterdir())):
        image_id = f"ulm_{number:06d}_000019"
        image = root / "leftImg8bit" / "val" / cityscapes_file(image_id, "leftImg8bit")
        truth = root / "gtFine" / "val" / cityscapes_file(image_id, "gtFine_instanceIds")
        png = root / "gtFine" / "cityscapes_panoptic_val" / f"{image_id}_gtFine_panoptic.png"
        for path in (image, truth, png):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, image)
        found = model(source, vocabulary=names, threshold=0).instances
        ids = np.full(found.masks.shape[1:], 7)
        for place, (mask, class_id) in enumerate(distinct(found, 1)):
            ids[mask] = CITYSCAPES_IDS[class_id] * 1000 + place
        Image.fromarray(ids.astype(np.uint16)).save(truth)
        Image.fromarray(encode(ids)).save(png)
        height, width = ids.shape
        content["images"].append(
            {"id": image_id, "height": height, "width": width,
             "file_name": f"{image_id}_gtFine_leftImg8bit.png"}  # as the data set's script has it
        )  # fmt: skip
        infos = [
            {"id": value, "category_id": value // 1000 or value, "iscrowd": 0}
            for value in np.unique(ids).tolist()
        ]
        content["annotations"].append(
            {"image_id": image_id, "file_name": png.name, "segments_info": infos}
        )
    write_json(root / "gtFine" / "cityscapes_panoptic_val.json", content)


@pytest.mark.skipif(
    importlib.util.find_spec("cityscapesscripts") is None, reason="needs cityscapesScripts"
)
def test_cityscapes(run: TinyRun) -> None:
    write_cityscapes(run)
    name = "openvocab_cityscapes_fine_panoptic_val"
    summary = evaluated(run, name, *ONE_EACH)
    assert {"PQ", "mIoU", "AP", "AP50", "AP-seen", "PQ-unseen"} <= set(summary)
    assert "box AP" not in summary
    assert summary["AP50"] == pytest.approx(100)
    assert 0 < summary["PQ"] < 100


@pytest.mark.skipif(
    importlib.util.find_spec("cityscapesscripts") is not None, reason="cityscapesScripts is there"
)
def test_cityscapes_without_its_scripts_says_so_at_once(run: TinyRun) -> None:
    write_cityscapes(run)
    with pytest.raises(UserError, match=r"pip install 'frozenseg\[cityscapes\]'"):
        evaluated(run, "openvocab_cityscapes_fine_panoptic_val")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (1024, 2560)),
        (["INPUT.MIN_SIZE_TEST", "800", "INPUT.MAX_SIZE_TEST", "1333"], (800, 1333)),
        (["INPUT.MIN_SIZE_TEST", "801"], (801, 1333)),
        (["INPUT.MIN_SIZE_TEST", "800", "INPUT.SIZE_TEST_OF_BENCHMARK", "True"], (1024, 2560)),
    ],
)
def test_the_size_that_is_set_comes_before_the_benchmarks(
    options: list[str], expected: tuple[int, int]
) -> None:
    row = find_benchmark("openvocab_cityscapes_fine_panoptic_val")
    found = eval_transform(load_config(None, options), row)
    assert (found.short, found.long) == expected
