"""The runner on predictions made from the truth: perfect scores, exact merging, readable tables."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from frozenseg.data.annotations import load_panoptic, load_semantic
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import Sample, SegmentationDataset
from frozenseg.data.loader import eval_loader as loader_of_test
from frozenseg.data.records import Record
from frozenseg.data.transforms import ShortestEdgeResize
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.results_file import table, write_results
from frozenseg.evaluation.runner import Evaluation, evaluate
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


def samples(dataset: SegmentationDataset, **share: int) -> list[Sample]:
    return [sample for batch in loader_of_test(dataset, num_workers=0, **share) for sample in batch]


def results(
    segment: Callable[[Sample], Prediction], samples: list[Sample]
) -> Iterator[tuple[Record, Prediction]]:
    return ((sample.record, segment(sample)) for sample in samples)


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
    found = evaluate(results(truth, samples(dataset)), tasks(dataset), progress=False)
    assert found.images == 5
    for metric in ("PQ", "SQ", "RQ", "PQ-things", "PQ-stuff", "mIoU", "mIoU-seen", "mIoU-unseen",
                   "pACC", "S_Recall@IoU=0.90", "U_Recall@IoU=0.90"):  # fmt: skip
        assert found.summary[metric] == pytest.approx(100, abs=1e-9), metric
    assert list(found.summary)[0] == "PQ"


def test_shares_merge_exactly(dataset: SegmentationDataset) -> None:
    def spoiled(sample: Sample) -> Prediction:
        return truth(sample, spoiled=int(sample.record.image_id))

    whole = evaluate(results(spoiled, samples(dataset)), tasks(dataset))
    shares = [samples(dataset, rank=r, world_size=2) for r in range(2)]
    states: list[list] = []
    evaluate(
        results(spoiled, shares[0]),
        tasks(dataset),
        gather=lambda value: states.append(value) or [value],
    )
    threads = evaluate(results(spoiled, samples(dataset)), tasks(dataset), scorers=3)
    assert threads.summary == whole.summary and threads.details == whole.details
    others = iter(states)
    merged = evaluate(
        results(spoiled, shares[1]),
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
    found = evaluate(results(objects, samples(dataset)), kinds)
    assert found.summary["AP"] == pytest.approx(100) == found.summary["box AP"]
    again = evaluate(results(objects, samples(dataset)), kinds)  # from nothing
    assert again.summary == pytest.approx(found.summary, nan_ok=True)


def test_results_on_disk_and_as_a_table(tmp_path: Path) -> None:
    found = {
        "set": Evaluation(3, {"PQ": 41.5, "U": float("nan")}, {"panoptic": {"n": 1}}, 2.0, 0.5)
    }
    write_results(tmp_path / "results.json", found)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["set"]["summary"] == {"PQ": 41.5, "U": None}
    assert "set (3 images)" in table(found) and "PQ   41.500" in table(found)
