"""Video panoptic quality (Kim et al., Video Panoptic Segmentation, 2020)."""

from collections.abc import Sequence

import numpy as np

from frozenseg.evaluation.panoptic import PanopticQuality
from frozenseg.evaluation.tubes import Tubes

WINDOWS = (1, 2, 4, 6)  # frames, as VIPSeg has them (Miao et al., 2022)


class VideoPanopticQuality:
    """VPQ: panoptic quality of segments over k frames, the mean over several k.

    A window of k frames slides over each video by one frame at a time. In it the segments of one
    identity are one tube, and the tubes are matched as segments are in panoptic quality: the same
    class, and an IoU above 0.5 over all pixels of the window. Matches and misses of all windows of
    all videos are added up, so VPQ of a k is a mean over the classes that occur. A video that is
    shorter than k has one window.
    """

    def __init__(self, is_thing: Sequence[bool], windows: Sequence[int] = WINDOWS) -> None:
        """is_thing: of each class. windows: k, in frames."""
        categories = [{"id": n, "isthing": int(thing)} for n, thing in enumerate(is_thing)]
        self.metrics = {k: PanopticQuality(categories=categories) for k in windows}

    def add(self, name: str, found: Tubes, truth: Tubes) -> None:
        """Count a video. name: one that no other video has."""
        length, _, width = truth.ids.shape
        for k, metric in self.metrics.items():
            for first in range(max(1, length - k + 1)):
                part = slice(first, first + k)
                # Frames below each other are one image, in which a tube is a segment.
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
    present = np.unique(image[image > 0]).tolist()
    return [{"id": number, "category_id": tubes.classes[number]} for number in present]
