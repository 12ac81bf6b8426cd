"""A tiny COCO panoptic dataset on disk, whose images show the class and segment of every pixel."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.records import Instances, Record
from frozenseg.data.rle import decode_segmentations

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 90, "name": "grass", "isthing": 0},
]
# segment id -> (category id, iscrowd, colour in the image); ids use all three bytes
SEGMENTS = {
    5: (7, 0, (250, 20, 20)),
    300: (3, 0, (20, 250, 20)),
    70000: (7, 1, (20, 20, 250)),
    16777215: (90, 0, (250, 250, 20)),
}
VOID_COLOUR = (20, 250, 250)


def id_map(height: int, width: int) -> np.ndarray:
    """(H, W) int64 ids: grass with two things and a crowd in it, void in the last fifth."""
    ids = np.full((height, width), 16777215)
    ids[height // 8 : height // 2, width // 8 : width // 3] = 5
    ids[height // 4 : -height // 8, width // 2 : width // 2 + width // 5] = 300
    ids[height // 2 + 1 : -1, width // 8 : width // 4] = 70000
    ids[:, -(width // 5) :] = 0
    return ids


def picture(ids: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: each segment in its own colour."""
    image = np.empty((*ids.shape, 3), dtype=np.uint8)
    image[:] = VOID_COLOUR
    for segment, (_, _, colour) in SEGMENTS.items():
        image[ids == segment] = colour
    return image


def encode(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def write_dataset(root: Path, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Write panoptic.json, png/ and images/ below `root`; returns the content of the JSON."""
    (root / "images").mkdir(parents=True)
    (root / "png").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number, (height, width) in enumerate(sizes, start=1):
        ids = id_map(height, width)
        Image.fromarray(picture(ids)).save(root / "images" / f"{number}.png")
        Image.fromarray(encode(ids)).save(root / "png" / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        infos = [
            {"id": segment, "category_id": category, "iscrowd": crowd}
            for segment, (category, crowd, _) in SEGMENTS.items()
        ]
        content["annotations"].append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": infos}
        )
    write_json(root, content)
    return content


def write_json(root: Path, content: dict[str, Any]) -> None:
    (root / "panoptic.json").write_text(json.dumps(content))


def dataset_name(root: Path) -> str:
    return f"coco_panoptic:{root}/panoptic.json:{root}/png:{root}/images"


def load_instances(record: Record) -> tuple[np.ndarray, Instances]:
    """The masks (N, H, W) bool of a record's objects, crowds included, and their classes."""
    instances, height, width = record.instances, record.height, record.width
    assert instances is not None and height and width
    return decode_segmentations(instances.segmentations, height, width), instances
