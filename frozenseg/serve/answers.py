"""Encode a result as the body of an answer: JSON, a PNG of ids, or a picture."""

import base64
import math

import numpy as np
from PIL import Image

from frozenseg.data.results import encode_panoptic, png_bytes
from frozenseg.data.rle import Rle, encode_ids, encode_masks
from frozenseg.files import json_text
from frozenseg.results.result import SegmentationResult
from frozenseg.serve.bodies import (
    InstanceBody,
    PanopticBody,
    RunLengths,
    SegmentationBody,
    SegmentBody,
    SemanticBody,
    SemanticClass,
)
from frozenseg.serve.jobs import FORMATS, Answer
from frozenseg.structures import InstanceResult, Segment


def answer_of(
    result: SegmentationResult, tasks: tuple[str, ...], form: str, model: str, seconds: float
) -> Answer:
    """Encode a result in one of `FORMATS`.

    model, seconds: the model's name and the time that it took, which the JSON reports.
    """
    if form == "overlay":
        return Answer(png_bytes(result.draw()), FORMATS[form])
    if form == "png":
        return Answer(_ids_png(result.regions.ids), FORMATS[form])
    body = _body(result, tasks, form == "map", model, seconds)
    return Answer(json_text(body).encode(), FORMATS[form])


def _body(
    result: SegmentationResult, tasks: tuple[str, ...], as_map: bool, model: str, seconds: float
) -> SegmentationBody:
    words = result.vocabulary
    height, width = result.image.shape[:2]
    objects = result.instances if "instances" in tasks else None
    return {
        "width": width,
        "height": height,
        "note": result.note,
        "model": model,
        "seconds": seconds,
        "classes": [
            {"id": index, "names": list(names), "is_thing": thing}
            for index, (names, thing) in enumerate(zip(words.names, words.is_thing, strict=True))
        ],
        "panoptic": _panoptic(result, as_map) if "panoptic" in tasks else None,
        "semantic": _semantic(result, as_map) if "semantic" in tasks else None,
        "instances": None if objects is None else _instances(objects),
    }


def _panoptic(result: SegmentationResult, as_map: bool) -> PanopticBody | None:
    if result.panoptic is None:
        return None
    ids, segments = result.panoptic.ids, result.panoptic.segments
    rows = [_segment(segment) for segment in segments]
    if as_map:
        return {"ids": _map(ids), "segments": rows}
    for row, code in zip(rows, encode_ids(ids, [row["id"] for row in rows]), strict=True):
        row["segmentation"] = _runs(code)
    return {"segments": rows}


def _semantic(result: SegmentationResult, as_map: bool) -> SemanticBody | None:
    classes = result.semantic
    if classes is None:
        return None
    areas = np.bincount(classes[classes >= 0], minlength=len(result.vocabulary))
    names = result.vocabulary.labels
    rows: list[SemanticClass] = [
        {"class_id": index, "name": names[index], "area": int(areas[index])}
        for index in np.flatnonzero(areas).tolist()
    ]
    if as_map:
        return {"ids": _map(classes + 1), "classes": rows}
    for row, code in zip(rows, encode_ids(classes, [row["class_id"] for row in rows]), strict=True):
        row["segmentation"] = _runs(code)
    return {"classes": rows}


def _instances(instances: InstanceResult) -> list[InstanceBody]:
    return [
        {
            "class_id": int(class_id),
            "name": name,
            "score": float(score),
            "area": int(mask.sum()),
            "box": [float(side) for side in box],
            "segmentation": _runs(encode_masks(mask[None])[0]),
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


def _segment(segment: Segment) -> SegmentBody:
    return {
        "id": int(segment.id),
        "class_id": int(segment.class_id),
        "name": segment.name,
        "is_thing": bool(segment.is_thing),
        "score": None if math.isnan(segment.score) else float(segment.score),
        "area": int(segment.area),
        "box": [int(side) for side in segment.box],
    }


def _runs(code: Rle) -> RunLengths:
    return {"size": code["size"], "counts": code["counts"]}


def _map(ids: np.ndarray) -> str:
    return base64.b64encode(_ids_png(ids)).decode()


def _ids_png(ids: np.ndarray) -> bytes:
    return png_bytes(Image.fromarray(encode_panoptic(ids)))
