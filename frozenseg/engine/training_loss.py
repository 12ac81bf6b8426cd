"""What the training loop needs of a loss, and the losses of the two model families.

The loop calls the network, the loss compares its outputs with targets:

    batch = loss.prepare(samples, positions, device)
    outputs = network(batch.images, batch.classes, batch.features)
    losses = loss(outputs, batch.targets, normalizers)

The batch of a step may be spread over processes and over micro-batches (gradient accumulation). Its
losses are those of one large batch: they are divided by sums over the whole batch
(`LossNormalizers`), and the random choices for an image depend on the seed and on the position of
the image among all draws of the run, and on nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from frozenseg.data.dataset import Sample
from frozenseg.data.transforms import seeded_generator
from frozenseg.engine.feature_cache import FeatureCache
from frozenseg.losses.pixel import pixel_losses
from frozenseg.losses.region_loss import RegionLoss
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import Features, ImageBatch, MaskPredictions, Targets, TextEmbeddings

# beside SAMPLE_STREAM and ORDER_STREAM of `frozenseg.data.dataset`
POINT_STREAM, CLASS_STREAM, COUNT_STREAM = 2, 3, 4

Outputs = TypeVar("Outputs")
LossTargets = TypeVar("LossTargets")


@dataclass(frozen=True)
class LossNormalizers:
    """What the losses of a step are divided by: sums over its whole batch.

    A loss fills in the sums that it needs.

    objects: masks of objects. named: of those, objects whose class is known.
    class_weight: the weights that the class loss gives to all queries of one output.
    labelled_images: images with a labelled pixel.
    """

    objects: float = 0.0
    named: float = 0.0
    class_weight: float = 0.0
    labelled_images: float = 0.0

    def __add__(self, other: "LossNormalizers") -> "LossNormalizers":
        return LossNormalizers(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class TrainingBatch(Generic[LossTargets]):
    """A micro-batch: what the network is given, and what its outputs are compared with.

    images: on the device of the network.
    classes: what the network looks for: a vocabulary, or for each image the vectors (B, k, D) of
        its queried classes.
    targets: what the loss of the family expects.
    features: what the frozen encoders make of the images, if that is known already.
    """

    images: ImageBatch
    classes: TextEmbeddings | Tensor
    targets: LossTargets
    features: Features | None = None


@dataclass(frozen=True, kw_only=True)
class InputPreparation:
    """How samples become the input of a network.

    size_divisor: batches of images are padded to a multiple of it, in pixels.
    grey_padding: the encoders see the padding of a crop as it is painted, as in the published
        FrozenSeg, where at test the padding is zero; otherwise it counts as padding.
    cache: where the features of the frozen encoders are kept, or None.
    """

    size_divisor: int
    grey_padding: bool
    cache: FeatureCache | None = None

    def __call__(
        self, samples: list[Sample], device: torch.device
    ) -> tuple[ImageBatch, Features | None]:
        """Return the images on the device, and their features if there is a cache."""
        images = ImageBatch.collate(
            [sample.image for sample in samples],
            self.size_divisor,
            [self._seen_size(sample) for sample in samples],
            # The cache knows images by their bytes on the host.
            device=device if self.cache is None else None,
        )
        # The cache encodes with the bare model and not with DistributedDataParallel: frozen
        # encoders have no gradients to exchange.
        features = None if self.cache is None else self.cache(images, device)
        return images.to(device), features

    def _seen_size(self, sample: Sample) -> tuple[int, int]:
        """Return the size of the image as the encoders see it; they treat the rest as padding."""
        whole = (sample.image.shape[1], sample.image.shape[2])
        return whole if self.grey_padding else sample.unpadded_size or whole


class TrainingLoss(ABC, Generic[Outputs, LossTargets]):
    """The loss of a model family.

    weights: of the losses in the total that is minimised, see `weighted_losses`.
    """

    weights: Mapping[str, float]

    @abstractmethod
    def normalizers(self, samples: list[Sample]) -> LossNormalizers:
        """Return the share of these samples in the normalizers of their step."""

    @abstractmethod
    def prepare(
        self, samples: list[Sample], positions: list[int], device: torch.device
    ) -> TrainingBatch[LossTargets]:
        """Return samples as a micro-batch. positions: those of the samples among all draws of the
        run."""

    @abstractmethod
    def __call__(
        self, outputs: Outputs, targets: LossTargets, normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """Unweighted losses by name, each the share of a micro-batch in that of the whole batch:
        over all micro-batches and processes of a step they add up to it."""


@dataclass(frozen=True)
class ObjectTargets:
    """The annotated objects of each image, and for each image a seed (B,) of its random points."""

    objects: list[Targets]
    seeds: Tensor


class MaskClassificationLoss(TrainingLoss[MaskPredictions, ObjectTargets]):
    """Class, mask and dice losses of FrozenSeg against the training vocabulary."""

    def __init__(
        self,
        *,
        criterion: SetCriterion | None,
        text: TextEmbeddings,
        num_queries: int,
        inputs: InputPreparation,
        seed: int,
        regions: RegionLoss | None = None,
    ) -> None:
        """criterion: None where the decoders do not train. text: of the training vocabulary, on the
        model's device. seed: of the random points. regions: further losses, of a mask adapter."""
        self.inputs = inputs
        self.seed = seed
        self.criterion = criterion
        self.regions = regions
        self.weights = ({} if criterion is None else criterion.loss_weights) | (
            {} if regions is None else regions.weights
        )
        self.text = text
        self.num_queries = num_queries

    def normalizers(self, samples: list[Sample]) -> LossNormalizers:
        """Objects, and the weights of all queries in the class loss."""
        targets = [_targets(sample) for sample in samples]
        named = [int(of_image.is_named.sum()) for of_image in targets]
        return LossNormalizers(
            objects=float(sum(len(of_image.class_ids) for of_image in targets)),
            named=float(sum(named)),
            class_weight=float(sum(map(self._class_weight, named))),
        )

    def _class_weight(self, objects: int) -> float:
        """Return the divisor of one image's class loss: queries matched with an object of a known
        class weigh 1, the others less. With too few queries, those count as matched first."""
        if self.criterion is None:
            return 0.0
        matched = min(objects, self.num_queries)
        return matched + (self.num_queries - matched) * self.criterion.no_object_weight

    def prepare(
        self, samples: list[Sample], positions: list[int], device: torch.device
    ) -> TrainingBatch[ObjectTargets]:
        """Images, the training vocabulary and the annotated objects."""
        images, features = self.inputs(samples, device)
        seeds = torch.tensor([point_seed(self.seed, position) for position in positions])
        targets = ObjectTargets([_targets(sample) for sample in samples], seeds)
        return TrainingBatch(images, self.text, targets, features)

    def __call__(
        self, outputs: MaskPredictions, targets: ObjectTargets, normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """Return the losses of `SetCriterion` and `RegionLoss`, by their names."""
        losses: dict[str, Tensor] = {}
        if self.criterion is not None:
            losses |= self.criterion(
                outputs,
                targets.objects,
                num_masks=max(normalizers.objects, 1.0),
                class_normalizer=normalizers.class_weight,
                seeds=targets.seeds,
            )
        if self.regions is not None:
            named = [of_image.named() for of_image in targets.objects]
            losses |= self.regions(outputs, named, max(normalizers.named, 1.0), targets.seeds)
        return losses


@dataclass(frozen=True)
class PixelTargets:
    """masks: (B, k, H, W) bool, of the queried classes. labelled: (B, H, W) bool, pixels that
    count."""

    masks: Tensor
    labelled: Tensor


class BinaryMaskLoss(TrainingLoss[Tensor, PixelTargets]):
    """Binary cross entropy of the masks of the queried classes (Fusioner).

    For each image as many classes are queried as at test: first the class of its pair
    (`Record.asked`), then those in the image, in random order, then others, whose masks should be
    empty. The published training queries one class. Pixels that are labelled, but of no class,
    count against every class.
    """

    def __init__(
        self,
        *,
        vectors: Tensor,
        classes_at_once: int,
        inputs: InputPreparation,
        seed: int,
        fewest_at_once: int = 0,
        batch_size: int = 1,
    ) -> None:
        """
        vectors: (K, D) of the training vocabulary, on the model's device.
        classes_at_once: how many classes are queried together; 0: all K.
        seed: of the choice of queried classes.
        fewest_at_once: if not 0, each step queries a random number, from this to classes_at_once.
        batch_size: of a step, over all processes and micro-batches.
        """
        self.inputs = inputs
        self.seed = seed
        self.weights = {"loss_mask": 1.0}
        self.vectors = vectors
        self.num_queried = min(classes_at_once or len(vectors), len(vectors))
        self.fewest_queried = min(fewest_at_once or self.num_queried, self.num_queried)
        self.batch_size = batch_size

    def normalizers(self, samples: list[Sample]) -> LossNormalizers:
        """Images with a labelled pixel."""
        labelled = sum(bool(_targets(sample).labelled_pixels.any()) for sample in samples)
        return LossNormalizers(labelled_images=float(labelled))

    def prepare(
        self, samples: list[Sample], positions: list[int], device: torch.device
    ) -> TrainingBatch[PixelTargets]:
        """Images, the vectors of each image's queried classes, and the masks of these classes."""
        queried = torch.stack(
            [
                self.queried_classes(
                    _targets(sample).class_ids, position, sample.record.asked, positions[0]
                )
                for sample, position in zip(samples, positions, strict=True)
            ]
        ).to(device)  # (B, k)
        images, features = self.inputs(samples, device)
        size = (images.pixels.shape[-2], images.pixels.shape[-1])
        objects = [_targets(sample).to(device) for sample in samples]
        targets = PixelTargets(
            torch.stack([class_masks(*pair, size) for pair in zip(objects, queried, strict=True)]),
            torch.stack([_padded(of_image.labelled_pixels, size) for of_image in objects]),
        )
        return TrainingBatch(images, self.vectors[queried], targets, features)

    def __call__(
        self, outputs: Tensor, targets: PixelTargets, normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """`loss_mask`. outputs: mask logits (B, k, h, w)."""
        losses = pixel_losses(outputs, targets.masks, targets.labelled)
        return {"loss_mask": losses.sum() * (1 / max(normalizers.labelled_images, 1.0))}

    def queried_classes(
        self, class_ids: Tensor, position: int, first: int | None = None, step: int | None = None
    ) -> Tensor:
        """Return the classes (k,) that are queried for the image drawn at `position`.

        class_ids: the classes in it. first: one that comes before all others. step: the position of
        an image of the same step, which decides k; None: `position`. They differ where a run was
        resumed with another batch size.
        """
        generator = seeded_generator(self.seed, CLASS_STREAM, position)
        order = generator.permutation(len(self.vectors))
        present = np.isin(order, class_ids.cpu().numpy())
        order = np.concatenate((order[present], order[~present]))
        if first is not None:
            order = np.concatenate(([first], order[order != first]))
        return torch.from_numpy(
            order[: self.number_queried(position if step is None else step)].copy()
        )

    def number_queried(self, position: int) -> int:
        """Return how many classes are queried in the step of the image drawn at `position`."""
        if self.fewest_queried == self.num_queried:
            return self.num_queried
        generator = seeded_generator(self.seed, COUNT_STREAM, position // self.batch_size)
        return int(generator.integers(self.fewest_queried, self.num_queried + 1))


def class_masks(targets: Targets, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """(k, *size) bool: all regions of each of the classes (k,), False where padding is added."""
    is_of = classes[:, None] == targets.class_ids  # (k, N)
    regions = targets.masks.flatten(1).float()  # counts of at most N: exact
    masks = (is_of.float() @ regions).unflatten(1, targets.masks.shape[1:]) > 0
    return _padded(masks, size)


def point_seed(seed: int, position: int) -> int:
    """Return the seed of the random points of the image drawn at `position`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(POINT_STREAM, position))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits


def _padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = masks.shape[-2:]
    return torch.nn.functional.pad(masks, (0, size[1] - width, 0, size[0] - height))


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None, "a training sample has targets"
    return sample.targets
