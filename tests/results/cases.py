"""A result with masks of every kind."""

import numpy as np
import torch

from frozenseg.inference.regions import label_segments, mask_boxes
from frozenseg.results.result import SegmentationResult
from frozenseg.structures import InstanceResult, PanopticResult
from frozenseg.text.vocabulary import Vocabulary

SIZE = (37, 53)
WORDS = Vocabulary.parse("dog, hound; sky; traffic light", things="dog; traffic light")


def masks() -> np.ndarray:
    """A blob with a hole, two parts that touch at a corner, noise, and the whole image."""
    found = np.zeros((4, *SIZE), dtype=bool)
    found[0, 4:20, 30:50] = True
    found[0, 8:12, 35:40] = False
    found[1, 0:3, 0:3] = found[1, 3:9, 3:5] = True
    found[2] = np.random.default_rng(0).random(SIZE) > 0.5
    found[3] = True
    return found


def made(**changes: object) -> SegmentationResult:
    """A result of three segments and four instances."""
    ids = np.zeros(SIZE, dtype=np.int32)
    ids[:10], ids[12:20, 5:9], ids[30:, 40:] = 1, 2, 3
    ids[14, 6] = 0
    inside = ids == np.arange(1, 4)[:, None, None]
    boxes = mask_boxes(torch.from_numpy(inside)).numpy().astype(int)
    scores, labels = np.array([0.9, 0.5, 0.2]), np.array([1, 0, 0])
    segments = label_segments(labels, scores, inside.sum((1, 2)), boxes, WORDS)
    found = masks()
    instances = InstanceResult(
        boxes=mask_boxes(torch.from_numpy(found)).numpy(),
        masks=found,
        scores=np.array([0.8, 0.6, 0.3, 0.1], dtype=np.float32),
        class_ids=np.array([0, 2, 0, 2]),
        names=["dog", "traffic light", "dog", "traffic light"],
    )
    rows: dict[str, object] = {
        "image": np.full((*SIZE, 3), 90, np.uint8),
        "vocabulary": WORDS,
        "panoptic": PanopticResult(ids, segments),
        "semantic": np.where(ids == 1, 1, 0).astype(np.int32),
        "instances": instances,
        "file_name": "photos/street.jpg",
        "seconds": 0.0314,
    }
    return SegmentationResult(**{**rows, **changes})
