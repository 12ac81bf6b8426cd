"""Small random ground truths and predictions with everything that makes scoring hard."""

from typing import Any

import numpy as np
import pytest

from frozenseg.data.rle import encode_masks


def panoptic_case(seed: int, categories: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Arguments of `PanopticQuality.update`: void, crowds (also two of a kind), empty images."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(20, 40)), int(rng.integers(20, 40)))
    gt_ids, pred_ids = np.zeros((2, *shape), dtype=np.int32)
    numbers = rng.choice(2**24 - 1, size=12, replace=False) + 1
    for i in range(int(rng.integers(0, 9))):
        y, x, height, width = (*rng.integers(0, 25, 2), *rng.integers(4, 25, 2))
        gt_ids[y : y + height, x : x + width] = numbers[i]
        if rng.random() < 0.8:
            y, x = y + rng.integers(0, 3), x + rng.integers(0, 3)
            pred_ids[y : y + height, x : x + width] = i + 1
    if rng.random() < 0.5:
        pred_ids[:6, :6] = 99
    known = [category["id"] for category in categories]
    classes = {int(number): int(rng.choice(known)) for number in numbers}
    gt_segments = [
        {
            "id": int(i),
            "category_id": classes[int(i)],
            "iscrowd": int(rng.random() < 0.3),
            "area": int((gt_ids == i).sum()),
        }
        for i in np.unique(gt_ids[gt_ids > 0])
    ]
    pred_segments = [
        {
            "id": int(i),
            "category_id": classes[int(numbers[i - 1])] if i <= len(numbers) else known[0],
        }
        for i in np.unique(pred_ids[pred_ids > 0])
    ]
    rng.shuffle(gt_segments)
    return seed, pred_ids, pred_segments, gt_ids, gt_segments


def instance_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(LVIS ground truth, results): crowds, equal scores, a class without truth, empty images."""
    rng = np.random.default_rng(seed)
    ids = [7, 3, 90, 41, 12]
    categories = [{"id": c, "name": str(c), "frequency": "rcf"[i % 3]} for i, c in enumerate(ids)]
    truth: dict[str, Any] = {"images": [], "categories": categories, "annotations": []}
    results: list[dict[str, Any]] = []
    for number in range(8):
        height, width = (int(side) for side in rng.integers(30, 140, 2))
        image = {"id": 1000 - 7 * number, "height": height, "width": width}
        image["neg_category_ids"] = [int(rng.choice(ids))]
        image["not_exhaustive_category_ids"] = [int(rng.choice(ids))]
        truth["images"].append(image)
        for _ in range(int(rng.integers(0, 7))):
            box = [*rng.integers(0, 25, 2), *rng.integers(4, 100, 2)]
            category_id = int(rng.choice(ids[:4]))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "iscrowd": int(rng.random() < 0.2),
                    **_box_region(box, height, width),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                region = _box_region(np.maximum(box + rng.integers(-2, 3, 4), 1), height, width)
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category_id if rng.random() < 0.8 else int(rng.choice(ids)),
                        "score": float(rng.integers(1, 6)) / 5,
                        "segmentation": region["segmentation"],
                    }
                )
    return truth, results


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """`found` holds at least the keys of `expected`, level by level, with equal numbers."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(found[key], value, tolerance)
    else:
        assert found == pytest.approx(expected, abs=tolerance, rel=0, nan_ok=True)


def _box_region(box: Any, height: int, width: int) -> dict[str, Any]:
    y, x, h, w = (int(value) for value in box)
    mask = np.zeros((1, height, width), dtype=bool)
    mask[0, y : y + h, x : x + w] = True
    return {
        "area": int(mask.sum()),
        "bbox": [x, y, min(w, width - x), min(h, height - y)],
        "segmentation": encode_masks(mask)[0],
    }
