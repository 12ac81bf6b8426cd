"""Samples against the colours of their images, and bad images and maps."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.data import annotations
from frozenseg.data.annotations import LabelMaps, load_image
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import SAMPLE_STREAM, SampleIndex, SegmentationDataset, cut_masks
from frozenseg.data.records import Instances, Record
from frozenseg.data.transforms import LargeScaleJitter, ShortestEdgeResize, seeded_generator
from frozenseg.errors import UserError
from tests.data.tiny import SEGMENTS, VOID_COLOUR, dataset_name, load_instances, write_dataset

CLASS_COLOURS = [(1, SEGMENTS[5][2]), (0, SEGMENTS[300][2]), (2, SEGMENTS[16777215][2])]


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path / "set", [(40, 60), (33, 21)])
    return tmp_path / "set"


def make(root, transform, targets, seed=0):
    records, categories = load_records(dataset_name(root))
    return SegmentationDataset(
        records=records,
        categories=categories,
        transform=transform,
        targets=targets,
        keep_empty=False,
        seed=seed,
    )


@pytest.mark.parametrize("position", range(8))
def test_training_masks_lie_on_their_colours(root, position):
    dataset = make(root, LargeScaleJitter(size=64, min_scale=0.5), "panoptic")
    sample = dataset[SampleIndex(position, 0)]
    assert sample.image.dtype == torch.uint8 and sample.image.shape == (3, 64, 64)
    assert (sample.height, sample.width) == (40, 60)
    targets = sample.targets
    assert targets.class_ids.dtype == torch.int64 and targets.masks.dtype == torch.bool
    pixels = sample.image.permute(1, 2, 0).numpy()
    expected = [(class_id, np.all(pixels == colour, axis=-1)) for class_id, colour in CLASS_COLOURS]
    expected = [(class_id, mask) for class_id, mask in expected if mask.any()]
    assert targets.class_ids.tolist() == [class_id for class_id, _ in expected]
    for mask, (_, pure) in zip(targets.masks.numpy(), expected, strict=True):
        assert mask[pure].all()  # every pixel of the pure colour lies in the mask
        assert pure[mask].mean() > 0.4  # and the others are mixed ones along its border
    crowd = np.all(pixels == SEGMENTS[70000][2], axis=-1)
    assert not targets.masks.numpy()[:, crowd].any()


def test_semantic_targets_join_the_segments_of_a_class(root):
    sample = make(root, LargeScaleJitter(size=64, min_scale=1, max_scale=1), "semantic")[0]
    assert sample.targets.class_ids.tolist() == [0, 1, 2]
    pixels = sample.image.permute(1, 2, 0).numpy()
    cats = [np.all(pixels == SEGMENTS[i][2], axis=-1) for i in (5, 70000)]  # thing and crowd
    assert all(sample.targets.masks.numpy()[1][cat].all() for cat in cats)


def test_overlapping_instances_keep_their_own_masks(root):
    shapes = [[[0, 0, 30, 0, 30, 40, 0, 40]], [[20, 0, 60, 0, 60, 40, 20, 40]]]
    instances = Instances(shapes, np.array([4, 2]), np.array([False, False]))
    path = str(root / "images" / "1.png")
    dataset = SegmentationDataset(
        records=[Record(1, path, 40, 60, 5, instances=instances)],
        categories=None,
        transform=ShortestEdgeResize(short=40, long=60),
        targets="instances",
    )
    targets = dataset[0].targets
    assert targets.class_ids.tolist() == [4, 2]
    assert targets.masks[:, 20, [10, 25, 50]].tolist() == [[True, True, False], [False, True, True]]


def test_objects_that_vanish_are_left_out():
    maps = np.array([[[0, 2], [2, 4]]], dtype=np.uint8)
    labels = LabelMaps(maps, np.array([1, 2, 3, 4]), np.array([9, 8, 7, 6]))
    targets = cut_masks(labels, keep_empty=False)
    assert targets.class_ids.tolist() == [8, 6]
    assert targets.masks.int().tolist() == [[[0, 1], [1, 0]], [[0, 0], [0, 1]]]
    nothing = LabelMaps(np.zeros_like(maps), np.array([1]), np.array([9]))
    empty = cut_masks(nothing, keep_empty=False)
    assert empty.masks.shape == (0, 2, 2) and empty.class_ids.shape == (0,)
    planeless = LabelMaps(np.zeros((0, 2, 2), np.uint8), np.zeros(0, int), np.zeros(0, int))
    for keep_empty in (False, True):
        assert cut_masks(planeless, keep_empty=keep_empty).masks.shape == (0, 2, 2)


def test_objects_that_vanish_stay_where_they_are_wanted():
    maps = np.array([[[0, 2], [2, 4]]], dtype=np.uint8)
    # 258 is 2 in eight bits, and in none of the pixels
    labels = LabelMaps(maps, np.array([1, 2, 258]), np.array([9, 8, 7]))
    targets = cut_masks(labels, keep_empty=True)
    assert targets.class_ids.tolist() == [9, 8, 7]
    assert targets.masks.int().tolist() == [[[0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 0]]]
    assert cut_masks(labels, keep_empty=False).class_ids.tolist() == [8]


@pytest.mark.parametrize("keep_empty", [True, False])
def test_crops_keep_or_drop_what_they_cut_off(root, keep_empty):
    records, categories = load_records(dataset_name(root))
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=LargeScaleJitter(size=64, min_scale=3, max_scale=3),
        targets="panoptic",
        keep_empty=keep_empty,
    )
    found = [dataset[SampleIndex(position, 0)].targets for position in range(12)]
    cut_off = sum(int((~targets.masks.any((1, 2))).sum()) for targets in found)
    objects = {tuple(targets.class_ids.tolist()) for targets in found}
    if keep_empty:
        assert cut_off > 0 and objects == {tuple(class_id for class_id, _ in CLASS_COLOURS)}
    else:
        assert cut_off == 0 and len(objects) > 1


def test_test_samples_are_resized_and_know_their_size(root):
    sample = make(root, ShortestEdgeResize(short=80, long=100), None)[1]
    assert sample.targets is None and (sample.height, sample.width) == (33, 21)
    resized = Image.open(root / "images" / "2.png").resize((64, 100), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), np.asarray(resized))


def test_chance_depends_on_seed_position_and_item_alone(root):
    transform = LargeScaleJitter(size=32)
    dataset = make(root, transform, "panoptic")
    first = dataset[SampleIndex(3, 0)].image
    dataset[SampleIndex(4, 1)]
    assert torch.equal(dataset[SampleIndex(3, 0)].image, first)
    assert not torch.equal(dataset[SampleIndex(4, 0)].image, first)
    assert not torch.equal(
        make(root, transform, "panoptic", seed=1)[SampleIndex(3, 0)].image, first
    )


def test_a_broken_or_exchanged_image_is_named(root):
    dataset = make(root, LargeScaleJitter(size=32), "panoptic")
    Image.new("RGB", (60, 41)).save(root / "images" / "1.png")
    with pytest.raises(UserError, match=r"images/1.png: is 41 x 60 .* annotation says 40 x 60"):
        dataset[0]
    (root / "images" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"images/1.png: "):
        dataset[0]


def test_a_label_map_of_another_size_is_named(root, tmp_path):
    path = tmp_path / "labels.png"
    Image.new("L", (61, 40)).save(path)
    dataset = SegmentationDataset(
        records=[
            Record("1", str(root / "images" / "1.png"), None, None, 3, semantic_path=str(path))
        ],
        categories=None,
        transform=LargeScaleJitter(size=32),
        targets="semantic",
    )
    with pytest.raises(UserError, match=r"labels.png: is 40 x 61 .*its image is 40 x 60"):
        dataset[0]


@pytest.mark.parametrize(
    ("scales", "flips", "expected"),
    [((1.0, 1.0), 0.0, 1), ((1.0, 1.0), 1.0, 1), ((0.7, 0.7), 0.5, 2), ((0.9, 1.0), 0.0, None)],
)
def test_views_are_counted(root, scales, flips, expected):
    least, most = scales
    transform = LargeScaleJitter(size=64, min_scale=least, max_scale=most, flip_probability=flips)
    assert transform.num_views == expected
    dataset = make(root, transform, "panoptic")
    seen = {dataset[SampleIndex(position, 0)].image.numpy().tobytes() for position in range(20)}
    assert len(seen) == expected or (expected is None and len(seen) > 2)


def test_crops_of_one_scale_are_views_without_end(root):
    transform = LargeScaleJitter(size=64, min_scale=1.5, max_scale=1.5, flip_probability=0)
    assert transform.num_views is None
    dataset = make(root, transform, "panoptic")
    seen = {dataset[SampleIndex(position, 0)].image.numpy().tobytes() for position in range(20)}
    assert len(seen) > 2


def test_fixed_views_come_again_in_turn_and_in_every_run(root):
    transform = LargeScaleJitter(size=64, min_scale=0.8, max_scale=1.5)
    plain = make(root, transform, "panoptic")
    runs = [dataclasses.replace(plain, fixed_views=2, seed=seed) for seed in (0, 5)]
    first, again = (
        [run[SampleIndex(epoch * len(run), 0)].image for epoch in range(4)] for run in runs
    )
    assert all(map(torch.equal, first, again))
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], first[3])
    assert not torch.equal(first[0], first[1])
    last = runs[0][SampleIndex(len(plain) - 1, 0)]  # wherever in the epoch it is drawn
    assert torch.equal(first[0], last.image)


@pytest.mark.parametrize("position", range(6))
def test_content_is_what_is_not_padding(root, position):
    transform = LargeScaleJitter(size=64, min_scale=0.5, max_scale=1.5, pad_value=7)
    sample = make(root, transform, "panoptic")[SampleIndex(position, 0)]
    painted = (sample.image != 7).any(0)  # no colour of the pictures is this grey
    rows, columns = painted.any(1).nonzero(), painted.any(0).nonzero()
    assert sample.unpadded_size == (int(rows.max()) + 1, int(columns.max()) + 1)


@pytest.mark.parametrize("position", range(4))
def test_background_goes_with_the_picture(root, position):
    """With two of three classes asked for: labelled is what is neither void nor padding."""
    records, categories = load_records(dataset_name(root))
    records = [dataclasses.replace(record, classes=(2, 0)) for record in records]
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=LargeScaleJitter(size=64, min_scale=0.5),
        targets="semantic",
    )
    sample = dataset[SampleIndex(position, 0)]
    targets, pixels = sample.targets, sample.image.permute(1, 2, 0).numpy()
    colours = {name: np.all(pixels == SEGMENTS[name][2], axis=-1) for name in SEGMENTS}
    masks = dict(zip(targets.class_ids.tolist(), targets.masks.numpy(), strict=True))
    nothing = np.zeros((64, 64), bool)
    for class_id, segment in ((0, 16777215), (1, 300)):
        assert masks.get(class_id, nothing)[colours[segment]].all()
    cat = colours[5] | colours[70000]
    assert targets.labelled.dtype == torch.bool
    labelled = targets.labelled.numpy()
    assert labelled[cat].all() and not any(mask[cat].any() for mask in masks.values())
    assert not labelled[np.all(pixels == VOID_COLOUR, axis=-1)].any()
    height, width = sample.unpadded_size
    assert not labelled[height:].any() and not labelled[:, width:].any()
    assert not (np.any([*masks.values(), nothing], axis=0) & ~labelled).any()


def test_without_background_nothing_more_is_carried(root):
    for targets in ("panoptic", "semantic"):
        assert make(root, ShortestEdgeResize(), targets)[0].targets.labelled is None


@pytest.mark.parametrize("position", range(4))
def test_objects_are_decoded_one_after_the_other(root, position, monkeypatch):
    """Planes of all objects of a large picture need gigabytes; the masks are those of all of them
    at once."""
    boxes = [[2, 3, 30, 3, 30, 20, 2, 20], [0, 0, 60, 0, 60, 40, 0, 40], [50, 9, 59, 9, 55, 39]]
    instances = Instances(
        segmentations=[[box] for box in boxes],
        class_ids=np.array([2, 0, 1], np.int32),
        is_crowd=np.array([False, True, False]),
    )
    image = str(root / "images" / "1.png")
    record = Record("1", image, 40, 60, 3, instances=instances)
    jitter = LargeScaleJitter(size=48, min_scale=0.5, max_scale=3)
    dataset = SegmentationDataset(
        records=[record], categories=None, transform=jitter, targets="instances", seed=3
    )
    planes, _ = load_instances(record)
    generator = seeded_generator(3, SAMPLE_STREAM, position, 0)
    pixels, expected = jitter(load_image(record), planes[[0, 2]], generator)

    counts, decode = [], annotations.decode_segmentations

    def decode_segmentations(segmentations, height, width):
        counts.append(len(segmentations))
        return decode(segmentations, height, width)

    monkeypatch.setattr(annotations, "decode_segmentations", decode_segmentations)
    sample = dataset[SampleIndex(position, 0)]
    assert counts == [1, 1]
    assert np.array_equal(sample.targets.masks.numpy(), expected)
    assert sample.targets.class_ids.tolist() == [2, 1]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels)
