"""One dataset class for every benchmark: records -> samples, masks cut out in worker processes."""

from dataclasses import dataclass, replace
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

# streams of random numbers that share a seed are kept apart by the first number of their key
SAMPLE_STREAM, ORDER_STREAM = 0, 1


class SampleIndex(NamedTuple):
    """A request for a training sample: `position` counts the draws of the whole run from 0."""

    position: int
    item: int


@dataclass
class Sample:
    """One image as a model meets it.

    image: (3, H, W) uint8 RGB, transformed.
    height, width: pixels of the image before the transform.
    record: where the image and its annotation come from.
    targets: (N, H, W) masks and their classes for training, else None.
    unpadded_size: (height, width) of the picture at the top left of `image`; the rest is padding.
        None: there is no padding.
    """

    image: Tensor
    height: int
    width: int
    record: Record
    targets: Targets | None = None
    unpadded_size: tuple[int, int] | None = None

    def pin_memory(self) -> "Sample":
        """The same in page-locked memory; `DataLoader` calls it."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return replace(self, image=self.image.pin_memory(), targets=targets)


class SegmentationDataset(Dataset[Sample]):
    """Samples of a list of records.

    targets: the annotation that becomes masks ("panoptic", "semantic" or "instances"), None for
    testing: evaluators load the truth of `sample.record` with `frozenseg.data.annotations`.
    keep_empty: objects of which the transform leaves nothing stay targets (`cut_masks`).

    The random part of a sample depends on (seed, draw position, item) alone: neither the number of
    workers nor a resumed run changes it.
    """

    def __init__(
        self,
        *,
        records: list[Record],
        categories: Categories,
        transform: Transform,
        targets: Literal["panoptic", "semantic", "instances"] | None,
        keep_empty: bool = True,
        seed: int = 0,
    ) -> None:
        self.records = records
        self.categories = categories
        self.transform = transform
        self.targets = targets
        self.keep_empty = keep_empty
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, request: SampleIndex | int) -> Sample:
        draw = request if isinstance(request, SampleIndex) else SampleIndex(0, request)
        record = self.records[draw.item]
        generator = seeded_generator(self.seed, SAMPLE_STREAM, draw.position, draw.item)
        image = load_image(record)
        height, width = image.shape[:2]
        _check_size(record, height, width)
        if self.targets is None:
            image, _ = self.transform(image, np.zeros((0, height, width), np.uint8), generator)
            return Sample(image_tensor(image), height, width, record)
        labels = LABELS[self.targets](record)
        _check_labels(record, labels, height, width)
        # A plane of ones travels along: where it is left is picture, where it is zero padding.
        planes = np.concatenate([labels.maps, np.ones((1, height, width), labels.maps.dtype)])
        image, planes = self.transform(image, planes, generator)
        labels.maps, inside = planes[:-1], planes[-1]
        unpadded_size = int(inside[:, 0].sum()), int(inside[0].sum())
        targets = cut_masks(labels, keep_empty=self.keep_empty)
        return Sample(image_tensor(image), height, width, record, targets, unpadded_size)


def cut_masks(labels: LabelMaps, *, keep_empty: bool) -> Targets:
    """The (N, H, W) masks of all objects; of those without a pixel only if `keep_empty`."""
    dtype = labels.maps.dtype
    masks = labels.maps == labels.values.astype(dtype)[:, None, None]
    # An object of which the map never had a pixel may have a value that is too large for its type,
    # and so would be another's.
    masks &= (labels.values <= np.iinfo(dtype).max)[:, None, None]
    kept = masks.any(axis=(1, 2)) | keep_empty
    return Targets(
        class_ids=torch.from_numpy(labels.class_ids[kept].astype(np.int64)),
        masks=torch.from_numpy(masks[kept]),
        labelled=torch.from_numpy(labels.maps[0] != 0) if labels.has_background else None,
    )


def _check_size(record: Record, height: int, width: int) -> None:
    if record.height is not None and (record.height, record.width) != (height, width):
        raise UserError(
            f"{record.image_path}: is {height} x {width} (height x width), but its annotation says "
            f"{record.height} x {record.width}; is it another version of the image, or one that "
            "was turned (EXIF)?"
        )


def _check_labels(record: Record, labels: LabelMaps, height: int, width: int) -> None:
    if labels.maps.shape[1:] != (height, width):
        raise UserError(
            f"{record.semantic_path or record.panoptic_path}: is {labels.maps.shape[1]} x "
            f"{labels.maps.shape[2]} (height x width), but its image {record.image_path} is "
            f"{height} x {width}; make it again in the size of the image"
        )
