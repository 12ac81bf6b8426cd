"""One result as COCO JSON: a panoptic document and an instance document."""

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frozenseg.data.coco_records import categories_of, instance_records, segment_record
from frozenseg.errors import UserValueError
from frozenseg.text.names import shown

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult


def coco_documents(
    result: "SegmentationResult", image_id: int, panoptic_file: str
) -> dict[str, dict[str, Any]]:
    """Return {"panoptic": document, "instances": document}; see `SegmentationResult.to_coco`.

    image_id: the id of the image in both documents. panoptic_file: the name of the PNG of ids.
    """
    height, width = result.image.shape[:2]
    try:
        image_id = operator.index(image_id)  # integers of numpy are none of JSON's types
    except TypeError:
        raise UserValueError(f"image_id {shown(image_id)}: must be a whole number") from None
    image = {
        "id": image_id,
        "file_name": Path(result.file_name or "image.png").name,
        "height": height,
        "width": width,
    }
    vocabulary = result.vocabulary
    head = {
        "info": {"description": "predictions of frozenseg", "note": result.note},
        "images": [image],
        "categories": categories_of(vocabulary.names, vocabulary.is_thing),
    }
    segments = {
        "image_id": image_id,
        "file_name": panoptic_file,
        "segments_info": [segment_record(segment) for segment in result.regions.segments],
    }
    records = [] if result.instances is None else instance_records(result.instances)
    objects = [
        {"id": number, "image_id": image_id, **record} for number, record in enumerate(records, 1)
    ]
    return {
        "panoptic": {**head, "annotations": [segments]},
        "instances": {**head, "annotations": objects},
    }
