"""Convert a result to the formats of Transformers, supervision and detectron2.

Arrays are copied, because programs often change them in place.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from frozenseg.errors import import_package
from frozenseg.structures import InstanceResult, PanopticResult

DETECTRON2 = "--no-build-isolation git+https://github.com/facebookresearch/detectron2"


def transformers_dict(found: PanopticResult) -> dict[str, Any]:
    """Return the format of Transformers' `post_process_panoptic_segmentation` for one image."""
    segments = [
        {
            "id": segment.id,
            "label_id": segment.class_id,
            "was_fused": not segment.is_thing,
            "score": None if np.isnan(segment.score) else round(segment.score, 6),
        }
        for segment in found.segments
    ]
    return {"segmentation": torch.tensor(found.ids), "segments_info": segments}


def supervision_detections(objects: InstanceResult) -> Any:
    """Return `supervision.Detections`, with the class names in `data["class_name"]`."""
    supervision = import_package("supervision", "to_supervision")
    scored = not np.isnan(objects.scores).any()
    return supervision.Detections(
        xyxy=objects.boxes.copy(),
        mask=objects.masks.copy(),
        confidence=objects.scores.copy() if scored else None,
        class_id=objects.class_ids.copy(),
        data={"class_name": np.array(objects.names, dtype=str)},
    )


def detectron2_output(
    panoptic: PanopticResult | None,
    instances: InstanceResult | None,
    size: tuple[int, int],
    thing_ids: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Return the output of a detectron2 model for one image.

    size: (height, width). thing_ids: {class id: detectron2's number} of the classes that are things
    in detectron2; None: the things are those of the vocabulary, and the numbers are the class ids.
    """
    numbers = thing_ids or {}
    output: dict[str, Any] = {}
    if panoptic is not None:
        infos = [
            {
                "id": segment.id,
                "isthing": segment.is_thing if thing_ids is None else segment.class_id in numbers,
                "category_id": numbers.get(segment.class_id, segment.class_id),
                "score": segment.score,
                "area": segment.area,
            }
            for segment in panoptic.segments
        ]
        output["panoptic_seg"] = torch.tensor(panoptic.ids), infos
    if instances is not None:
        host = import_package("detectron2.structures", "to_detectron2", DETECTRON2)
        class_ids = [numbers.get(class_id, class_id) for class_id in instances.class_ids.tolist()]
        output["instances"] = host.Instances(
            size,
            pred_boxes=host.Boxes(torch.tensor(instances.boxes)),
            scores=torch.tensor(instances.scores),
            pred_classes=torch.tensor(class_ids, dtype=torch.int64),
            pred_masks=torch.tensor(instances.masks),
        )
    return output
