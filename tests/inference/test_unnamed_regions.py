"""Regions that nobody annotated: which proposals become targets, and how they reach the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.build.training_data import training_dataset
from frozenseg.commands import make_sam_masks, view_samples
from frozenseg.config import load_config
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import SampleIndex, SegmentationDataset
from frozenseg.data.transforms import LargeScaleJitter
from frozenseg.errors import UserError
from frozenseg.inference.proposals import Proposals
from frozenseg.inference.unnamed_regions import region_numbers
from frozenseg.structures import UNNAMED
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
def test_there_may_be_none(proposals: Proposals) -> None:
    assert not region_numbers(proposals, np.zeros((8, 8), bool)).any()


@pytest.fixture
def name(tmp_path: Path) -> str:
    write_dataset(tmp_path / "set", [(40, 60), (33, 21)])
    return dataset_name(tmp_path / "set")


@pytest.mark.parametrize("targets", ["panoptic", "semantic"])
def test_regions_are_cropped_and_flipped_with_the_annotation(name: str, targets: str) -> None:
    records, categories = load_records(name)
    seen = []

    def whole(record, image, annotated):  # all that is not annotated
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
        if targets == "panoptic":  # crowd regions are no targets, but they are annotated
            assert not (masks.any(0) & ~rest).any()
        elif rest.any():
            assert torch.equal(masks[0], rest)
        found += len(masks)
    assert found and seen[0][:2] == (1, (40, 60, 3)) and 0 < seen[0][2] < 1


def test_from_the_command_to_the_loss(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "proposals"
    options = ["MODEL.ALLOW_RANDOM_WEIGHTS", "True", "TEST.SAM_MASKS.POINTS_PER_SIDE", "4"]
    make_sam_masks.main(["--dataset", name, "--output", str(folder), *options])
    recipe = ["DATASETS.TRAIN", repr((name,)), "MODEL.MASK_FORMER.UNNAMED_TARGETS", str(folder)]
    cfg = load_config("small/fixed_views", recipe)
    dataset, _ = training_dataset(cfg)
    assert dataset[SampleIndex(0, 0)].targets is not None
    sheet = tmp_path / "sheet.png"
    view_samples.main(["--config-file", "small/fixed_views", "--output", str(sheet), *recipe])
    assert sheet.is_file()
    next(folder.glob("*.npz")).unlink()
    with pytest.raises(UserError, match="UNNAMED_TARGETS .*1 images have no proposals"):
        training_dataset(cfg)
    with pytest.raises(UserError, match="UNNAMED_TARGETS .*: no proposals.json"):
        training_dataset(load_config("small/fixed_views", [*recipe[:-1], str(tmp_path)]))
