"""The loss of a spread batch against the criterion on the whole batch."""

import numpy as np
import pytest
import torch

from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.engine.training_loss import (
    InputPreparation,
    LossNormalizers,
    MaskClassificationLoss,
    point_seed,
)
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import ImageBatch, MaskPredictions, Targets, TextEmbeddings

CLASSES, QUERIES, SIDE = 4, 6, 32
COUNTS = [3, 0, 8, 1]  # objects of the images; one has more than there are queries


def training_loss(num_points: int = 4000, **weights: float) -> MaskClassificationLoss:
    text = TextEmbeddings(torch.eye(CLASSES), torch.arange(CLASSES), torch.ones(CLASSES).bool())
    criterion = SetCriterion(num_classes=CLASSES, num_points=num_points, **weights)
    return MaskClassificationLoss(
        criterion=criterion,
        text=text,
        num_queries=QUERIES,
        inputs=InputPreparation(size_divisor=SIDE, grey_padding=False),
        seed=1,
    )


def samples() -> list[Sample]:
    chance = np.random.default_rng(0)
    found = []
    for number, count in enumerate(COUNTS):
        masks = np.zeros((count, SIDE, SIDE), dtype=bool)
        for mask in masks:
            top, left = chance.integers(0, SIDE // 2, 2)
            mask[top : top + 14, left : left + 10] = True
        targets = Targets(
            torch.from_numpy(chance.integers(0, CLASSES, count)), torch.from_numpy(masks)
        )
        # the image carries its own number, for `predict` to know it again
        image = torch.full((3, SIDE, SIDE), number, dtype=torch.uint8)
        record = Record(f"image {number}", "", SIDE, SIDE, CLASSES)
        found.append(Sample(image, SIDE, SIDE, record, targets))
    return found


def predict(images: ImageBatch) -> MaskPredictions:
    """The same for an image in whatever batch."""

    def of(seed: int) -> MaskPredictions:
        rows = []
        for image in images.pixels:
            generator = torch.Generator().manual_seed(100 * seed + int(image[0, 0, 0]))
            rows.append(
                (
                    torch.randn(QUERIES, CLASSES + 1, generator=generator),
                    torch.randn(QUERIES, 4, 4, generator=generator) * 4,
                )
            )
        return MaskPredictions(*(torch.stack(column) for column in zip(*rows, strict=True)))

    last = of(0)
    last.auxiliary = [of(1), of(2)]
    return last


def losses_of(
    ours: MaskClassificationLoss,
    data: list[Sample],
    positions: list[int],
    normalizers: LossNormalizers,
) -> dict[str, torch.Tensor]:
    batch = ours.prepare(data, positions, positions[0], torch.device("cpu"))
    assert batch.classes is ours.text and batch.features is None
    return ours(predict(batch.images), batch.targets, normalizers)


def test_is_the_criterion_on_the_whole_batch() -> None:
    # matched by class alone: not by the random points, which are others
    ours, data = training_loss(mask_weight=0.0, dice_weight=0.0), samples()
    normalizers = ours.normalizers(data)
    assert normalizers.objects == sum(COUNTS)
    # matched queries weigh 1 and the others 0.1
    weights = [3 + 0.3, 0.6, 6, 1 + 0.5]
    assert normalizers.class_weight == pytest.approx(sum(weights))
    found = losses_of(ours, data, [0, 1, 2, 3], normalizers)
    images = ImageBatch.collate([sample.image for sample in data], SIDE)
    expected = ours.criterion(
        predict(images),
        [sample.targets for sample in data],
        seeds=torch.arange(4) + 5,
    )
    assert found.keys() == expected.keys()
    for name, loss in found.items():  # other points here
        tolerance = 1e-5 if name.startswith("loss_ce") else 0.03
        assert float(loss) == pytest.approx(float(expected[name]), rel=tolerance), name


@pytest.mark.parametrize("parts", [[[0, 1], [2, 3]], [[2], [0, 3], [1]], [[3, 1, 0, 2]]])
def test_sums_over_parts_in_any_order(parts: list[list[int]]) -> None:
    ours, data = training_loss(num_points=50), samples()
    normalizers = ours.normalizers(data)
    whole = losses_of(ours, data, [10, 11, 12, 13], normalizers)
    summed = {name: 0.0 for name in whole}
    for part in parts:
        positions = [10 + index for index in part]
        found = losses_of(ours, [data[i] for i in part], positions, normalizers)
        for name, loss in found.items():
            summed[name] += float(loss)
    assert summed == pytest.approx({name: float(loss) for name, loss in whole.items()}, rel=1e-5)


def test_normalizers_add_up_field_by_field() -> None:
    ours, data = training_loss(), samples()
    parts = [ours.normalizers([sample]) for sample in data]
    assert sum(parts, LossNormalizers()).objects == ours.normalizers(data).objects
    assert LossNormalizers(1, 2, 3) + LossNormalizers(10, 20, 30) == LossNormalizers(11, 22, 33)


def test_points_follow_the_place_in_the_data() -> None:
    assert point_seed(0, 5) == point_seed(0, 5)
    assert len({point_seed(0, 5), point_seed(0, 6), point_seed(1, 6)}) == 3


def test_masks_are_matched_with_objects_whatever_is_labelled_besides() -> None:
    """Background pixels change nothing for queries: they are "no object" anyway."""
    ours, data = training_loss(), samples()
    normalizers = ours.normalizers(data)
    plain = losses_of(ours, data, [0, 1, 2, 3], normalizers)
    for sample in data:
        sample.targets.labelled = torch.ones(SIDE, SIDE, dtype=torch.bool)
    assert ours.normalizers(data) == normalizers
    with_background = losses_of(ours, data, [0, 1, 2, 3], normalizers)
    assert all(torch.equal(plain[name], with_background[name]) for name in plain)
