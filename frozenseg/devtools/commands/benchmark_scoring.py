"""Time our panoptic quality beside a plain loop, and our mask AP beside pycocotools.

Both get the same generated images.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frozenseg.commands.number_arguments import check_least
from frozenseg.commands.output_argument import output_file
from frozenseg.data.rle import encode_masks
from frozenseg.evaluation.instance import InstanceAP
from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.files import write_json

Segments = list[dict[str, int]]
Panoptic = tuple[np.ndarray, Segments, np.ndarray, Segments]  # prediction, then truth

# As many classes as COCO has thing classes.
CATEGORIES = [{"id": 3 * i + 1, "name": f"class {i}", "isthing": i % 2} for i in range(80)]


def main(argv: list[str]) -> int | None:
    """Time each metric and its plain counterpart on the same data, and print a table."""
    parser = argparse.ArgumentParser(prog="frozenseg benchmark_scoring", description=__doc__)
    parser.add_argument("--images", type=int, default=20, help="number of images (%(default)s)")
    parser.add_argument("--size", type=int, default=640, help="side in pixels (%(default)s)")
    parser.add_argument("--segments", type=int, default=40, help="segments per image (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (%(default)s)")
    parser.add_argument("--json", type=output_file, metavar="OUT", help="write the figures here")
    options = parser.parse_args(argv)
    check_least(options, images=1, size=16, segments=1, repeats=1)

    rng = np.random.default_rng(0)
    maps = [_panoptic(rng, options.size, options.segments) for _ in range(options.images)]
    truth, detections = _detections(maps, rng)
    figures = {
        "PQ": _compare(lambda: our_pq(maps), lambda: loop_pq(maps), options.repeats),
        "AP": _compare(
            lambda: our_ap(truth, detections),
            lambda: pycocotools_ap(truth, detections),
            options.repeats,
        ),
    }
    print(f"{'':4}{'ours, s':>10}{'plain, s':>10}{'ratio':>8}{'scores differ by':>18}")
    for name, row in figures.items():
        numbers = f"{row['ours_s']:10.3f}{row['plain_s']:10.3f}{row['ratio']:8.1f}"
        print(f"{name:4}{numbers}{row['difference']:18.1e}")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        write_json(options.json, {"settings": settings, "medians": figures}, indent=1)
    return 0


def our_pq(maps: list[Panoptic]) -> float:
    """Compute panoptic quality with this package."""
    metric = PanopticQuality(categories=CATEGORIES)
    for image_id, panoptic in enumerate(maps):
        metric.update(image_id, *panoptic)
    return metric.compute()["All"]["pq"]


def loop_pq(maps: list[Panoptic]) -> float:
    """Compute PQ as it is defined: a mask for each segment, an intersection for each pair.

    The generated images contain no crowd segments, so only void needs special treatment.
    """
    counts = {category["id"]: [0.0, 0, 0, 0] for category in CATEGORIES}  # IoU, TP, FP, FN
    for pred_ids, pred_segments, gt_ids, gt_segments in maps:
        void = gt_ids == 0
        pred_masks = [pred_ids == segment["id"] for segment in pred_segments]
        matched: set[int] = set()
        for truth in gt_segments:
            gt_mask = gt_ids == truth["id"]
            count = counts[truth["category_id"]]
            for i, segment in enumerate(pred_segments):
                if segment["category_id"] != truth["category_id"]:
                    continue
                union = (gt_mask | (pred_masks[i] & ~void)).sum()
                iou = (gt_mask & pred_masks[i]).sum() / union
                if iou > 0.5:
                    count[0] += iou
                    count[1] += 1
                    matched.add(i)
                    break
            else:
                count[3] += 1
        for i, segment in enumerate(pred_segments):
            if i not in matched and (pred_masks[i] & void).sum() / pred_masks[i].sum() <= 0.5:
                counts[segment["category_id"]][2] += 1
    present = [count for count in counts.values() if sum(count[1:])]
    return float(np.mean([iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in present]))


def our_ap(truth: dict[str, Any], detections: list[dict[str, Any]]) -> float:
    """Compute mask AP with this package."""
    metric = InstanceAP(ground_truth=truth)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for detection in detections:
        by_image.setdefault(detection["image_id"], []).append(detection)
    for image_id, rows in by_image.items():
        masks, scores = [row["segmentation"] for row in rows], [row["score"] for row in rows]
        metric.update(image_id, masks, None, scores, [row["category_id"] for row in rows])
    return metric.compute()["AP"]


def pycocotools_ap(truth: dict[str, Any], detections: list[dict[str, Any]]) -> float:
    """Compute mask AP with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        results = coco.loadRes([dict(detection) for detection in detections])
        evaluator = COCOeval(coco, results, "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def _compare(
    ours: Callable[[], float], plain: Callable[[], float], repeats: int
) -> dict[str, float]:
    """Take the median seconds of both; they run in turn, so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    scores = [0.0, 0.0]
    for _ in range(repeats):
        for i, way in enumerate((ours, plain)):
            start = time.perf_counter()
            scores[i] = way()
            seconds[i].append(time.perf_counter() - start)
    medians = [statistics.median(taken) for taken in seconds]
    return {
        "ours_s": medians[0],
        "plain_s": medians[1],
        "ratio": medians[1] / medians[0],
        "difference": abs(scores[0] - scores[1]),
    }


def _panoptic(rng: np.random.Generator, size: int, segments: int) -> Panoptic:
    """Make overlapping boxes as ground truth; as prediction, shift them and misclassify some."""
    corners = rng.integers(0, size * 3 // 4, (segments, 2))
    sides = rng.integers(size // 16, size // 3, (segments, 2))
    gt_ids, pred_ids = np.zeros((2, size, size), dtype=np.int32)
    shift = rng.integers(-size // 50, size // 50 + 1, (segments, 2))
    for i, ((y, x), (height, width), (dy, dx)) in enumerate(
        zip(corners, sides, shift, strict=True), start=1
    ):
        gt_ids[y : y + height, x : x + width] = i
        y, x = max(y + dy, 0), max(x + dx, 0)
        pred_ids[y : y + height, x : x + width] = i
    classes = rng.integers(0, len(CATEGORIES), segments)
    changed = np.where(rng.random(segments) < 0.2, 1, 0)
    return (
        *(pred_ids, _listed(pred_ids, (classes + changed) % len(CATEGORIES))),
        *(gt_ids, _listed(gt_ids, classes)),
    )


def _listed(ids: np.ndarray, classes: np.ndarray) -> Segments:
    areas = np.bincount(ids.ravel())
    return [
        {"id": int(i), "category_id": CATEGORIES[classes[i - 1]]["id"], "area": int(areas[i])}
        for i in np.unique(ids[ids > 0])
    ]


def _detections(
    maps: list[Panoptic], rng: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Turn segments into instances in COCO format; predictions appear twice with random scores."""
    truth: dict[str, Any] = {"images": [], "categories": CATEGORIES, "annotations": []}
    detections: list[dict[str, Any]] = []
    for image_id, (pred_ids, pred_segments, gt_ids, gt_segments) in enumerate(maps):
        height, width = gt_ids.shape
        truth["images"].append({"id": image_id, "height": height, "width": width})
        for segment, code in zip(gt_segments, _codes(gt_ids, gt_segments), strict=True):
            ids = {"id": len(truth["annotations"]) + 1, "image_id": image_id}
            mask = {"iscrowd": 0, "segmentation": code, "bbox": [0, 0, 1, 1]}
            truth["annotations"].append({**segment, **ids, **mask})
        codes = _codes(pred_ids, pred_segments)
        for segment, code in [*zip(pred_segments, codes, strict=True)] * 2:
            detection = {"image_id": image_id, "category_id": segment["category_id"]}
            detections.append({**detection, "segmentation": code, "score": float(rng.random())})
    return truth, detections


def _codes(ids: np.ndarray, segments: Segments) -> list[dict[str, Any]]:
    return encode_masks(ids == np.array([s["id"] for s in segments]).reshape(-1, 1, 1))
