"""The training loss of a global batch, whatever part of it a process sees in one pass.

A step's batch may be spread over processes and over several passes (gradient accumulation). Its
loss is that of one large batch: the divisors (number of objects, sum of class weights) are those of
the whole batch, and the random points of an image depend on the seed and the image's place in the
data alone. Two processes, or two passes, therefore equal one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frozenseg.data.dataset import Sample
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import ImageBatch, MaskPredictions, Targets, TextEmbeddings

POINT_STREAM = 2  # beside SAMPLE_STREAM and ORDER_STREAM of `frozenseg.data.dataset`

Forward = Callable[[ImageBatch, TextEmbeddings, bool], MaskPredictions]


@dataclass(frozen=True)
class Totals:
    """Of the global batch: objects annotated, and the sum of the class loss's weights over all
    queries of one output."""

    objects: float
    class_weight: float


class MaskObjective:
    """Class, mask and dice losses of samples against the training vocabulary."""

    def __init__(
        self,
        *,
        criterion: SetCriterion,
        text: TextEmbeddings,
        num_queries: int,
        size_divisor: int,
        seed: int,
    ) -> None:
        self.criterion = criterion
        self.text = text
        self.num_queries = num_queries
        self.size_divisor = size_divisor
        self.seed = seed

    def count(self, samples: list[Sample]) -> Totals:
        """The share of these samples in the totals of the step."""
        objects = [len(targets.class_ids) for targets in map(_targets, samples)]
        return Totals(float(sum(objects)), sum(map(self._class_weight, objects)))

    def _class_weight(self, objects: int) -> float:
        """The divisor of one image's class loss: matched queries weigh 1, the others little."""
        matched = min(objects, self.num_queries)
        return matched + (self.num_queries - matched) * self.criterion.no_object_weight

    def __call__(
        self,
        forward: Forward,
        samples: list[Sample],
        positions: list[int],
        totals: Totals,
        *,
        device: torch.device,
        processes: int = 1,
    ) -> dict[str, Tensor]:
        """Unweighted losses of one pass, to be summed over the passes and averaged over the
        processes, as DistributedDataParallel does with gradients.

        positions: the place of each sample among all draws of the run.
        """
        # Padding is padding in training too. The published code shows the encoders grey there in
        # training and zeros at test; layer norms blow up the difference.
        images = ImageBatch.collate(
            [sample.image for sample in samples],
            self.size_divisor,
            [
                sample.content or (sample.image.shape[1], sample.image.shape[2])
                for sample in samples
            ],
        )
        predictions = forward(images.to(device), self.text, True)
        seeds = [point_seed(self.seed, position) for position in positions]
        try:
            return self.criterion(
                predictions,
                [_targets(sample) for sample in samples],
                num_masks=max(totals.objects, 1.0) / processes,
                class_weight=totals.class_weight / processes,
                seeds=torch.tensor(seeds),
            )
        except FloatingPointError as error:
            names = ", ".join(str(sample.record.image_id) for sample in samples)
            raise FloatingPointError(f"batch of images {names}: {error}") from None


def point_seed(seed: int, position: int) -> int:
    """What decides the random points of the draw at `position`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(POINT_STREAM, position))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits


def _targets(sample: Sample) -> Targets:
    assert sample.targets is not None, "a training sample has targets"
    return sample.targets
