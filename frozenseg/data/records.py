"""Records: what is known about the images of a dataset before any pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Categories:
    """The classes of a dataset; a class id is a position in these tuples.

    dataset_ids: the ids that the annotation files use, ascending. They may have gaps: COCO numbers
        its 133 classes from 1 to 200.
    """

    names: tuple[str, ...]
    is_thing: tuple[bool, ...]
    dataset_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def class_ids(self) -> dict[int, int]:
        """The class id of each dataset id."""
        return {dataset_id: index for index, dataset_id in enumerate(self.dataset_ids)}

    def select(self, classes: Sequence[int]) -> "Categories":
        """Return only these classes, in this order. classes: class ids."""
        return Categories(
            names=tuple(self.names[i] for i in classes),
            is_thing=tuple(self.is_thing[i] for i in classes),
            dataset_ids=tuple(self.dataset_ids[i] for i in classes),
        )


@dataclass(frozen=True)
class Segments:
    """The segments of one panoptic PNG, as its JSON lists them.

    ids: (N,) int32, the values in the decoded PNG. class_ids: (N,) int32. is_crowd: (N,) bool.
    They are arrays rather than a list of objects because COCO's training set has 1.3 million
    segments.
    """

    ids: np.ndarray
    class_ids: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Instances:
    """The objects of one image of a COCO or LVIS instance JSON; they may overlap.

    segmentations: N masks, as `checked_segmentation` returns them. class_ids: (N,) int32.
    is_crowd: (N,) bool.
    """

    segmentations: list[Any]
    class_ids: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.segmentations)


@dataclass(frozen=True)
class Record:
    """One image of a dataset and where its annotation lies; what a dataset lacks is None.

    image_id: the id in the annotation, or the file name without suffix if no JSON lists the images.
    image_path: the image file.
    height, width: the size in pixels that the annotation states; None where it states none, or none
        that is reliable.
    num_classes: the number of classes; the class ids in the annotation lie below it.
    panoptic_path: a panoptic PNG, whose segments are `segments`.
    semantic_path: a label map of class ids.
    semantic_ignore: the value of unlabelled pixels in the label map.
    instances: the objects of an instance JSON.
    semantic_background: the value in the label map of pixels that are labelled as none of the
        classes; -1 if there is no such value.
    classes: the selected class ids; a position in this tuple is the new class id, and all other
        classes become background. None: all classes, with their own ids.
    scored: the selected classes for which the image is scored with oracle presence, see
        `frozenseg.data.benchmarks.scored_pairs`. None: all classes that its annotation holds.
    present: the selected classes that the image holds. None: this is known only from its label map.
    asked: the class, if the record is a pair of an image and a class, see `training_pairs`. None:
        it is not a pair.
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
        """The files of the image, its panoptic PNG and its label map, without those it lacks."""
        paths = (self.image_path, self.panoptic_path, self.semantic_path)
        return [Path(path) for path in paths if path is not None]
