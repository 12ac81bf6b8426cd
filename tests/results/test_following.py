"""Results are reused for frames that hardly differ, and for no others."""

from collections.abc import Iterator

import numpy as np

from frozenseg.results.following import follow
from frozenseg.results.result import SegmentationResult
from frozenseg.structures import PanopticResult
from frozenseg.text.vocabulary import Vocabulary

WORDS = Vocabulary.parse("wall")


def _segment(frames: Iterator[np.ndarray]) -> Iterator[SegmentationResult]:
    for frame in frames:
        nothing = PanopticResult(np.zeros(frame.shape[:2], np.int32), [])
        yield SegmentationResult(frame, WORDS, nothing, None, None, None)


def test_a_frame_of_another_size_has_a_result_of_its_own() -> None:
    sizes = [(60, 80), (60, 80), (90, 50), (90, 50), (60, 80)]
    frames = [np.full((*size, 3), 120, np.uint8) for size in sizes]
    results = list(follow(_segment, frames, tracker=None, still=5.0))
    assert [result.image.shape[:2] for result in results] == sizes
    assert [result.panoptic.ids.shape for result in results] == sizes
    kept = [result.panoptic for result in results]
    assert kept[0] is kept[1] and kept[2] is kept[3] and kept[4] is not kept[0]
    assert all(np.asarray(result.draw(legend=False)).size for result in results)
