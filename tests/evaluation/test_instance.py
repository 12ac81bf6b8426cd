import contextlib
import copy
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frozenseg.data.rle import encode_masks
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.lvis import LvisAP
from frozenseg.files import json_text
from tests.evaluation.cases import instance_case

SEEDS = range(6)


def feed(metric, results: list[dict[str, Any]], images) -> Any:
    for image_id in images:
        found = [result for result in results if result["image_id"] == image_id]
        boxes = mask_util.toBbox([result["segmentation"] for result in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        metric.update(
            image_id,
            [result["segmentation"] for result in found] if metric.kind == "segm" else None,
            boxes,
            [result["score"] for result in found],
            [result["category_id"] for result in found],
        )
    return metric


def image_ids(truth: dict[str, Any]) -> list[int]:
    return [image["id"] for image in truth["images"]]


def pycocotools_stats(truth, results, kind: str) -> tuple[list[float], list[float]]:
    """AP, AP50, AP75, APs, APm, APl, and the AP of each category."""
    results = copy.deepcopy(results)
    if kind == "bbox":
        for result in results:
            result["bbox"] = mask_util.toBbox(result.pop("segmentation")).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precisions = evaluator.eval["precision"][:, :, :, 0, 2].transpose(2, 0, 1)
    per_class = [float(p[p > -1].mean()) if (p > -1).any() else np.nan for p in precisions]
    return [np.nan if score < 0 else score for score in evaluator.stats[:6]], per_class


def check_against_pycocotools(metric: InstanceAP, expected: tuple[list[float], list[float]]):
    scores = metric.compute()
    per_class = scores.pop("per_class")
    assert list(scores.values()) == pytest.approx(expected[0], abs=1e-12, nan_ok=True)
    assert list(per_class.values()) == pytest.approx(expected[1], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_equals_pycocotools(kind: str):
    for seed in SEEDS:
        truth, results = instance_case(seed)
        metric = feed(InstanceAP(ground_truth=truth, kind=kind), results, image_ids(truth))
        expected = pycocotools_stats(truth, results, kind)
        check_against_pycocotools(metric, expected)
        assert expected[0][0] > 0.05


def test_polygons_missing_areas_and_ids():
    """Polygons score as in pycocotools; ids play no part, and areas come from the masks."""
    truth, results = instance_case(0)
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation["iscrowd"] = 0
    expected = pycocotools_stats(truth, results, "segm")
    for i, annotation in enumerate(truth["annotations"]):
        del annotation["area"]
        del annotation["id"]
        if i % 2:
            annotation["id"] = 0
    metric = feed(InstanceAP(ground_truth=truth), results, image_ids(truth))
    check_against_pycocotools(metric, expected)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_lvis_equals_lvis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """Also with more detections than count, and with empty ones, which lvis leaves out."""
    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis still uses the old name
    logging.getLogger("lvis").setLevel(logging.ERROR)
    for seed in SEEDS:
        truth, results = instance_case(seed)
        results = results * (1 + 299 // max(len(results), 1)) + results[::-1] * 40  # beyond the cap
        sizes = {image["id"]: (1, image["height"], image["width"]) for image in truth["images"]}
        for result in results[::7]:
            empty = encode_masks(np.zeros(sizes[result["image_id"]], bool))[0]
            results.append({**result, "segmentation": empty, "score": 0.9})
        (tmp_path / "gt.json").write_text(json.dumps(truth))
        reference = lvis.LVIS(str(tmp_path / "gt.json"))
        theirs = [dict(result) for result in results]
        if kind == "bbox":
            for result in theirs:
                result["bbox"] = mask_util.toBbox(result.pop("segmentation")).tolist()
        evaluator = lvis.LVISEval(reference, lvis.LVISResults(reference, theirs), kind)
        evaluator.run()
        expected = evaluator.get_results()
        metric = LvisAP(ground_truth=truth, kind=kind)
        scores = feed(metric, results, image_ids(truth)).compute()
        per_class = scores.pop("per_class")
        ids = [str(category["id"]) for category in truth["categories"]]
        assert list(per_class) == sorted(ids, key=int)
        known = [value for value in per_class.values() if value >= 0]
        assert np.mean(known) == pytest.approx(expected["AP"], abs=1e-12)
        assert list(scores) == "AP AP50 AP75 APs APm APl APr APc APf".split()
        for key, value in scores.items():
            wanted = np.nan if expected[key] < 0 else expected[key]
            assert value == pytest.approx(wanted, abs=1e-12, nan_ok=True), (seed, key)


@pytest.mark.parametrize("metric_class", [InstanceAP, LvisAP])
def test_processes_together_equal_one(metric_class):
    truth, results = instance_case(1)
    images = image_ids(truth)
    alone = feed(metric_class(ground_truth=truth), results, images)
    parts = [
        feed(metric_class(ground_truth=truth), results, part).state()
        for part in (images[5:], images[1:5], images[:1])
    ]
    together = metric_class(ground_truth=truth)
    together.merge(json.loads(json.dumps(parts)))
    assert json_text(together.compute()) == json_text(alone.compute())
    with pytest.raises(UserError, match="twice"):
        together.add_state(parts[0])


@pytest.mark.parametrize("metric_class", [InstanceAP, LvisAP])
def test_truth_against_itself_is_perfect_and_nothing_scores_zero(metric_class):
    truth, _ = instance_case(2)
    perfect = [{**a, "score": 1.0} for a in truth["annotations"] if not a["iscrowd"]]
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    metric = feed(metric_class(ground_truth=truth), perfect, image_ids(truth))
    assert metric.compute()["AP"] == pytest.approx(1)
    metric.reset()
    assert metric.compute()["AP"] == 0


def test_bad_input():
    truth, results = instance_case(0)
    metric = InstanceAP(ground_truth=truth)
    image = truth["images"][0]
    mask = np.ones((1, image["height"], image["width"]), dtype=bool)
    for arguments, message in (
        ((5, mask, None, [0.5], [7]), "image 5: not among the images"),
        ((image["id"], mask, None, [0.5], [8]), "category 8"),
        ((image["id"], mask, None, [float("nan")], [7]), "not a finite number"),
        ((image["id"], mask, None, [0.5, 0.6], [7]), "one of each"),
        ((image["id"], mask[:, 1:], None, [0.5], [7]), "shape"),
        ((image["id"], None, None, [0.5], [7]), "give masks for kind 'segm'"),
    ):
        with pytest.raises(UserError, match=message):
            metric.update(*arguments)
    assert metric.state() == {"detections": []}
    del truth["images"][3]["neg_category_ids"]
    with pytest.raises(UserError, match="neg_category_ids"):
        LvisAP(ground_truth=truth)


@pytest.mark.parametrize("metric_class", [InstanceAP, LvisAP])
def test_images_that_are_not_evaluated_do_not_count(metric_class):
    truth, results = instance_case(0)
    some = set(image_ids(truth)[::2])
    fewer = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in some],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in some],
    }
    expected = feed(metric_class(ground_truth=fewer), results, sorted(some)).compute()
    metric = feed(metric_class(ground_truth=truth, images=some), results, sorted(some))
    assert repr(metric.compute()) == repr(expected)
