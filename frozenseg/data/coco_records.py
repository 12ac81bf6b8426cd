"""Convert results to the entries of COCO JSON: categories, panoptic segments, instances."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from frozenseg.data.rle import encode_ids, encode_masks
from frozenseg.structures import InstanceResult, PanopticResult, Segment


def categories_of(
    names: Sequence[tuple[str, ...]], is_thing: Sequence[bool]
) -> list[dict[str, Any]]:
    """Return the categories of a vocabulary.

    The id of a category is its position in the vocabulary plus 1, because COCO tools read 0 as "no
    class"; its name is the first synonym.
    """
    return [
        {"id": index + 1, "name": synonyms[0], "isthing": int(thing), "synonyms": [*synonyms]}
        for index, (synonyms, thing) in enumerate(zip(names, is_thing, strict=True))
    ]


def segment_record(segment: Segment) -> dict[str, Any]:
    """Return an entry of `segments_info`; regions of a semantic result have no score (NaN)."""
    scored = {} if math.isnan(segment.score) else {"score": float(segment.score)}
    return {
        "id": int(segment.id),
        "category_id": int(segment.class_id) + 1,
        "area": int(segment.area),
        "bbox": _corner_and_size([int(side) for side in segment.box]),
        **scored,
        "isthing": int(segment.is_thing),
        "iscrowd": 0,
        **({} if segment.track_id is None else {"track_id": segment.track_id}),
    }


def track_records(found: PanopticResult) -> list[dict[str, Any]]:
    """Return the tracked things of a frame: identity, category, score and mask."""
    things = [s for s in found.segments if s.is_thing and s.track_id is not None]
    codes = encode_ids(found.ids, [segment.id for segment in things])
    return [
        {
            "track_id": segment.track_id,
            "category_id": segment.class_id + 1,
            "score": segment.score,
            "segmentation": code,
        }
        for segment, code in zip(things, codes, strict=True)
    ]


def segment_of(record: dict[str, Any], name: str) -> Segment:
    """Return the segment that `segment_record` has converted. name: the name of its class."""
    x0, y0, width, height = record["bbox"]
    return Segment(
        id=record["id"],
        class_id=record["category_id"] - 1,
        name=name,
        is_thing=bool(record["isthing"]),
        score=record.get("score", math.nan),
        area=record["area"],
        box=(x0, y0, x0 + width, y0 + height),
        track_id=record.get("track_id"),
    )


def instance_records(instances: InstanceResult) -> list[dict[str, Any]]:
    """Return the annotations of the objects that have a pixel, without "id" and "image_id"."""
    areas = np.count_nonzero(instances.masks, (1, 2))
    kept = np.flatnonzero(areas)
    if not len(kept):
        return []
    rows = zip(
        instances.class_ids[kept].tolist(),
        instances.boxes[kept].tolist(),
        areas[kept].tolist(),
        encode_masks(instances.masks[kept]),
        instances.scores[kept].tolist(),
        strict=True,
    )
    return [
        {
            "category_id": class_id + 1,
            "bbox": _corner_and_size(box),
            "area": area,
            "segmentation": code,
            "iscrowd": 0,
            "score": score,
        }
        for class_id, box, area, code, score in rows
    ]


def _corner_and_size(box: list[Any]) -> list[Any]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]
