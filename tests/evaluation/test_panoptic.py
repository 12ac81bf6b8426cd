import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from PIL import Image

from frozenseg.errors import UserError
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.files import json_text
from tests.evaluation.cases import assert_close, panoptic_case

CATEGORIES = [
    {"id": 17, "name": "a", "isthing": 1},
    {"id": 4, "name": "b", "isthing": 0},
    {"id": 90, "name": "c", "isthing": 1},
    {"id": 91, "name": "never there", "isthing": 0},
]
CASES = [panoptic_case(seed, CATEGORIES[:3]) for seed in range(60)]


def scored(cases) -> PanopticQuality:
    metric = PanopticQuality(categories=CATEGORIES)
    for case in cases:
        metric.update(*case)
    return metric


def slow_counts(category_id: int) -> tuple[float, int, int, int]:
    """IoU sum, TP, FP, FN of one category, pair by pair with whole masks."""
    iou_sum, tp, fp, fn = 0.0, 0, 0, 0
    for _, pred_ids, pred_segments, gt_ids, gt_segments in CASES:
        void = gt_ids == 0
        mine = [s for s in gt_segments if s["category_id"] == category_id]
        crowds = [s for s in mine if s["iscrowd"]]
        truths = [s for s in mine if not s["iscrowd"]]
        found = set()
        for segment in (s for s in pred_segments if s["category_id"] == category_id):
            mask = pred_ids == segment["id"]
            matched = False
            for truth in truths:
                other = gt_ids == truth["id"]
                iou = (mask & other).sum() / ((mask & ~void) | other).sum()
                if iou > 0.5:
                    iou_sum, tp, matched = iou_sum + iou, tp + 1, True
                    found.add(truth["id"])
            excused = void | (gt_ids == crowds[-1]["id"]) if crowds else void
            if not matched and (mask & excused).sum() / mask.sum() <= 0.5:
                fp += 1
        fn += sum(truth["id"] not in found for truth in truths)
    return iou_sum, tp, fp, fn


def test_equals_pairwise_masks():
    per_class = scored(CASES).compute()["per_class"]
    for category_id in (17, 4, 90):
        iou, tp, fp, fn = slow_counts(category_id)
        assert tp > 5 and fp > 5 and fn > 5  # the cases are hard enough to tell
        assert per_class[str(category_id)]["pq"] == pytest.approx(iou / (tp + fp / 2 + fn / 2))
        assert per_class[str(category_id)]["sq"] == pytest.approx(iou / tp)


def test_equals_hotcoco(tmp_path: Path):
    files = {"gt": [], "pred": []}
    for image_id, pred_ids, pred_segments, gt_ids, gt_segments in CASES:
        for name, ids, segments in (("gt", gt_ids, gt_segments), ("pred", pred_ids, pred_segments)):
            (tmp_path / name).mkdir(exist_ok=True)
            colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
            Image.fromarray(colours).save(tmp_path / name / f"{image_id}.png")
            named = {"image_id": image_id, "file_name": f"{image_id}.png"}
            files[name].append({**named, "segments_info": segments})
    for name, annotations in files.items():
        images = [{"id": case[0], "height": 1, "width": 1, "file_name": ""} for case in CASES]
        content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    evaluator = PanopticEval(
        tmp_path / "gt.json",
        tmp_path / "pred.json",
        gt_folder=tmp_path / "gt",
        pred_folder=tmp_path / "pred",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.run()
    expected = evaluator.results()
    scores = scored(CASES).compute()
    for group in ("All", "Things", "Stuff"):
        assert_close(scores[group], expected[group], 1e-12)
    for category_id in (17, 4, 90):
        mine = scores["per_class"][str(category_id)]
        assert mine["pq"] == pytest.approx(expected["per_class"][category_id]["pq"], abs=1e-12)
    assert all(map(math.isnan, scores["per_class"]["91"].values()))  # in no mean, as panopticapi


def test_processes_together_equal_one():
    alone = scored(CASES)
    parts = [json.loads(json.dumps(scored(CASES[i::3]).state())) for i in (2, 0, 1)]
    together = PanopticQuality(categories=CATEGORIES)
    together.update(*CASES[0])  # its own part is among those gathered
    together.merge(parts)
    assert json_text(together.compute()) == json_text(alone.compute())
    with pytest.raises(UserError, match="twice"):
        together.add_state(parts[0])


def test_truth_against_itself_is_perfect():
    metric = PanopticQuality(categories=CATEGORIES)
    for image_id, _, _, gt_ids, gt_segments in CASES:
        found = [segment for segment in gt_segments if not segment["iscrowd"]]
        kept = np.where(np.isin(gt_ids, [segment["id"] for segment in found]), gt_ids, 0)
        metric.update(image_id, kept, found, gt_ids, gt_segments)
    assert metric.compute()["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 3}


def test_empty_prediction_and_no_images():
    metric = PanopticQuality(categories=CATEGORIES)
    scores = metric.compute()["All"]
    assert scores.pop("n") == 0 and all(map(math.isnan, scores.values()))
    gt_ids = np.ones((4, 4), dtype=np.int64)
    metric.update("a", gt_ids * 0, [], gt_ids, [{"id": 1, "category_id": 4}])
    assert metric.compute()["Stuff"] == {"pq": 0, "sq": 0, "rq": 0, "n": 1}


@pytest.mark.parametrize(
    ("pred_segments", "message"),
    [
        ([], "id 5 is in the map, but not among its segments"),
        ([{"id": 5, "category_id": 4}, {"id": 6, "category_id": 4}], "segment 6 is listed"),
        ([{"id": 5, "category_id": 5}], "category 5 is not among"),
        ([{"id": 5, "category_id": 4}] * 2, "listed twice"),
        ([{"id": 2**24, "category_id": 4}], "segment ids are 1 to"),
    ],
)
def test_map_and_segments_must_agree(pred_segments, message):
    metric = PanopticQuality(categories=CATEGORIES)
    ids = np.full((3, 3), 5)
    truth = [{"id": 5, "category_id": 4}]
    with pytest.raises(UserError, match=f"image 1, prediction: .*{message}"):
        metric.update(1, ids, pred_segments, ids, truth)
    assert metric.state() == PanopticQuality(categories=CATEGORIES).state()
