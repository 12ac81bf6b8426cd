"""Read the results of an earlier run of `frozenseg demo` from its prediction lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frozenseg.data.coco_records import segment_of
from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.data.results import panoptic_path
from frozenseg.structures import PanopticResult
from frozenseg.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from frozenseg.results.result import SegmentationResult


def stored_result(
    line: Mapping[str, Any], pixels: np.ndarray, *, output: Path, vocabulary: Vocabulary
) -> "SegmentationResult":
    """Return the panoptic result of an image or a frame.

    line: its prediction line. pixels: the image, (H, W, 3) uint8 RGB. output: the folder of the
    run. Raises `UserError` if the PNG cannot be read or has another size than the image.
    """
    # Imported only now, because importing torch takes seconds.
    from frozenseg.results.result import SegmentationResult

    found = line["panoptic"]
    height, width = pixels.shape[:2]
    ids = read_panoptic_ids(panoptic_path(output, found["file_name"]), (height, width))
    segments = [
        segment_of(row, vocabulary.labels[row["category_id"] - 1]) for row in found["segments_info"]
    ]
    regions = PanopticResult(ids, segments)
    return SegmentationResult(pixels, vocabulary, regions, None, None, line["note"])
