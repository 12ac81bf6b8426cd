"""Video panoptic quality (Kim et al., Video Panoptic Segmentation, 2020)."""

from collections.abc import Sequence

import numpy as np

from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.tubes import Tubes

WINDOWS = (1, 2, 4, 6)  # numbers of frames, as for VIPSeg (Miao et al., 2022)


class VideoPanopticQuality:
    """VPQ: the panoptic quality of tubes of k frames, averaged over several k.

    A window of k frames slides over each video by one frame at a time. In a window, the segments of
    one identity are one tube, and tubes are matched like segments in panoptic quality: they have
    the same class, and an IoU above 0.5 over all pixels of the window. Matches and misses are
    summed over all windows of all videos, and VPQ for one k is the mean over the classes that
    occur. A video that is shorter than k has one window. True crowd tubes never count as missed.
    """

    def __init__(self, is_thing: Sequence[bool], windows: Sequence[int] = WINDOWS) -> None:
        """is_thing: whether each class is a thing. windows: the values of k, in frames."""
        categories = [{"id": n, "isthing": int(thing)} for n, thing in enumerate(is_thing)]
        self.metrics = {k: PanopticQuality(categories=categories) for k in windows}

    def add(self, name: str, found: Tubes, truth: Tubes) -> None:
        """Count a video. name: its unique name."""
        length, _, width = truth.ids.shape
        for k, metric in self.metrics.items():
            for first in range(max(1, length - k + 1)):
                part = slice(first, first + k)
                # The frames are stacked vertically into one image, in which a tube is a segment.
                pairs = [(tubes.ids[part].reshape(-1, width), tubes) for tubes in (found, truth)]
                (ids, segments), (true_ids, true_segments) = (
                    (image, _segments(image, tubes)) for image, tubes in pairs
                )
                metric.update(f"{name}:{first}", ids, segments, true_ids, true_segments)

    def scores(self) -> dict[str, float]:
        """Return {"VPQ", "VPQ-things", "VPQ-stuff", "VPQ 1", ...}, as fractions."""
        found = {k: metric.compute() for k, metric in self.metrics.items()}
        groups = {"VPQ": "All", "VPQ-things": "Things", "VPQ-stuff": "Stuff"}
        means = {
            name: float(np.mean([scores[group]["pq"] for scores in found.values()]))
            for name, group in groups.items()
        }
        return means | {f"VPQ {k}": scores["All"]["pq"] for k, scores in found.items()}


def _segments(image: np.ndarray, tubes: Tubes) -> list[dict[str, int]]:
    return [
        {
            "id": number,
            "category_id": tubes.classes[number],
            "iscrowd": int(number in tubes.crowds),
        }
        for number in np.unique(image[image > 0]).tolist()
    ]
