"""Turn records into samples; masks are cut out of label maps in the worker processes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.data.annotations import LABELS, LabelMaps, load_image
from frozenseg.data.records import Categories, Record
from frozenseg.data.transforms import Transform, image_tensor, seeded_generator
from frozenseg.errors import UserError
from frozenseg.structures import Targets

# The first number of a key keeps the streams of random numbers that share a seed apart.
SAMPLE_STREAM, ORDER_STREAM = 0, 1


class SampleIndex(NamedTuple):
    """A request for a training sample: `position` counts the draws of the whole run from 0."""

    position: int
    item: int


@dataclass
class Sample:
    """One image in the form that a model receives.

    image: (3, H, W) uint8 RGB, transformed.
    height, width: the size of the image in pixels before the transform.
    record: where the image and its annotation come from.
    targets: (N, H, W) masks and their classes for training, else None.
    unpadded_size: (height, width) of the picture at the top left of `image`; the rest is padding.
        None if there is no padding.
    """

    image: Tensor
    height: int
    width: int
    record: Record
    targets: Targets | None = None
    unpadded_size: tuple[int, int] | None = None

    def pin_memory(self) -> "Sample":
        """Return a copy of the sample in page-locked memory; `DataLoader` calls this method."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return replace(self, image=self.image.pin_memory(), targets=targets)


@dataclass(kw_only=True, eq=False)
class SegmentationDataset(Dataset[Sample]):
    """A dataset with one sample for each record of a list.

    The random augmentation of a sample depends only on (seed, position, item), so neither the
    number of workers nor resuming a run changes it. With `fixed_views` it depends only on the item,
    which is the place of the record in the list, and on the number of the view.

    records: the images, one sample each.
    categories: the classes of the records.
    transform: resizes or crops an image together with its label maps.
    targets: the annotation that becomes masks ("panoptic", "semantic" or "instances"); None for
        testing, where evaluators read the annotation of `sample.record` themselves.
    keep_empty: whether an object of which the transform leaves no pixel stays among the targets.
    seed: the seed of all random numbers except those of fixed views, which are the same in all
        runs with the same records in the same order.
    fixed_views: the number of different views of each image; successive epochs show them in turn.
        None: every draw makes a new view.
    unnamed: a function that finds regions that are not annotated, which become targets without a
        class. It takes a record, its image (H, W, 3) and a map (H, W) bool of the annotated pixels,
        those of crowd regions included, and returns a map (H, W) of region numbers, 0 where there
        is no region. None: there are no such targets.
    """

    records: list[Record]
    categories: Categories
    transform: Transform
    targets: Literal["panoptic", "semantic", "instances"] | None
    keep_empty: bool = True
    seed: int = 0
    fixed_views: int | None = None
    unnamed: Callable[[Record, np.ndarray, np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, request: SampleIndex | int) -> Sample:
        draw = request if isinstance(request, SampleIndex) else SampleIndex(0, request)
        record = self.records[draw.item]
        generator = self._generator(draw)
        image = load_image(record)
        height, width = image.shape[:2]
        _check_size(record, height, width)
        # Label maps are checked against the size of the image.
        record = replace(record, height=height, width=width)
        if self.targets is None:
            image, _ = self.transform(image, np.zeros((0, height, width), np.uint8), generator)
            return Sample(image_tensor(image), height, width, record)
        labels = LABELS[self.targets](record)
        # A map of ones is transformed as well: it is then 1 inside the picture, 0 in the padding.
        further = [np.ones((height, width), np.uint8)]
        if self.unnamed is not None:
            nothing = np.zeros((height, width), bool)
            annotated = reduce(np.logical_or, chain(labels.maps, labels.crowds), nothing)
            further.append(self.unnamed(record, image, annotated))
        image, planes = self.transform(image, chain(labels.maps, further), generator)
        maps = len(labels.maps)
        labels.maps, inside = planes[:maps], planes[maps]
        unpadded_size = int(inside[:, 0].sum()), int(inside[0].sum())
        targets = cut_masks(labels, keep_empty=self.keep_empty)
        if self.unnamed is not None:
            numbers = np.unique(planes[-1])
            masks = planes[-1] == numbers[numbers > 0][:, None, None]
            targets = targets.with_unnamed(torch.from_numpy(masks))
        return Sample(image_tensor(image), height, width, record, targets, unpadded_size)

    def _generator(self, draw: SampleIndex) -> np.random.Generator:
        """Return the random generator of the view that a draw shows."""
        if self.fixed_views is None:
            return seeded_generator(self.seed, SAMPLE_STREAM, draw.position, draw.item)
        epoch = draw.position // len(self)
        return seeded_generator(0, SAMPLE_STREAM, epoch % self.fixed_views, draw.item)


def cut_masks(labels: LabelMaps, *, keep_empty: bool) -> Targets:
    """Cut out the masks (N, H, W) of all objects; keep empty ones only if `keep_empty`."""
    maps = np.asarray(labels.maps)
    dtype = maps.dtype
    masks = maps == labels.values.astype(dtype)[:, None, None]
    # The value of an object without a pixel may be too large for the data type of the maps, where
    # it would wrap around to the value of another object.
    masks &= (labels.values <= np.iinfo(dtype).max)[:, None, None]
    kept = masks.any(axis=(1, 2)) | keep_empty
    return Targets(
        class_ids=torch.from_numpy(labels.class_ids[kept].astype(np.int64)),
        masks=torch.from_numpy(masks[kept]),
        labelled=torch.from_numpy(maps[0] != 0) if labels.has_background else None,
    )


def _check_size(record: Record, height: int, width: int) -> None:
    if record.height is not None and (record.height, record.width) != (height, width):
        raise UserError(
            f"{record.image_path}: is {height} x {width} (height x width), but its annotation says "
            f"{record.height} x {record.width}; is it another version of the image, or was it "
            "rotated (EXIF)?"
        )
