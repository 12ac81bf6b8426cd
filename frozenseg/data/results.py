"""Predictions as files: panoptic PNGs, and one JSON in the formats of COCO."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from frozenseg.errors import UserError
from frozenseg.files import atomic_path, write_json
from frozenseg.structures import InstanceResult, PanopticResult, Segment


def encode_panoptic(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids below 2^24 to (H, W, 3) uint8, id = R + 256 G + 256^2 B (COCO panoptic format)."""
    if ids.size and not (ids.min() >= 0 and ids.max() < 1 << 24):
        raise UserError(f"panoptic ids must lie in 0-16777215, got {ids.min()} to {ids.max()}")
    return ((ids[..., None] >> np.array([0, 8, 16])) & 255).astype(np.uint8)


def write_panoptic_png(path: str | os.PathLike[str], ids: np.ndarray) -> None:
    """Write (H, W) segment ids as a COCO panoptic PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(encode_panoptic(ids)).save(temporary)


class Predictions:
    """The predictions of several images, collected for one `predictions.json`.

    The file is COCO panoptic JSON ("images", "annotations", "categories") with the objects beside
    it under "instances", entries as in COCO result files. A category's id is its place in the
    vocabulary plus 1, because tools for COCO take 0 for "nothing". Its name is its first synonym.
    """

    def __init__(self, *, names: Sequence[tuple[str, ...]], is_thing: Sequence[bool]) -> None:
        self.categories = [
            {"id": index + 1, "name": synonyms[0], "isthing": int(thing), "synonyms": [*synonyms]}
            for index, (synonyms, thing) in enumerate(zip(names, is_thing, strict=True))
        ]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] = []
        self.notes: set[str] = set()

    def __len__(self) -> int:
        return len(self.images)

    def add(
        self,
        *,
        file_name: str,
        panoptic_file: str,
        panoptic: PanopticResult,
        instances: InstanceResult | None = None,
        note: str | None = None,
    ) -> None:
        """Add an image; `panoptic_file` is the name of its PNG, from the folder of the JSON.

        note: what a reader must know of these numbers, such as that the weights are random.
        """
        image_id = len(self.images) + 1
        height, width = panoptic.ids.shape
        self.images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width}
        )
        self.annotations.append(
            {
                "image_id": image_id,
                "file_name": panoptic_file,
                "segments_info": [_segment_info(segment) for segment in panoptic.segments],
            }
        )
        if instances is not None:
            self.instances.extend(_instance_entries(image_id, instances))
        self.notes.update([note] if note else [])

    def content(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "info": {"description": "predictions of frozenseg", "notes": sorted(self.notes)},
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
            "instances": self.instances,
        }

    def save(self, path: Path) -> None:
        """Write everything added so far, atomically."""
        write_json(path, self.content())


def _segment_info(segment: Segment) -> dict[str, Any]:
    """Without a score where there is none (NaN), as of regions of a semantic result."""
    scored = {} if math.isnan(segment.score) else {"score": float(segment.score)}
    return {
        "id": int(segment.id),
        "category_id": int(segment.class_id) + 1,
        "area": int(segment.area),
        "bbox": _corner_and_size([int(side) for side in segment.box]),
        **scored,
        "isthing": int(segment.is_thing),
        "iscrowd": 0,
    }


def _instance_entries(image_id: int, instances: InstanceResult) -> list[dict[str, Any]]:
    if not len(instances):
        return []
    # pycocotools wants (H, W, N), column by column
    encoded = rle.encode(np.asfortranarray(instances.masks.transpose(1, 2, 0).astype(np.uint8)))
    rows = zip(
        encoded,
        instances.boxes.tolist(),
        instances.scores.tolist(),
        instances.class_ids.tolist(),
        instances.names,
        strict=True,
    )
    return [
        {
            "image_id": image_id,
            "category_id": class_id + 1,
            "name": name,
            "score": score,
            "bbox": _corner_and_size(box),
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        }
        for code, box, score, class_id, name in rows
    ]


def _corner_and_size(box: list[Any]) -> list[Any]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
