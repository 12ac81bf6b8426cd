"""Records: what is known of the images of a dataset before any pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Categories:
    """The classes of a dataset; a class id is a position in these tuples.

    dataset_ids: the ids that the annotation files use, ascending (COCO's have gaps: 1-200 for 133).
    """

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    dataset_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def class_ids(self) -> dict[int, int]:
        """Dataset id -> class id."""
        return {dataset_id: index for index, dataset_id in enumerate(self.dataset_ids)}

    def select(self, classes: Sequence[int]) -> "Categories":
        """Select these classes alone, in this order."""
        return Categories(
            names=tuple(self.names[i] for i in classes),
            is_thing=tuple(self.is_thing[i] for i in classes),
            dataset_ids=tuple(self.dataset_ids[i] for i in classes),
        )


@dataclass(frozen=True)
class Segments:
    """The segments of one panoptic PNG, as its JSON lists them.

    ids: (N,) int32, values in the decoded PNG. class_ids: (N,) int32. is_crowd: (N,) bool.
    Arrays, not a list of objects: COCO's training set has 1.3 million segments.
    """

    ids: np.ndarray
    class_ids: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Instances:
    """The objects of one image of a COCO or LVIS instance JSON; they may overlap.

    segmentations: N, as `checked_segmentation` returns them. class_ids: (N,) int32. is_crowd: (N,)
    bool.
    """

    segmentations: list[Any]
    class_ids: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.segmentations)


@dataclass(frozen=True)
class Record:
    """One image of a dataset and where its annotation lies; what a dataset lacks is None.

    image_id: as the annotation names it; the name without suffix where there are only files.
    image_path: the image file.
    height, width: pixels as the annotation states them; None where it does not, or not reliably.
    num_classes: class ids in the annotation lie below it.
    panoptic_path: a panoptic PNG, whose segments are `segments`.
    semantic_path: a label map of class ids.
    semantic_ignore: its value where a pixel is unlabelled.
    instances: objects of an instance JSON.
    semantic_background: its value where a pixel is labelled, but of no class; -1: there is none.
    classes: the selected class ids, in the order of the class ids that come out; all others become
        background. None: all classes, as they are.
    scored: the selected classes for which the image is scored with oracle presence, see
        `frozenseg.data.benchmarks.scored_pairs`. None: all that its annotation holds.
    present: the selected classes that the image holds. None: only its label map tells.
    asked: the class of a pair of image and class, see `training_pairs`. None: this is no pair.
    """

    image_id: int | str
    image_path: str
    height: int | None
    width: int | None
    num_classes: int
    panoptic_path: str | None = None
    segments: Segments | None = None
    semantic_path: str | None = None
    semantic_ignore: int = 255
    instances: Instances | None = None
    semantic_background: int = -1
    classes: tuple[int, ...] | None = None
    scored: tuple[int, ...] | None = None
    present: tuple[int, ...] | None = None
    asked: int | None = None

    @property
    def pictures(self) -> list[Path]:
        """The files of the image, its panoptic PNG and its label map, of those that it has."""
        paths = (self.image_path, self.panoptic_path, self.semantic_path)
        return [Path(path) for path in paths if path is not None]
