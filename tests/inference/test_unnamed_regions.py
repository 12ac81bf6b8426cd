"""Regions without annotation: which proposals become targets, and how they reach the loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.build.training_data import training_dataset
from frozenseg.commands import make_sam_masks, view_samples
from frozenseg.config import load_config
from frozenseg.data.annotations import load_image, load_panoptic, panoptic_labels
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import SampleIndex, SegmentationDataset
from frozenseg.data.records import Instances
from frozenseg.data.rle import encode_masks
from frozenseg.data.transforms import LargeScaleJitter, resize_to_tensor
from frozenseg.engine.training_loss import MaskClassificationLoss
from frozenseg.errors import UserError
from frozenseg.inference.proposal_files import ProposalFolder
from frozenseg.inference.proposals import Proposals
from frozenseg.inference.unnamed_regions import region_numbers
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.structures import UNNAMED, MaskPredictions
from tests.data.tiny import dataset_name, write_dataset

RECT = tuple[int, int, int, int]  # top, left, bottom, right


def proposals_of(*rects: RECT, quality: list[float], side: int = 16) -> Proposals:
    logits = torch.full((len(rects), side, side), -4.0)
    for mask, (top, left, bottom, right) in zip(logits, rects, strict=True):
        mask[top:bottom, left:right] = 4.0
    return Proposals.from_logits(logits, torch.tensor(quality))


def test_the_best_proposals_come_first_and_annotated_pixels_are_left_out() -> None:
    proposals = proposals_of(
        (0, 0, 16, 8),  # the left half; a quarter of it belongs to the next one
        (0, 0, 4, 8),
        (4, 8, 16, 16),  # two thirds of it are annotated
        (0, 8, 4, 16),  # on the right, half of it is annotated
        (1, 1, 3, 3),  # within the second one
        quality=[0.8, 0.95, 0.99, 0.9, 0.85],
    )
    annotated = np.zeros((16, 16), bool)
    annotated[8:, 8:] = True
    annotated[:4, 12:] = True
    numbers = region_numbers(proposals, annotated)
    expected = np.zeros((16, 16), int)
    expected[:4, :8] = 2
    expected[:4, 8:12] = 4
    expected[4:, :8] = 1
    assert np.array_equal(numbers, expected)


def test_masks_take_the_size_of_the_image() -> None:
    numbers = region_numbers(proposals_of((0, 0, 8, 16), quality=[0.9]), np.zeros((64, 64), bool))
    assert (numbers[:31] == 1).all() and not numbers[33:].any()


@pytest.mark.parametrize(
    "proposals", [proposals_of(quality=[]), proposals_of((0, 0, 0, 0), quality=[0.9])]
)
def test_there_may_be_no_regions(proposals: Proposals) -> None:
    assert not region_numbers(proposals, np.zeros((8, 8), bool)).any()


@pytest.fixture
def name(tmp_path: Path) -> str:
    write_dataset(tmp_path / "set", [(40, 60), (33, 21)])
    return dataset_name(tmp_path / "set")


@pytest.mark.parametrize("targets", ["panoptic", "semantic"])
def test_regions_are_cropped_and_flipped_with_the_annotation(name: str, targets: str) -> None:
    records, categories = load_records(name)
    seen = []

    def whole(record, image, annotated):  # one region: everything that is not annotated
        seen.append((record.image_id, image.shape, annotated.mean()))
        return (~annotated).astype(np.uint16)

    def dataset(unnamed):
        return SegmentationDataset(
            records=records,
            categories=categories,
            transform=LargeScaleJitter(size=64, min_scale=0.5),
            targets=targets,
            keep_empty=False,
            unnamed=unnamed,
        )

    found = 0
    for position in range(8):
        draw = SampleIndex(position, 0)
        sample, plain = dataset(whole)[draw], dataset(None)[draw]
        assert (
            torch.equal(sample.image, plain.image) and sample.unpadded_size == plain.unpadded_size
        )
        named = sample.targets.named()
        assert torch.equal(named.masks, plain.targets.masks)
        assert torch.equal(named.class_ids, plain.targets.class_ids)
        assert torch.equal(sample.targets.labelled_pixels, plain.targets.labelled_pixels)
        height, width = sample.unpadded_size
        masks = sample.targets.masks[sample.targets.class_ids == UNNAMED]
        rest = torch.zeros(64, 64, dtype=torch.bool)
        rest[:height, :width] = ~plain.targets.masks.any(0)[:height, :width]
        if targets == "panoptic":  # crowd regions are not targets, but they are annotated
            assert not (masks.any(0) & ~rest).any()
        elif rest.any():
            assert torch.equal(masks[0], rest)
        found += len(masks)
    assert found and seen[0][:2] == (1, (40, 60, 3)) and 0 < seen[0][2] < 1


@pytest.mark.parametrize("targets", ["panoptic", "instances"])
def test_a_crowd_is_annotated_in_every_form_of_annotation(name: str, targets: str) -> None:
    (record, _), categories = load_records(name)
    ids, segments = load_panoptic(record)
    if targets == "instances":
        codes = encode_masks(ids == segments.ids[:, None, None])
        record = replace(record, instances=Instances(codes, segments.class_ids, segments.is_crowd))
    seen = []

    def unnamed(record, image, annotated):
        seen.append(annotated)
        return np.zeros(annotated.shape, np.uint8)

    dataset = SegmentationDataset(
        records=[record],
        categories=categories,
        transform=LargeScaleJitter(size=64, min_scale=0.5),
        targets=targets,
        unnamed=unnamed,
    )
    assert segments.is_crowd.any() and dataset[0].targets is not None
    assert np.array_equal(seen[0], ids > 0)


def test_from_a_folder_to_the_loss(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "proposals"
    small = ["DATASETS.TRAIN", repr((name,)), "INPUT.MIN_SIZE_TEST", "32"]
    recipe = [*small, "MODEL.MASK_FORMER.UNNAMED_TARGETS", str(folder)]
    points = ["TEST.SAM_MASKS.POINTS_PER_SIDE", "1"]
    make_sam_masks.main(
        [
            *("--config-file", "small/fixed_views", "--dataset", name),
            *("--output", str(folder), *small, *points),
        ]
    )
    long = load_config("small/fixed_views").INPUT.MAX_SIZE_TEST
    files = ProposalFolder(folder, None, create=False)
    for record in load_records(name)[0]:
        seen = resize_to_tensor(load_image(record), 32, long)
        files.load(record.image_id, seen)  # for exactly the image that training looks up
        free = ~torch.from_numpy(panoptic_labels(record).maps.any(0))
        logits = torch.where(free, 4.0, -4.0)[None]
        files.save(record.image_id, seen, Proposals.from_logits(logits, torch.ones(1)))
    plain, _ = training_dataset(load_config("small/fixed_views", small))
    dataset, _ = training_dataset(load_config("small/fixed_views", recipe))
    draws = [SampleIndex(0, 0), SampleIndex(0, 1)]
    samples = [dataset[draw] for draw in draws]
    further = sum(int((sample.targets.class_ids == UNNAMED).sum()) for sample in samples)
    named = sum(len(plain[draw].targets.class_ids) for draw in draws)
    assert further > 0

    criterion = SetCriterion(num_classes=3, num_points=12)
    loss = MaskClassificationLoss(
        criterion=criterion,
        text=None,
        num_queries=9,
        inputs=None,
        seed=0,  # type: ignore
    )
    sums = loss.normalizers(samples)
    assert (sums.objects, sums.named) == (named + further, named)
    outputs = MaskPredictions(torch.randn(2, 9, 4), torch.randn(2, 9, 8, 8), [])
    targets, seeds = [sample.targets for sample in samples], torch.arange(2)
    of_sums = criterion(
        outputs,
        targets,
        num_masks=sums.objects,
        class_normalizer=sums.class_weight,
        seeds=seeds,
    )
    torch.testing.assert_close(of_sums, criterion(outputs, targets, seeds=seeds))

    sheets = [tmp_path / "plain.png", tmp_path / "unnamed.png"]
    for sheet, options in zip(sheets, (small, recipe), strict=True):
        given = ["--config-file", "small/fixed_views", "--output", str(sheet), "--count", "2"]
        view_samples.main([*given, *options])
    assert sheets[0].read_bytes() != sheets[1].read_bytes()


def test_a_folder_that_lacks_an_image_is_refused_before_the_training(
    name: str, tmp_path: Path
) -> None:
    folder = ProposalFolder(tmp_path / "proposals", {"sam": "small"}, create=True)
    recipe = ["DATASETS.TRAIN", repr((name,)), "MODEL.MASK_FORMER.UNNAMED_TARGETS"]
    with pytest.raises(UserError, match="UNNAMED_TARGETS .*: [0-9]+ images have no proposals"):
        training_dataset(load_config("small/fixed_views", [*recipe, str(folder.folder)]))
    with pytest.raises(UserError, match="UNNAMED_TARGETS .*: no proposals.json"):
        training_dataset(load_config("small/fixed_views", [*recipe, str(tmp_path)]))


def test_an_image_without_proposals_is_drawn_as_it_is() -> None:
    drawn = make_sam_masks.picture(np.zeros((8, 8, 3), np.uint8), proposals_of(quality=[]))
    assert drawn.width > 0
