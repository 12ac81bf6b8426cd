"""Duplicates: compared with loops over the finds, and the results for objects found twice."""

import numpy as np
import torch

from frozenseg.inference.duplicates import duplicates, uncovered
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.runtime import mask_ious as module
from frozenseg.runtime.mask_ious import covered_shares, mask_ious
from tests.inference.test_postprocess_exact import CLASSES, WORDS, proposals_of_sam

SIZE = (12, 16)


def test_ious_equal_counting(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, 7, 9, generator=generator) > 0.6 for n in (5, 4))
    first[2] = second[1] = False  # two empty masks
    expected, shares = np.zeros((2, 5, 4))
    for row, one in enumerate(first.numpy()):
        for column, other in enumerate(second.numpy()):
            both = (one | other).sum()
            expected[row, column] = (one & other).sum() / both if both else 0
            shares[row, column] = (one & other).sum() / one.sum() if one.any() else 0
    for at_once in (10, module.PIXELS_AT_ONCE):  # in several parts, and in one
        monkeypatch.setattr(module, "PIXELS_AT_ONCE", at_once)
        np.testing.assert_allclose(mask_ious(first, second), expected, atol=1e-7)
        np.testing.assert_allclose(covered_shares(first, second), shares, atol=1e-7)


def test_a_find_is_left_out_for_a_better_one_of_its_class_and_mask() -> None:
    generator = torch.Generator().manual_seed(1)
    class_ids = torch.randint(3, (30,), generator=generator)
    scores = torch.randint(6, (30,), generator=generator) / 6  # many are equal
    same = torch.rand(30, 30, generator=generator) > 0.7
    same = same | same.T
    expected = [
        any(
            same[one, other]
            and class_ids[one] == class_ids[other]
            # Of equal scores, the first is the better one.
            and (scores[other] > scores[one] or (scores[other] == scores[one] and other < one))
            for other in range(30)
        )
        for one in range(30)
    ]
    assert 5 < sum(expected) < 25
    assert duplicates(class_ids, scores, same).tolist() == expected


def test_a_find_is_left_out_for_a_better_one_that_stays_and_covers_it() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(6, (30,), generator=generator) / 6  # many are equal
    covers = torch.rand(30, 30, generator=generator) > 0.9
    expected: list[int] = []
    for find in sorted(range(30), key=lambda find: (-scores[find], find)):
        if not any(covers[find, better] for better in expected):
            expected.append(find)
    assert 10 < len(expected) < 25
    assert uncovered(scores, covers).nonzero()[:, 0].tolist() == sorted(expected)


def seen_by(finds: list[tuple[int, float, slice]], **options: float):
    """Post-process queries (class, logit, columns that the mask fills)."""
    class_logits = torch.zeros(len(finds), CLASSES + 1)
    masks = torch.full((len(finds), *SIZE), -8.0)
    for query, (class_id, logit, columns) in enumerate(finds):
        class_logits[query, class_id] = logit
        # Masks of the same columns are equal nowhere, and each is larger at half of the pixels.
        masks[query, :, columns] = torch.where(torch.arange(12) % 2 == query % 2, 3.0, 2.5)[:, None]
    process = PostProcessor(semantic=False, **options)
    return process(class_logits, masks, MaskResizer.identity(SIZE), WORDS)


def test_an_object_found_twice_is_lost_as_published_and_stays_without_duplicates() -> None:
    twice = [(2, 5.0, slice(0, 8)), (2, 5.0, slice(0, 8)), (4, 5.0, slice(8, 16))]
    published, without = seen_by(twice), seen_by(twice, duplicate_iou=0.5)
    assert [segment.class_id for segment in published.panoptic.segments] == [4]
    assert [segment.class_id for segment in without.panoptic.segments] == [2, 4]
    assert without.panoptic.segments[0].area == 12 * 8
    best = published.instances.scores > 0.5  # the other classes of each query follow far behind
    assert published.instances.class_ids[best].tolist().count(2) == 2
    best = without.instances.scores > 0.5
    assert sorted(without.instances.class_ids[best].tolist()) == [2, 4]


def test_a_mask_over_two_objects_loses_one_as_published_and_none_where_covered_ones_go() -> None:
    finds = [(2, 8.0, slice(0, 8)), (1, 4.0, slice(4, 16)), (4, 3.0, slice(8, 16))]
    published, without = seen_by(finds), seen_by(finds, covered_share=0.2)
    # The second find is more probable than the third and takes all of its pixels, but loses too
    # many of its own to the first.
    assert [segment.class_id for segment in published.panoptic.segments] == [2]
    assert [(s.class_id, s.area) for s in without.panoptic.segments] == [(2, 96), (4, 96)]
    spared = seen_by(finds, covered_share=0.4)  # a third of it is covered
    np.testing.assert_array_equal(spared.panoptic.ids, published.panoptic.ids)


def test_a_mask_of_no_class_covers_nothing() -> None:
    finds = [(CLASSES, 6.0, slice(0, 16)), (4, 4.0, slice(8, 16))]
    assert [s.class_id for s in seen_by(finds, covered_share=0.2).panoptic.segments] == [4]


def test_other_classes_and_other_masks_are_no_duplicates() -> None:
    finds = [(2, 5.0, slice(0, 8)), (4, 4.0, slice(0, 8)), (2, 4.5, slice(7, 16))]
    published, without = seen_by(finds), seen_by(finds, duplicate_iou=0.5)
    np.testing.assert_array_equal(published.panoptic.ids, without.panoptic.ids)
    pairs = [
        list(zip(r.class_ids, r.scores, strict=True))
        for r in (published.instances, without.instances)
    ]
    sure = [[pair for pair in row if pair[1] > 0.3] for row in pairs]
    assert sure[0] == sure[1] and len(sure[0]) == 3


def test_padding_does_not_tell_masks_apart() -> None:
    """Two masks agree in the image and differ in its padding."""
    class_logits = torch.zeros(2, CLASSES + 1)
    class_logits[:, 2] = 5.0
    masks = torch.full((2, 8, 16), -5.0)
    masks[:, :, :4] = 5.0
    masks[0, :, 8:] = 5.0
    resizer = MaskResizer(
        mask_size=(8, 16), padded_size=(32, 64), image_size=(32, 30), output_size=(32, 30)
    )
    process = PostProcessor(semantic=False, duplicate_iou=0.9)
    result = process(class_logits, masks, resizer, WORDS)
    assert (result.instances.class_ids[result.instances.scores > 0.5] == 2).sum() == 1


def test_a_proposal_of_sam_is_a_duplicate_too() -> None:
    sam = proposals_of_sam(3, SIZE)
    sam.class_logits[0], sam.predicted_iou[0] = torch.zeros(CLASSES + 1), 1.0
    sam.class_logits[0, 4] = 4.0  # an unseen class
    class_logits = torch.zeros(1, CLASSES + 1)
    class_logits[0, 4] = 6.0
    masks = sam.mask_logits[:1] + 0.5

    def count(iou: float) -> int:
        process = PostProcessor(
            semantic=False, panoptic=False, sam_weight=1.0, sam_threshold=0.0, duplicate_iou=iou
        )
        found = process(class_logits, masks, MaskResizer.identity(SIZE), WORDS, sam).instances
        return ((found.scores > 0.5) & (found.class_ids == 4)).sum()

    assert count(0.0) == count(0.5) + 1
