"""Post-processing, compared with a slow implementation of its rules, in one band and in many."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from frozenseg.inference import postprocess
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.regions import mask_boxes
from frozenseg.inference.resize import MaskResizer
from frozenseg.structures import Prediction
from frozenseg.text.vocabulary import Vocabulary

from .slow_rules import slow_box, slow_instances, slow_panoptic, slow_semantic

SIZE = (24, 31)


def make_case(seed: int, queries: int = 12, classes: int = 5) -> tuple[torch.Tensor, ...]:
    """Return class logits, smooth mask logits at output size, and a vocabulary in which every other
    class is a thing."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = 2 * torch.randn(queries, classes + 1, generator=generator)
    coarse = 3 * torch.randn(1, queries, 4, 5, generator=generator)
    masks = F.interpolate(coarse, size=SIZE, mode="bicubic")[0]
    return class_logits, masks, make_vocabulary(classes)


def make_vocabulary(classes: int) -> Vocabulary:
    return Vocabulary(
        tuple((f"class {number}",) for number in range(classes)),
        tuple(number % 2 == 0 for number in range(classes)),
    )


def process(
    class_logits: torch.Tensor, masks: torch.Tensor, words: Vocabulary, **options: object
) -> Prediction:
    resizer = MaskResizer.identity((masks.shape[-2], masks.shape[-1]))
    return PostProcessor(**options)(class_logits, masks, resizer, words)


@pytest.fixture(params=[24_000_000, 1, 2000], ids=["one band", "row by row", "some bands"])
def _bands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postprocess.BAND_ELEMENTS, "cpu", request.param)


@pytest.mark.usefixtures("_bands")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("object_threshold", "overlap"), [(0.0, 0.8), (0.4, 0.5), (0.0, 0.0)])
def test_panoptic_follows_the_rules(seed: int, object_threshold: float, overlap: float) -> None:
    class_logits, masks, words = make_case(seed)
    ours = process(
        class_logits,
        masks,
        words,
        object_mask_threshold=object_threshold,
        overlap_threshold=overlap,
    ).panoptic
    ids, segments = slow_panoptic(
        class_logits.numpy(), masks.numpy(), words.is_thing, object_threshold, overlap
    )
    np.testing.assert_array_equal(ours.ids, ids)
    assert ours.ids.dtype == np.int32
    assert len(ours.segments) == len(segments)
    for number, (segment, (label, area, score)) in enumerate(
        zip(ours.segments, segments, strict=True), 1
    ):
        assert (segment.id, segment.class_id, segment.area) == (number, label, area)
        assert segment.score == pytest.approx(score, rel=1e-5)
        assert segment.box == slow_box(ids == number)
        assert segment.name == f"class {label}" and segment.is_thing == (label % 2 == 0)


def test_the_cases_cover_all_rules() -> None:
    """They have merged stuff, dropped queries, several things of one class, and void pixels."""
    merged = dropped = twins = empty = 0
    for seed in range(6):
        class_logits, masks, words = make_case(seed)
        ids, segments = slow_panoptic(class_logits.numpy(), masks.numpy(), words.is_thing, 0.0, 0.0)
        labels = class_logits.argmax(-1).tolist()
        stuff = [label for label in labels if label % 2 == 1 and label < 5]
        merged += len(stuff) > len(set(stuff))
        strict, fewer = slow_panoptic(class_logits.numpy(), masks.numpy(), words.is_thing, 0.0, 0.8)
        dropped += len(fewer) < len(segments)
        things = [label for label, _, _ in segments if label % 2 == 0]
        twins += len(things) > len(set(things))
        empty += bool((strict == 0).any())
    assert min(merged, dropped, twins, empty) >= 2


@pytest.mark.usefixtures("_bands")
@pytest.mark.parametrize("seed", range(3))
def test_semantic_is_the_largest_sum_over_queries(seed: int) -> None:
    class_logits, masks, words = make_case(seed)
    result = process(class_logits, masks, words, semantic_scores=True)
    expected = slow_semantic(class_logits.numpy(), masks.numpy())
    np.testing.assert_allclose(result.semantic_scores, expected, atol=1e-5)
    assert result.semantic.dtype == np.int32
    assert (result.semantic == expected.argmax(0)).mean() > 0.999  # ties within rounding


@pytest.mark.usefixtures("_bands")
@pytest.mark.parametrize("count", [1, 7, 20, 1000])
def test_instances_are_the_best_pairs_with_things(count: int) -> None:
    class_logits, masks, words = make_case(0)
    ours = process(class_logits, masks, words, detections_per_image=count).instances
    expected = slow_instances(class_logits.numpy(), masks.numpy(), words.is_thing, count)
    assert len(ours) == len(expected) == len(ours.masks) == len(ours.names)
    np.testing.assert_allclose(ours.scores, [score for score, _, _ in expected], rtol=1e-5)
    assert ours.class_ids.tolist() == [label for _, label, _ in expected]
    assert ours.names == [f"class {label}" for _, label, _ in expected]
    for mask, box, (_, _, query) in zip(ours.masks, ours.boxes, expected, strict=True):
        np.testing.assert_array_equal(mask, masks[query].numpy() > 0)
        assert tuple(box) == slow_box(mask)
    assert (np.diff(ours.scores) <= 0).all()


def test_boxes_of_masks() -> None:
    masks = torch.zeros(4, 6, 9, dtype=torch.bool)
    masks[0, 2, 3] = masks[1, 0, 0] = masks[1, 5, 8] = True
    masks[3] = torch.rand(6, 9) < 0.1
    expected = [slow_box(mask) for mask in masks.numpy()]
    assert [tuple(box) for box in mask_boxes(masks).tolist()] == expected
    assert expected[2] == (0, 0, 0, 0)
    assert mask_boxes(torch.zeros(0, 6, 9, dtype=torch.bool)).shape == (0, 4)


def check_nothing(result: Prediction) -> None:
    assert not result.panoptic.ids.any() and result.panoptic.segments == []
    assert result.panoptic.ids.shape == SIZE


def test_all_void_finds_no_segment() -> None:
    class_logits, masks, words = make_case(0)
    class_logits[:, -1] = 50
    result = process(class_logits, masks, words)
    check_nothing(result)
    assert result.semantic.shape == SIZE and (result.instances.scores < 1e-6).all()


def test_masks_without_a_pixel_find_nothing() -> None:
    class_logits, _, words = make_case(0)
    result = process(class_logits, torch.full((12, *SIZE), -8.0), words)
    check_nothing(result)
    assert not result.instances.masks.any() and not result.instances.scores.any()
    assert not result.instances.boxes.any()


def test_a_threshold_above_all_scores_finds_nothing() -> None:
    class_logits, masks, words = make_case(0)
    check_nothing(process(class_logits, masks, words, object_mask_threshold=1.0))


@pytest.mark.parametrize("is_thing", [True, False])
def test_one_class(is_thing: bool) -> None:
    class_logits, masks, _ = make_case(3, classes=1)
    words = Vocabulary((("all",),), (is_thing,))
    result = process(class_logits, masks, words, overlap_threshold=0.3)
    ids, segments = slow_panoptic(class_logits.numpy(), masks.numpy(), (is_thing,), 0.0, 0.3)
    np.testing.assert_array_equal(result.panoptic.ids, ids)
    assert len(result.panoptic.segments) == len(segments) > 0
    assert not result.semantic.any()
    assert len(result.instances) == (12 if is_thing else 0)
    assert result.instances.masks.shape[1:] == SIZE


def test_only_requested_results_are_made() -> None:
    class_logits, masks, words = make_case(0)
    none = {"panoptic": False, "semantic": False, "instances": False}
    result = process(class_logits, masks, words, **none)
    assert (result.panoptic, result.semantic, result.instances, result.proposals) == (None,) * 4
    result = process(class_logits, masks, words, **none, proposals=True)
    np.testing.assert_array_equal(result.proposals, masks.numpy() > 0)
    result = process(class_logits, masks, words, **{**none, "panoptic": True})
    assert result.panoptic is not None and result.instances is None and result.semantic is None
    assert result.semantic_scores is None


@pytest.mark.usefixtures("_bands")
@pytest.mark.parametrize("at_output", [True, False])
def test_semantic_scores_at_output_or_at_input_size(at_output: bool) -> None:
    """At input size, sigmoid and sum are computed at the size of the network's input, and then the
    scores are resized."""
    class_logits, _, words = make_case(0)
    masks = 4 * torch.randn(12, 8, 16)
    padded, image, output = (32, 64), (27, 60), (45, 50)
    resizer = MaskResizer(
        mask_size=(8, 16), padded_size=padded, image_size=image, output_size=output
    )
    processor = PostProcessor(
        panoptic=False, instances=False, semantic_scores=True, masks_at_output_size=at_output
    )
    ours = processor(class_logits, masks, resizer, words).semantic_scores
    large = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)
    large = large[..., : image[0], : image[1]]
    if at_output:
        large = F.interpolate(large, size=output, mode="bilinear", align_corners=False)
        expected = slow_semantic(class_logits.numpy(), large[0].numpy())
    else:
        scores = torch.from_numpy(slow_semantic(class_logits.numpy(), large[0].numpy()))
        expected = F.interpolate(scores[None], size=output, mode="bilinear", align_corners=False)[
            0
        ].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_permuted_queries_give_the_same_semantic_and_instances() -> None:
    class_logits, masks, words = make_case(1)
    order = torch.randperm(12)
    one = process(class_logits, masks, words)
    other = process(class_logits[order], masks[order], words)
    assert (one.semantic == other.semantic).mean() > 0.999
    np.testing.assert_allclose(one.instances.scores, other.instances.scores, rtol=1e-5)
    assert {(s.class_id, s.area, s.box) for s in one.panoptic.segments} == {
        (s.class_id, s.area, s.box) for s in other.panoptic.segments
    }


MEMORY = """
import re, torch
from pathlib import Path
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.text.vocabulary import Vocabulary

torch.set_num_threads(1)
words = Vocabulary(tuple((f"class {n}",) for n in range(847)), (True,) * 847)
logits, masks = torch.randn(250, 848), torch.randn(250, 256, 512)
resizer = MaskResizer(
    mask_size=(256, 512), padded_size=(1024, 2048), image_size=(1024, 2048),
    output_size=(1024, 2048),
)
process = PostProcessor(panoptic=False, instances=False)
process(logits, masks[:, :8, :8].contiguous(), MaskResizer.identity((8, 8)), words)  # warm up

def peak():  # in GB; getrusage would include the peak of the parent process
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024**2

before = peak()
ids = process(logits, masks, resizer, words).semantic
assert ids.shape == (1024, 2048)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory: Linux only")
def test_847_classes_on_two_megapixels_stay_under_2_5_gigabytes(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """All scores together would take 7.1 GB. A separate process measures the peak, in GB above the
    memory that was used before."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    record_property("peak_gb", float(done.stdout))
    with capsys.disabled():
        sys.stdout.write(f" [+{float(done.stdout):.2f} GB] ")
    assert 0.008 < float(done.stdout) < 2.5  # at least the class ids themselves


@pytest.mark.usefixtures("_bands")
def test_semantic_with_a_least_score() -> None:
    """The class is -1 where the best score does not exceed the threshold, and the same as without a
    threshold elsewhere."""
    class_logits, masks, words = make_case(3)
    found = process(class_logits, masks, words, semantic_scores=True)
    best = found.semantic_scores.max(0)
    least = float(np.median(best))
    ours = process(class_logits, masks, words, semantic_threshold=least).semantic
    np.testing.assert_array_equal(ours, np.where(best > least, found.semantic, -1))
    assert 0 < (ours < 0).sum() < ours.size
    assert not PostProcessor(panoptic=False, semantic=False, instances=False).has_outputs
    assert PostProcessor(
        panoptic=False, semantic=False, instances=False, proposals=True
    ).has_outputs
