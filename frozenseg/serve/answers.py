"""A result as the body of an answer: JSON with run lengths or id maps, a PNG of ids, a picture."""

import base64
import math
from typing import Any

import numpy as np
from PIL import Image

from frozenseg.data.results import encode_panoptic, png_bytes
from frozenseg.data.rle import encode_masks
from frozenseg.files import json_text
from frozenseg.results.result import SegmentationResult
from frozenseg.serve.jobs import FORMATS, Answer
from frozenseg.structures import InstanceResult, Segment


def answer_of(
    result: SegmentationResult, tasks: tuple[str, ...], form: str, about: dict[str, Any]
) -> Answer:
    """Write a result in one of `FORMATS`. about: further fields of the JSON."""
    if form == "overlay":
        return Answer(png_bytes(result.draw()), FORMATS[form])
    if form == "png":
        ids = Image.fromarray(encode_panoptic(result.regions.ids))
        return Answer(png_bytes(ids), FORMATS[form])
    return Answer(json_text(_body(result, tasks, form == "map", about)).encode(), FORMATS[form])


def _body(
    result: SegmentationResult, tasks: tuple[str, ...], as_map: bool, about: dict[str, Any]
) -> dict[str, Any]:
    words = result.vocabulary
    height, width = result.image.shape[:2]
    parts = {"panoptic": _panoptic, "semantic": _semantic}
    objects = result.instances if "instances" in tasks else None
    return {
        "width": width,
        "height": height,
        "note": result.note,
        **about,
        "classes": [
            {"id": index, "names": list(names), "is_thing": thing}
            for index, (names, thing) in enumerate(zip(words.names, words.is_thing, strict=True))
        ],
        **{task: part(result, as_map) if task in tasks else None for task, part in parts.items()},
        "instances": None if objects is None else _instances(objects),
    }


def _panoptic(result: SegmentationResult, as_map: bool) -> dict[str, Any] | None:
    if result.panoptic is None:
        return None
    ids, segments = result.panoptic.ids, result.panoptic.segments
    rows = [_segment(segment) for segment in segments]
    if as_map:
        return {"ids": _map(ids), "segments": rows}
    for row, segment in zip(rows, segments, strict=True):
        row["segmentation"] = encode_masks((ids == segment.id)[None])[0]
    return {"segments": rows}


def _semantic(result: SegmentationResult, as_map: bool) -> dict[str, Any] | None:
    classes = result.semantic
    if classes is None:
        return None
    areas = np.bincount(classes[classes >= 0], minlength=len(result.vocabulary))
    present = np.flatnonzero(areas).tolist()
    names = result.vocabulary.labels
    rows: list[dict[str, Any]] = [
        {"class_id": index, "name": names[index], "area": int(areas[index])} for index in present
    ]
    if as_map:
        return {"ids": _map(classes + 1), "classes": rows}
    for row in rows:
        row["segmentation"] = encode_masks((classes == row["class_id"])[None])[0]
    return {"classes": rows}


def _instances(instances: InstanceResult) -> list[dict[str, Any]]:
    return [
        {
            "class_id": int(class_id),
            "name": name,
            "score": float(score),
            "area": int(mask.sum()),
            "box": [float(side) for side in box],
            "segmentation": encode_masks(mask[None])[0],
        }
        for class_id, name, score, mask, box in zip(
            instances.class_ids,
            instances.names,
            instances.scores,
            instances.masks,
            instances.boxes,
            strict=True,
        )
    ]


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "id": int(segment.id),
        "class_id": int(segment.class_id),
        "name": segment.name,
        "is_thing": bool(segment.is_thing),
        "score": None if math.isnan(segment.score) else float(segment.score),
        "area": int(segment.area),
        "box": [int(side) for side in segment.box],
    }


def _map(ids: np.ndarray) -> str:
    return base64.b64encode(png_bytes(Image.fromarray(encode_panoptic(ids)))).decode()
