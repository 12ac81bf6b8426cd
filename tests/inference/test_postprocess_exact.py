"""Post-processing is exact to the bit, at every pixel, for one task and for several.

The tests use one thread, and widths that are multiples of the CPU's vectors. Otherwise PyTorch's
sigmoid computes the last elements of a tensor one by one, and their last bit may differ from that
of the same elements inside a vector.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.inference import postprocess
from frozenseg.inference.accumulators import max_with_first_index
from frozenseg.inference.join_proposals import ClassifiedProposals, proposal_class_probs
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.structures import InstanceResult, Prediction
from frozenseg.text.vocabulary import Vocabulary

CLASSES = 6
WORDS = Vocabulary(
    tuple((f"class {number}",) for number in range(CLASSES)),
    tuple(number % 2 == 0 for number in range(CLASSES)),
)
TASKS = ("panoptic", "semantic", "instances", "proposals")
SIZES = {  # mask at stride 4, padded input, image inside it, output
    "upscaled": ((16, 24), (64, 96), (50, 77), (101, 192)),
    "downscaled": ((16, 24), (64, 96), (64, 90), (23, 64)),
    "as it is": ((21, 32), (21, 32), (21, 32), (21, 32)),
}
WEIGHT, THRESHOLD = 0.8, 0.2  # for SAM's proposals


def random_case(seed: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(30, CLASSES + 1, generator=generator)
    coarse = 3 * torch.randn(1, 30, 5, 6, generator=generator)
    return logits, F.interpolate(coarse, size, mode="bicubic")[0]


def confident_case(seed: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a case like that of a trained model: 9 sharp queries share the image, and most others
    are void. Some others are exact twins, or twins except for the last bit of the mask or score,
    and one has no pixel."""
    generator = torch.Generator().manual_seed(seed)
    parts = F.interpolate(torch.randn(1, 9, 4, 5, generator=generator), size, mode="bicubic")[0]
    best, second = parts.topk(2, 0).values
    masks = torch.full((40, *size), -12.0) + torch.randn(40, *size, generator=generator)
    logits = torch.randn(40, CLASSES + 1, generator=generator)
    logits[:, -1] += 9
    live = torch.randperm(40, generator=generator)[:13]
    masks[live[:9]] = 9 * torch.where(parts == best, best - second, parts - best)
    logits[live[:9], -1] -= 12
    logits[live[:9], torch.arange(9) % CLASSES] += 6
    for twin, original in zip(live[9:12], live[:3], strict=True):
        masks[twin], logits[twin] = masks[original], logits[original]
    masks[live[10]] = masks[live[10]].nextafter(torch.tensor(99.0))
    logits[live[11], -1] = logits[live[11], -1].nextafter(torch.tensor(-99.0))
    masks[live[12]], logits[live[12]] = -20.0, logits[live[0]]
    return logits, masks


def tied_case(seed: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return integer masks, so that many queries are equal at many pixels, with equal scores."""
    logits, masks = random_case(seed, size)
    return logits[:1].repeat(len(logits), 1).index_fill(1, torch.tensor([2]), 5.0), masks.round()


def half_case(seed: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return masks whose probabilities are exactly one half or much lower."""
    logits, masks = random_case(seed, size)
    return logits, torch.where(masks > 0, 0.0, -5.0)


CASES = {"random": random_case, "confident": confident_case, "tied": tied_case, "half": half_case}


def proposals_of_sam(seed: int, size: tuple[int, int]) -> ClassifiedProposals:
    generator = torch.Generator().manual_seed(seed)
    return ClassifiedProposals(
        class_logits=3 * torch.randn(8, CLASSES + 1, generator=generator),
        mask_logits=6 * torch.randn(8, *size, generator=generator),
        predicted_iou=torch.rand(8, generator=generator),
        seen=torch.arange(CLASSES) < 3,
    )


def written_out(
    probabilities: Tensor, logits: Tensor, least: float, overlap: float
) -> tuple[np.ndarray, list[tuple[int, float, int]]]:
    """Return panoptic ids and the (class, score, area) of every segment, computed in float32, one
    query after the other.

    probabilities: (Q, K + 1). logits: (Q, H, W) at output size.
    """
    scores, labels = probabilities.max(-1)
    best, winner = torch.full(logits.shape[1:], -1.0), torch.full(logits.shape[1:], -1)
    kept = [q for q in range(len(logits)) if labels[q] < CLASSES and scores[q] > least]
    soft = logits.sigmoid()
    for query in kept:
        better = soft[query] * scores[query] > best
        best[better], winner[better] = (soft[query] * scores[query])[better], query
    ids, found, of_class = np.zeros(logits.shape[1:], dtype=np.int32), [], {}
    for query in kept:
        own, won = soft[query] >= 0.5, winner == query
        label, score = int(labels[query]), float(scores[query])
        if not (own & won).any() or int(won.sum()) / int(own.sum()) < overlap:
            continue
        number = of_class.get(label, len(found) + 1)
        if number > len(found):
            found.append((label, score))
        if not WORDS.is_thing[label]:
            of_class[label] = number
        found[number - 1] = (label, max(score, found[number - 1][1]))
        ids[(own & won).numpy()] = number
    return ids, [(*entry, int((ids == n).sum())) for n, entry in enumerate(found, 1)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 10**9], ids=["rows", "one band"])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of rows of a band: one, or all."""
    monkeypatch.setitem(postprocess.BAND_ELEMENTS, "cpu", request.param)
    return 1 if request.param == 1 else 10**6


def make_resizer(name: str) -> MaskResizer:
    mask, padded, image, output = SIZES[name]
    return MaskResizer(mask_size=mask, padded_size=padded, image_size=image, output_size=output)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_sam", [False, True])
@pytest.mark.parametrize(("least", "overlap"), [(0.0, 0.8), (0.0, 0.0), (0.3, 0.3)])
def test_panoptic_is_every_query_at_every_pixel(
    size: str, case: str, with_sam: bool, least: float, overlap: float, step: int
) -> None:
    logits, masks = CASES[case](0, SIZES[size][0])
    sam_proposals = proposals_of_sam(0, SIZES[size][0]) if with_sam else None
    process = PostProcessor(
        semantic=False,
        instances=False,
        object_mask_threshold=least,
        overlap_threshold=overlap,
        sam_weight=WEIGHT,
        sam_threshold=THRESHOLD,
    )
    resizer = make_resizer(size)
    ours = process(logits, masks, resizer, WORDS, sam_proposals).panoptic
    probabilities = logits.softmax(-1)
    if sam_proposals is not None:
        sam_probs = proposal_class_probs(sam_proposals, weight=WEIGHT, threshold=THRESHOLD)
        probabilities = torch.cat((probabilities, sam_probs))
        masks = torch.cat((masks, sam_proposals.mask_logits))
    height = resizer.output_size[0]
    bands = [resizer.rows(masks, row, min(row + step, height)) for row in range(0, height, step)]
    ids, segments = written_out(probabilities, torch.cat(bands, 1), least, overlap)
    np.testing.assert_array_equal(ours.ids, ids)
    assert segments or (overlap > 0 and case != "confident")
    assert [(s.class_id, s.score, s.area) for s in ours.segments] == segments


def assert_same(one: Prediction, other: Prediction, tasks: tuple[str, ...]) -> None:
    """Compare the results of these tasks to the bit."""
    for name in {"semantic", "proposals"}.intersection(tasks):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    if "panoptic" in tasks:
        np.testing.assert_array_equal(one.panoptic.ids, other.panoptic.ids)
        assert one.panoptic.segments == other.panoptic.segments
    if "instances" in tasks:
        assert_same_instances(one.instances, other.instances)


def assert_same_instances(one: InstanceResult, other: InstanceResult) -> None:
    assert one.names == other.names
    for name in ("boxes", "masks", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_sam", [False, True])
def test_tasks_alone_equal_tasks_together(size: str, case: str, with_sam: bool) -> None:
    """Each task needs other masks; several tasks together share them."""
    logits, masks = CASES[case](1, SIZES[size][0])
    sam_proposals = proposals_of_sam(1, SIZES[size][0]) if with_sam else None

    def run(*tasks: str) -> Prediction:
        wanted = {name: name in tasks for name in TASKS}
        process = PostProcessor(
            **wanted, sam_weight=WEIGHT, detections_per_image=12, overlap_threshold=0.1
        )
        return process(logits, masks, make_resizer(size), WORDS, sam_proposals)

    together = run(*TASKS)
    assert together.panoptic.segments and len(together.instances)
    for count in (1, 2, 3):
        for tasks in itertools.combinations(TASKS, count):
            assert_same(run(*tasks), together, tasks)


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of masks that are resized, for each band."""
    counts: list[int] = []
    rows: Callable[..., Tensor] = MaskResizer.rows

    def noting(self: MaskResizer, masks: Tensor, start: int, stop: int) -> Tensor:
        counts.append(len(masks))
        return rows(self, masks, start, stop)

    monkeypatch.setattr(MaskResizer, "rows", noting)
    return counts


@pytest.mark.parametrize(
    "tasks", [("panoptic",), ("instances",), ("panoptic", "instances"), TASKS[:2], TASKS[3:]]
)
def test_only_masks_that_a_task_needs_are_resized(
    tasks: tuple[str, ...], resized: list[int]
) -> None:
    logits, masks = random_case(2, (16, 24))
    pairs = logits.softmax(-1)[:, :-1].flatten().topk(60).indices.tolist()
    needed = {
        "panoptic": {q for q in range(30) if logits[q].argmax() < CLASSES},
        "instances": {pair // CLASSES for pair in pairs if WORDS.is_thing[pair % CLASSES]},
    }
    assert needed["panoptic"] - needed["instances"] and needed["instances"] - needed["panoptic"]
    union = set().union(*(needed.get(name, range(30)) for name in tasks))
    process = PostProcessor(**{name: name in tasks for name in TASKS}, detections_per_image=60)
    process(logits, masks, make_resizer("upscaled"), WORDS)
    assert set(resized) == {len(union)}


def test_nothing_is_resized_where_no_query_passes(resized: list[int]) -> None:
    logits, masks = confident_case(0, (16, 24))
    process = PostProcessor(semantic=False, instances=False, object_mask_threshold=1.0)
    result = process(logits, masks, make_resizer("upscaled"), WORDS)
    assert not resized and not result.panoptic.ids.any()


@pytest.mark.parametrize("count", [1, 2, 7, 250, 1203])
def test_the_largest_and_its_first_place(count: int) -> None:
    """The values: random, integers with many ties, neighbours in float32, zeros, and infinities."""
    values = torch.randn(count, 9, 16)
    values[:, 0] = values[:, 0].round()
    values[:, 1] = 0.5
    values[:, 2] = torch.tensor(0.5).nextafter(torch.tensor(1.0))
    values[:: max(1, count // 3), 2] = torch.tensor(0.5).nextafter(torch.tensor(0.0))
    values[:, 3] = torch.tensor([0.0, -0.0, 1e-45, -1e-45]).repeat(4)
    values[count // 2, 4], values[:, 5] = torch.inf, -torch.inf
    best, place = values.max(0)
    ours, our_place = max_with_first_index(values.clone())
    assert torch.equal(ours, best) and torch.equal(our_place, place)
    values[0, 0, 0] = torch.nan  # the index may then be any, but must be valid
    _, our_place = max_with_first_index(values)
    assert int(our_place.min()) >= 0 and int(our_place.max()) < count
