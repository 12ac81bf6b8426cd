"""The runner on predictions made from the truth: perfect scores, exact merging, readable tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from frozenseg.data.annotations import load_panoptic, load_semantic
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.loader import eval_loader as loader_of_test
from frozenseg.data.transforms import ShortestEdgeResize
from frozenseg.errors import UserError
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.runner import (
    Evaluation,
    check_expected,
    differences,
    evaluate,
    expected_result,
    table,
    write_results,
)
from frozenseg.evaluation.tasks import (
    DetectionEvaluator,
    PanopticEvaluator,
    RecallEvaluator,
    SemanticEvaluator,
    Task,
)
from frozenseg.structures import InstanceResult, PanopticResult, Prediction, Segment
from tests.data.tiny import dataset_name, write_dataset

SIZES = [(60, 80), (64, 64), (50, 70), (80, 60), (64, 90)]


@pytest.fixture
def dataset(tmp_path: Path) -> SegmentationDataset:
    write_dataset(tmp_path, SIZES)
    records, categories = load_records(dataset_name(tmp_path))
    small = ShortestEdgeResize(short=32, long=64)
    return SegmentationDataset(
        records=records, categories=categories, transform=small, targets=None
    )


def tasks(dataset: SegmentationDataset) -> dict[str, Task]:
    classes = dataset.categories
    seen = [True, False, True]
    return {
        "panoptic": PanopticEvaluator(classes, seen),
        "semantic": SemanticEvaluator(classes, seen),
        "recall": RecallEvaluator(classes, seen),
    }


def truth(sample: Sample, spoiled: int = 0) -> Prediction:
    """The annotation as a prediction; the last `spoiled` columns are shifted by one class."""
    ids, segments = load_panoptic(sample.record)
    keep = [index for index, crowd in enumerate(segments.is_crowd) if not crowd]
    found = [
        Segment(int(segments.ids[i]), int(segments.class_ids[i]), "", True, 1.0, 1, (0, 0, 1, 1))
        for i in keep
    ]
    ids = np.where(np.isin(ids, segments.ids[keep]), ids, 0).astype(np.int32)
    semantic = load_semantic(sample.record)
    wrong = semantic.copy()
    wrong[:, :spoiled] = (wrong[:, :spoiled] + 1) % 3
    return Prediction(
        size=ids.shape,
        panoptic=PanopticResult(ids, found),
        semantic=wrong,
        proposals=np.stack([semantic == class_id for class_id in range(3)]),
    )


def test_the_truth_scores_100(dataset: SegmentationDataset) -> None:
    found = evaluate(truth, loader_of_test(dataset, num_workers=0), tasks(dataset), progress=False)
    assert found.images == 5
    for metric in ("PQ", "SQ", "RQ", "PQ-things", "PQ-stuff", "mIoU", "mIoU-seen", "mIoU-unseen",
                   "pACC", "S_Recall@IoU=0.90", "U_Recall@IoU=0.90"):  # fmt: skip
        assert found.summary[metric] == pytest.approx(100, abs=1e-9), metric
    assert list(found.summary)[0] == "PQ"


def test_shares_merge_exactly(dataset: SegmentationDataset) -> None:
    def spoiled(sample: Sample) -> Prediction:
        return truth(sample, spoiled=int(sample.record.image_id))

    whole = evaluate(spoiled, loader_of_test(dataset, num_workers=0), tasks(dataset))
    shares = [loader_of_test(dataset, num_workers=0, rank=r, world_size=2) for r in range(2)]
    states: list[list] = []
    evaluate(
        spoiled, shares[0], tasks(dataset), gather=lambda value: states.append(value) or [value]
    )
    others = iter(states)
    merged = evaluate(
        spoiled,
        shares[1],
        tasks(dataset),
        # through JSON, as between processes
        gather=lambda value: [value, json.loads(json.dumps(next(others)))],
    )
    assert merged.images == whole.images == 5
    assert merged.summary == whole.summary and merged.details == whole.details
    assert whole.summary["mIoU"] < 99.9


def test_detections(dataset: SegmentationDataset, tmp_path: Path) -> None:
    """AP of the true objects, with the category ids of the file."""
    from pycocotools import mask as rle

    annotations, images = [], []
    for record in dataset.records:
        ids, segments = load_panoptic(record)
        images.append({"id": record.image_id, "height": record.height, "width": record.width})
        mask = ids == segments.ids[0]
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": record.image_id,
                "category_id": dataset.categories.dataset_ids[segments.class_ids[0]],
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": rle.toBbox(code).tolist(),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
        )
    entries = [{"id": number, "name": str(number)} for number in dataset.categories.dataset_ids]
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": entries})
    )

    def objects(sample: Sample) -> Prediction:
        ids, segments = load_panoptic(sample.record)
        mask = ids == segments.ids[0]
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Prediction(
            size=ids.shape,
            instances=InstanceResult(
                np.array([box], np.float32), mask[None], np.ones(1), segments.class_ids[:1], ["x"]
            ),
        )

    kinds: dict[str, Task] = {
        kind: DetectionEvaluator(
            dataset.categories, [True, False, True], InstanceAP(ground_truth=path, kind=kind)
        )
        for kind in ("segm", "bbox")
    }
    found = evaluate(objects, loader_of_test(dataset, num_workers=0), kinds)
    assert found.summary["AP"] == pytest.approx(100) == found.summary["box AP"]
    again = evaluate(objects, loader_of_test(dataset, num_workers=0), kinds)  # from nothing
    assert again.summary == pytest.approx(found.summary, nan_ok=True)


def test_results_on_disk_and_as_a_table(tmp_path: Path) -> None:
    found = {
        "set": Evaluation(3, {"PQ": 41.5, "U": float("nan")}, {"panoptic": {"n": 1}}, 2.0, 0.5)
    }
    write_results(tmp_path / "results.json", found)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["set"]["summary"] == {"PQ": 41.5, "U": None}
    assert "set (3 images)" in table(found) and "PQ   41.500" in table(found)


METRICS = {"set": ["PQ", "U"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["set", "PQ", 41.0, 0.5], []),
        (["set", "PQ", 41.0, 0.4], ["set: PQ is 41.500, expected 41.0 +- 0.4"]),
        (["set", "U", 1.0, 9.0], ["set: U is undefined, expected 1.0 +- 9.0"]),
        (["set", "PQ", None, 9.0], ["set: PQ is 41.500, expected nan +- 9.0"]),
        (["set", "U", None, 0], []),
        (["set", "U", math.nan, 0], []),
    ],
)
def test_expected_results(row: list, said: list[str]) -> None:
    scores = {"set": {"PQ": 41.5, "U": math.nan}}
    assert differences(scores, [expected_result(row)]) == said


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["small_world_vall", "PQ", 1, 1], "no such dataset; did you mean small_world_val"),
        (["set", "PQQ", 1, 1], "set has no PQQ; did you mean PQ"),
        (["set", "PQ"], "is not .data set, metric"),
        (["set", "PQ", "good", 1], "is not .data set, metric"),
        (["set", "PQ", 1, -1], "the tolerance must not be below 0"),
        (["set", "PQ", 1, math.nan], "the tolerance must not be below 0"),
        (7, "is not .data set, metric"),
    ],
)
def test_expected_results_that_cannot_be_met(row: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_expected([expected_result(row)], METRICS)


def test_rows_of_sets_that_are_not_evaluated_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [["small_world_val", "PQ", 66.5, 0.3], ["set", "PQ", 1, 1]]
    expected = [expected_result(row) for row in rows]
    check_expected(expected, METRICS)
    assert "PQ of small_world_val will not be compared" in caplog.text
    assert differences({"set": {"PQ": 1.5}}, expected) == []
