"""The training loss of a global batch, whatever part of it a process sees in one pass.

A step's batch may be spread over processes and over several passes (gradient accumulation). Its
loss is that of one large batch: the divisors (number of objects, sum of class weights) are those of
the whole batch, and the random points of an image depend on the seed and the image's place in the
data alone. Two processes, or two passes, therefore equal one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from frozenseg.data.dataset import Sample
from frozenseg.data.transforms import seeded_generator
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.losses.pixel import pixel_losses
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import ImageBatch, MaskPredictions, Targets, TextEmbeddings

# beside SAMPLE_STREAM and ORDER_STREAM of `frozenseg.data.dataset`
POINT_STREAM, CLASS_STREAM = 2, 3

Forward = Callable[..., MaskPredictions]


class TrainingLoss(Protocol):
    """What the training loop needs of a loss; each model family has its own."""

    def count(self, samples: list[Sample]) -> tuple[float, ...]:
        """The share of these samples in the totals of the step: what its loss is divided by."""

    def __call__(
        self,
        forward: Callable[..., Any],
        samples: list[Sample],
        positions: list[int],
        totals: tuple[float, ...],
        *,
        device: torch.device,
        processes: int = 1,
    ) -> dict[str, Tensor]:
        """Unweighted losses of one pass, to be summed over the passes and averaged over the
        processes, as DistributedDataParallel does with gradients.

        forward: the network. positions: the place of each sample among all draws of the run.
        totals: the sums of `count` over all passes and processes of the step.
        """

    def weight(self, name: str) -> float:
        """The weight of a loss in the total."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that training minimises."""


class LossNormalizers(NamedTuple):
    """Of the global batch: objects annotated, and the sum of the class loss's weights over all
    queries of one output."""

    objects: float
    class_weight: float


class MaskClassificationLoss:
    """Class, mask and dice losses of samples against the training vocabulary."""

    def __init__(
        self,
        *,
        criterion: SetCriterion,
        text: TextEmbeddings,
        num_queries: int,
        size_divisor: int,
        seed: int,
        grey_padding: bool,
        cache: FeatureCache[Any] | None = None,
    ) -> None:
        """grey_padding: the encoders see the padding of a crop as it is painted, not as padding.
        cache: where what the frozen encoders make of an image is kept, if it is kept."""
        self.criterion = criterion
        self.text = text
        self.num_queries = num_queries
        self.size_divisor = size_divisor
        self.seed = seed
        self.grey_padding = grey_padding
        self.cache = cache

    def count(self, samples: list[Sample]) -> LossNormalizers:
        """The share of these samples in the totals of the step."""
        objects = [len(targets.class_ids) for targets in map(_targets, samples)]
        return LossNormalizers(float(sum(objects)), sum(map(self._class_weight, objects)))

    def _class_weight(self, objects: int) -> float:
        """The divisor of one image's class loss: matched queries weigh 1, the others little."""
        matched = min(objects, self.num_queries)
        return matched + (self.num_queries - matched) * self.criterion.no_object_weight

    def __call__(
        self,
        forward: Forward,
        samples: list[Sample],
        positions: list[int],
        totals: tuple[float, ...],
        *,
        device: torch.device,
        processes: int = 1,
    ) -> dict[str, Tensor]:
        """As `TrainingLoss`."""
        objects, class_weight = totals
        images = _images(samples, self.size_divisor, self.grey_padding)
        known = _known_features(self.cache, images, device)
        predictions = forward(images.to(device), self.text, True, **known)
        seeds = [point_seed(self.seed, position) for position in positions]
        try:
            return self.criterion(
                predictions,
                [_targets(sample) for sample in samples],
                num_masks=max(objects, 1.0) / processes,
                class_weight=class_weight / processes,
                seeds=torch.tensor(seeds),
            )
        except FloatingPointError as error:
            names = ", ".join(str(sample.record.image_id) for sample in samples)
            raise FloatingPointError(f"batch of images {names}: {error}") from None

    def weight(self, name: str) -> float:
        return self.criterion.weight(name)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return self.criterion.total(losses)


class BinaryMaskLoss:
    """Binary cross entropy of the masks of the classes that each image is asked for (Fusioner).

    An image is asked for as many classes as are asked for at once at test: the one of its pair
    (`Record.asked`) first, then those in it, in random order, then others, whose masks shall be
    empty. The published training asks for one. Pixels that are labelled, but of no class, count
    against every class.
    """

    def __init__(
        self,
        *,
        vectors: Tensor,
        classes_at_once: int,
        size_divisor: int,
        seed: int,
        grey_padding: bool,
        cache: FeatureCache[Any] | None = None,
    ) -> None:
        """vectors: (K, D) of the training vocabulary, on the model's device. classes_at_once: 0:
        all K. grey_padding, cache: as of `MaskClassificationLoss`."""
        self.vectors = vectors
        self.num_queried = min(classes_at_once or len(vectors), len(vectors))
        self.size_divisor = size_divisor
        self.seed = seed
        self.grey_padding = grey_padding
        self.cache = cache

    def count(self, samples: list[Sample]) -> tuple[float, ...]:
        """Images with a labelled pixel."""
        return (float(sum(bool(_targets(s).labelled_pixels.any()) for s in samples)),)

    def __call__(
        self,
        forward: Callable[..., Tensor],
        samples: list[Sample],
        positions: list[int],
        totals: tuple[float, ...],
        *,
        device: torch.device,
        processes: int = 1,
    ) -> dict[str, Tensor]:
        """As `TrainingLoss`; the one loss is `loss_mask`."""
        asked = torch.stack(
            [
                self.asked(_targets(sample).class_ids, position, sample.record.asked)
                for sample, position in zip(samples, positions, strict=True)
            ]
        ).to(device)  # (B, k)
        images = _images(samples, self.size_divisor, self.grey_padding)
        known = _known_features(self.cache, images, device)
        logits = forward(images.to(device), self.vectors[asked], **known)
        targets = [_targets(sample).to(device) for sample in samples]
        size = (images.pixels.shape[-2], images.pixels.shape[-1])
        losses = pixel_losses(
            logits,
            torch.stack([class_masks(*pair, size) for pair in zip(targets, asked, strict=True)]),
            torch.stack([_padded(target.labelled_pixels, size) for target in targets]),
        )
        return {"loss_mask": losses.sum() * (processes / max(totals[0], 1.0))}

    def weight(self, name: str) -> float:
        return 1.0

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["loss_mask"]

    def asked(self, class_ids: Tensor, position: int, first: int | None = None) -> Tensor:
        """The classes (k,) that the image drawn at `position` is asked for, if these are in it.
        first: one that comes before all others."""
        chance = seeded_generator(self.seed, CLASS_STREAM, position)
        order = chance.permutation(len(self.vectors))
        present = np.isin(order, class_ids.cpu().numpy())
        order = np.concatenate((order[present], order[~present]))
        if first is not None:
            order = np.concatenate(([first], order[order != first]))
        return torch.from_numpy(order[: self.num_queried].copy())


def class_masks(targets: Targets, asked: Tensor, size: tuple[int, int]) -> Tensor:
    """(k, *size) bool: all regions of each class of `asked` (k,), False where padding is added."""
    is_of = asked[:, None] == targets.class_ids  # (k, N)
    regions = targets.masks.flatten(1).float()  # counts of at most N: exact
    masks = (is_of.float() @ regions).unflatten(1, targets.masks.shape[1:]) > 0
    return _padded(masks, size)


def _padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = masks.shape[-2:]
    return torch.nn.functional.pad(masks, (0, size[1] - width, 0, size[0] - height))


def _images(samples: list[Sample], divisor: int, grey_padding: bool) -> ImageBatch:
    """grey_padding: the padding of a crop counts as picture, as in the published FrozenSeg, which
    at test has zeros there; layer norms blow up the difference."""
    wholes = [(sample.image.shape[1], sample.image.shape[2]) for sample in samples]
    unpadded = [
        sample.unpadded_size or whole for sample, whole in zip(samples, wholes, strict=True)
    ]
    return ImageBatch.collate(
        [sample.image for sample in samples], divisor, wholes if grey_padding else unpadded
    )


def _known_features(
    cache: FeatureCache[Any] | None, images: ImageBatch, device: torch.device
) -> dict[str, Any]:
    """What `forward` gets besides. The cache asks the bare model, not DistributedDataParallel: what
    is frozen has no gradients to exchange."""
    return {} if cache is None else {"features": cache(images, device)}


def point_seed(seed: int, position: int) -> int:
    """What decides the random points of the draw at `position`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(POINT_STREAM, position))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None, "a training sample has targets"
    return sample.targets
