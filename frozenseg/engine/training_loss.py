"""The interface between the training loop and a loss, and the losses of the two model families.

The loop calls the network, and the loss compares its outputs with targets:

    batch = loss.prepare(samples, positions, start, device)
    outputs = network(batch.images, batch.classes, batch.features)
    losses = loss(outputs, batch.targets, normalizers)

The batch of a step may be divided among processes and micro-batches (gradient accumulation). Its
losses equal those of one large batch, because they are divided by sums over the entire batch
(`LossNormalizers`), and because the random choices for an image depend only on the seed and on the
position of the image in the sequence of all images that the run draws.

Legend: B images, k queried classes, K classes of the training vocabulary, D dimension of the text
embeddings, N annotated objects, (H, W) size of the padded images, (h, w) size of the mask logits.
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

# Keys of independent random streams; `frozenseg.data.dataset` has SAMPLE_STREAM and ORDER_STREAM.
POINT_STREAM, CLASS_STREAM, COUNT_STREAM = 2, 3, 4

Outputs = TypeVar("Outputs")
LossTargets = TypeVar("LossTargets")


@dataclass(frozen=True)
class LossNormalizers:
    """The divisors of the losses of a step: sums over its entire batch.

    Each loss fills in only the sums that it needs.

    objects: the number of annotated objects.
    named: the number of these objects whose class is known.
    class_weight: the sum of the weights that the class loss gives to all queries of one output.
    labelled_images: the number of images with at least one labelled pixel.
    """

    objects: float = 0.0
    named: float = 0.0
    class_weight: float = 0.0
    labelled_images: float = 0.0

    def __add__(self, other: "LossNormalizers") -> "LossNormalizers":
        return LossNormalizers(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class TrainingBatch(Generic[LossTargets]):
    """A micro-batch: the inputs of the network, and the targets of its outputs.

    images: the images, on the device of the network.
    classes: the classes that the network looks for: the embeddings of a vocabulary, or for each
        image the vectors (B, k, D) of its queried classes.
    targets: the targets in the form that the loss of the model family expects.
    features: the outputs of the frozen encoders for the images if there is a cache, otherwise None.
    """

    images: ImageBatch
    classes: TextEmbeddings | Tensor
    targets: LossTargets
    features: Features | None = None


@dataclass(frozen=True, kw_only=True)
class InputPreparation:
    """Turns samples into the input of a network.

    size_divisor: batches are padded to a multiple of this many pixels.
    grey_padding: whether the encoders see the grey padding of a crop as image content, as in the
        published training of FrozenSeg (at test, its padding is zero). If not, they treat it as
        padding.
    cache: the cache for the features of the frozen encoders, or None.
    """

    size_divisor: int
    grey_padding: bool
    cache: FeatureCache | None = None

    def __call__(
        self, samples: list[Sample], device: torch.device
    ) -> tuple[ImageBatch, Features | None]:
        """Return the images on the device, and their features if there is a cache, else None."""
        images = ImageBatch.collate(
            [sample.image for sample in samples],
            self.size_divisor,
            [self._seen_size(sample) for sample in samples],
            # The cache computes its keys from the pixels in host memory.
            device=device if self.cache is None else None,
        )
        # The cache calls the model without DistributedDataParallel, because frozen encoders have
        # no gradients to exchange.
        features = None if self.cache is None else self.cache(images, device)
        return images.to(device), features

    def _seen_size(self, sample: Sample) -> tuple[int, int]:
        """Return the size of the area that the encoders see as the image, without padding."""
        full = (sample.image.shape[1], sample.image.shape[2])
        return full if self.grey_padding else sample.unpadded_size or full


class TrainingLoss(ABC, Generic[Outputs, LossTargets]):
    """The loss of a model family.

    weights: the weights of the losses, by name, in the total that is minimised; see
        `weighted_losses`.
    """

    weights: Mapping[str, float]

    @abstractmethod
    def normalizers(self, samples: list[Sample]) -> LossNormalizers:
        """Return the contribution of these samples to the normalizers of their step."""

    @abstractmethod
    def prepare(
        self, samples: list[Sample], positions: list[int], start: int, device: torch.device
    ) -> TrainingBatch[LossTargets]:
        """Return samples as a micro-batch.

        positions: the position of each sample in the sequence of all samples that the run draws.
        start: the position of the first sample of the step, over all processes and micro-batches.
        """

    @abstractmethod
    def __call__(
        self, outputs: Outputs, targets: LossTargets, normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """Return the unweighted losses of a micro-batch, by name.

        Each is the contribution of the micro-batch: over all micro-batches and processes of a step,
        they add up to the loss of the entire batch.
        """


@dataclass(frozen=True)
class ObjectTargets:
    """The annotated objects of each image, and the seeds (B,) of the images' random points."""

    objects: list[Targets]
    seeds: Tensor


class MaskClassificationLoss(TrainingLoss[MaskPredictions, ObjectTargets]):
    """The class, mask and dice losses of FrozenSeg, with the classes of the training vocabulary."""

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
        """
        criterion: the losses of the decoders; None if the decoders are not trained.
        text: the embeddings of the training vocabulary, on the model's device.
        seed: the seed of the random points.
        regions: the losses of a mask adapter, or None.
        """
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
        """Count the objects, and sum the weights of all queries in the class loss."""
        targets = [_targets(sample) for sample in samples]
        named = [int(of_image.is_named.sum()) for of_image in targets]
        return LossNormalizers(
            objects=float(sum(len(of_image.class_ids) for of_image in targets)),
            named=float(sum(named)),
            class_weight=float(sum(map(self._class_weight, named))),
        )

    def _class_weight(self, objects: int) -> float:
        """Return the sum of the weights of an image's queries in the class loss.

        A query that is matched with an object of a known class has the weight 1, the others have
        `no_object_weight`. If there are more objects than queries, it is assumed that the queries
        are matched with objects of a known class first.

        objects: the number of objects of a known class.
        """
        if self.criterion is None:
            return 0.0
        matched = min(objects, self.num_queries)
        return matched + (self.num_queries - matched) * self.criterion.no_object_weight

    def prepare(
        self, samples: list[Sample], positions: list[int], start: int, device: torch.device
    ) -> TrainingBatch[ObjectTargets]:
        """Return the images, the training vocabulary and the annotated objects."""
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
    """The targets of `BinaryMaskLoss`.

    masks: (B, k, H, W) bool, the masks of the queried classes.
    labelled: (B, H, W) bool, the pixels that count in the loss.
    """

    masks: Tensor
    labelled: Tensor


class BinaryMaskLoss(TrainingLoss[Tensor, PixelTargets]):
    """The binary cross entropy of the masks of the queried classes (Fusioner).

    For each image, as many classes are queried as at test: first the class of its pair
    (`Record.asked`), then the classes in the image, in random order, then other classes, whose
    target masks are empty. The published training queries one class. Pixels that are labelled as
    none of the classes are negatives for every class.
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
        vectors: (K, D), the embeddings of the training vocabulary, on the model's device.
        classes_at_once: the number of classes that are queried together; 0: all K.
        seed: the seed of the choice of queried classes.
        fewest_at_once: if not 0, each step queries a random number of classes, from this number to
            `classes_at_once`.
        batch_size: the number of images of a step, over all processes and micro-batches.
        """
        self.inputs = inputs
        self.seed = seed
        self.weights = {"loss_mask": 1.0}
        self.vectors = vectors
        self.num_queried = min(classes_at_once or len(vectors), len(vectors))
        self.fewest_queried = min(fewest_at_once or self.num_queried, self.num_queried)
        self.batch_size = batch_size

    def normalizers(self, samples: list[Sample]) -> LossNormalizers:
        """Count the images with at least one labelled pixel."""
        labelled = sum(bool(_targets(sample).labelled_pixels.any()) for sample in samples)
        return LossNormalizers(labelled_images=float(labelled))

    def prepare(
        self, samples: list[Sample], positions: list[int], start: int, device: torch.device
    ) -> TrainingBatch[PixelTargets]:
        """Return the images, and the vectors and the target masks of their queried classes."""
        queried = torch.stack(
            [
                self.queried_classes(
                    _targets(sample).class_ids, position, sample.record.asked, start
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
        """Return `loss_mask`. outputs: the mask logits (B, k, h, w)."""
        losses = pixel_losses(outputs, targets.masks, targets.labelled)
        return {"loss_mask": losses.sum() * (1 / max(normalizers.labelled_images, 1.0))}

    def queried_classes(
        self, class_ids: Tensor, position: int, first: int | None = None, start: int | None = None
    ) -> Tensor:
        """Return the classes (k,) that are queried for the image drawn at `position`.

        class_ids: the classes in the image.
        first: a class that is queried before all others, or None.
        start: the position of the first image of the step, which decides k; None: `position`. The
            images of a step could otherwise get different k if the run was resumed with another
            batch size.
        """
        generator = seeded_generator(self.seed, CLASS_STREAM, position)
        order = generator.permutation(len(self.vectors))
        present = np.isin(order, class_ids.cpu().numpy())
        order = np.concatenate((order[present], order[~present]))
        if first is not None:
            order = np.concatenate(([first], order[order != first]))
        number = self.number_queried(position if start is None else start)
        return torch.from_numpy(order[:number].copy())

    def number_queried(self, start: int) -> int:
        """Return the number of classes queried in the step whose first image is at `start`."""
        if self.fewest_queried == self.num_queried:
            return self.num_queried
        generator = seeded_generator(self.seed, COUNT_STREAM, start // self.batch_size)
        return int(generator.integers(self.fewest_queried, self.num_queried + 1))


def class_masks(targets: Targets, classes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks (k, *size) bool of the classes (k,): each is the union of all regions of its
    class, and False where padding is added."""
    is_of = classes[:, None] == targets.class_ids  # (k, N)
    regions = targets.masks.flatten(1).float()  # the product counts up to N regions, exactly
    masks = (is_of.float() @ regions).unflatten(1, targets.masks.shape[1:]) > 0
    return _padded(masks, size)


def point_seed(seed: int, position: int) -> int:
    """Return the seed of the random points of the image drawn at `position`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(POINT_STREAM, position))
    # One bit is dropped, because torch takes seeds of 63 bits.
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = masks.shape[-2:]
    return torch.nn.functional.pad(masks, (0, size[1] - width, 0, size[0] - height))


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None, "a training sample has targets"
    return sample.targets
