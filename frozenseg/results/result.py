"""The result of one image."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from frozenseg.drawing.visualize import draw_segments
from frozenseg.errors import UserError
from frozenseg.inference.regions import class_regions
from frozenseg.results.selection import (
    checked_threshold,
    classes_named,
    has_pixels,
    keep_instances,
    keep_segments,
)
from frozenseg.results.summary import summary
from frozenseg.structures import InstanceResult, PanopticResult
from frozenseg.text.vocabulary import Source, Vocabulary


@dataclass(repr=False)
class SegmentationResult:
    """The result for one image. A task that is switched off is None.

    image: (H, W, 3) uint8 RGB, as read.
    vocabulary: the queried classes, which class ids index.
    panoptic: ids (H, W) and segments, see `frozenseg.structures`.
    semantic: (H, W) class ids, -1 for none.
    instances: masks, boxes, scores and names, see `frozenseg.structures`. None has an empty mask.
    note: a warning that belongs on every picture, e.g. that weights are random; else None.
    file_name: of the image, where it was read from a file; else None.
    seconds: the time that the image took; in a batch or stream, the mean of the images so far.

    Example:
        >>> with frozenseg.load("small", device="cpu") as segmenter:
        ...     result = segmenter("street.png", vocabulary=["car, truck", "road"])
        >>> {segment.name for segment in result.panoptic.segments} <= {"car", "road"}
        True
        >>> result.draw().save("drawn.png")
    """

    image: np.ndarray
    vocabulary: Vocabulary
    panoptic: PanopticResult | None
    semantic: np.ndarray | None
    instances: InstanceResult | None
    note: str | None = None
    file_name: str | None = None
    seconds: float | None = None

    def __len__(self) -> int:
        """The number of `regions`."""
        return len(self.regions.segments)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return f"<SegmentationResult {width} x {height}: {self.summary()}>"

    def summary(self) -> str:
        """Say in one line what was found and how long it took, e.g. "2 dogs, 1 sky; 31 ms"."""
        return summary((segment.name for segment in self.regions.segments), self.seconds)

    def draw(self, *, legend: bool = True, opacity: float = 0.5) -> Image.Image:
        """Draw `regions` over the image, with a legend. opacity: of the colours, 0 to 1."""
        found = self.regions
        return draw_segments(self.image, found.ids, found.segments, legend, opacity, self.note)

    @cached_property
    def regions(self) -> PanopticResult:
        """The panoptic result; without one (Fusioner), a region for each class that `semantic` has.

        Raises `UserError` where both are switched off.
        """
        if self.panoptic is not None:
            return self.panoptic
        if self.semantic is None:
            raise UserError(
                "nothing to draw: panoptic and semantic results are switched off; switch one on"
            )
        return class_regions(self.semantic, self.vocabulary.labels)

    def filter(
        self, *, threshold: float = 0.0, names: Source | None = None
    ) -> "SegmentationResult":
        """Return a copy without what is not wanted; what is kept keeps its ids and its order.

        threshold: the least score of segments and instances, 0-1; `semantic` has no scores.
        names: keep only the classes that have one of these names, in the forms of
            `Vocabulary.parse`; the pixels of others become 0 in panoptic ids and -1 in `semantic`.

        Raises `UserError` for a name that no class has.
        """
        least = checked_threshold(threshold)
        every = range(len(self.vocabulary))
        classes = set(every) if names is None else classes_named(self.vocabulary, names)
        panoptic, semantic, instances = self.panoptic, self.semantic, self.instances
        if panoptic is not None:
            segments = panoptic.segments
            panoptic = keep_segments(
                panoptic, (s for s in segments if s.score >= least and s.class_id in classes)
            )
        if semantic is not None and names is not None:
            semantic = np.where(np.isin(semantic, list(classes)), semantic, -1).astype(np.int32)
        if instances is not None:
            kept = has_pixels(instances) & (instances.scores >= least)
            kept &= np.isin(instances.class_ids, list(classes))
            instances = keep_instances(instances, kept)
        return replace(self, panoptic=panoptic, semantic=semantic, instances=instances)
