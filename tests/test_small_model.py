"""The model that ships: it finds and names things of which it was never shown a mask."""

import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import frozenseg
from frozenseg.commands.train_net import main as train_net
from frozenseg.inference.proposal_sources import ProposalSource
from frozenseg.inference.proposals import Proposals
from frozenseg.predictor import Predictor
from frozenseg.results.result import SegmentationResult
from frozenseg.small_world.commands.make_small_world import COUNTS
from frozenseg.small_world.export import export_split
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.pictures import demo_scenes
from frozenseg.small_world.scene import Scene, SceneOptions, make_scene
from frozenseg.small_world.vocabulary import world_vocabulary
from frozenseg.structures import ImageBatch
from frozenseg.text.vocabulary import Vocabulary

ZOO = Path(str(resources.files("frozenseg") / "model_zoo"))
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "small" / "frozenseg.yaml"
LARGEST_ZOO = 25e6  # bytes
OPTIONS = SceneOptions(sides=(160, 240), counts=(2, 3), radii=(0.18, 0.29))
UNSEEN = [name for name, noun in NOUNS.items() if not noun.seen]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROZENSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        segmenter = frozenseg.load("small", options=["MODEL.DEVICE", "cpu"])
        assert segmenter.pipeline.proposals is not None
        segmenter.pipeline.proposals = once_per_image(segmenter.pipeline.proposals)
        yield segmenter


def once_per_image(source: ProposalSource) -> ProposalSource:
    """SAM's proposals take most of the time, and are the same whatever names are asked for."""
    found: dict[bytes, tuple[list[Proposals], Tensor | None]] = {}

    def proposals(
        images: ImageBatch, image_ids: Sequence[int | str | None]
    ) -> tuple[list[Proposals], Tensor | None]:
        key = images.pixels.numpy().tobytes() + str(images.sizes).encode()
        if key not in found:
            found[key] = source(images, image_ids)
        return found[key]

    return proposals


def scenes(count: int) -> list[Scene]:
    return [make_scene(5, "demo", index + 1000, OPTIONS) for index in range(count)]


def name_under(result: SegmentationResult, mask: np.ndarray) -> str:
    """The class that most pixels of `mask` have in the panoptic result; "" for none."""
    ids, areas = np.unique(result.panoptic.ids[mask], return_counts=True)
    names = {segment.id: segment.name for segment in result.panoptic.segments}
    return names.get(int(ids[areas.argmax()]), "")


def share_right(
    results: Sequence[SegmentationResult], found_in: Sequence[Scene], wanted: set[str]
) -> float:
    right = [
        name_under(result, scene.ids == region.id) == region.name
        for result, scene in zip(results, found_in, strict=True)
        for region in scene.regions
        if region.name in wanted
    ]
    assert len(right) >= 8
    return sum(right) / len(right)


def test_the_package_holds_all_weights_and_little_else(segmenter: Predictor) -> None:
    assert segmenter.note is None
    assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) <= LARGEST_ZOO


def test_the_demos_scenes_are_named_right(segmenter: Predictor) -> None:
    found_in = demo_scenes()
    results = [segmenter(scene.image, world_vocabulary()) for scene in found_in]
    names = {region.name for scene in found_in for region in scene.regions}
    assert share_right(results, found_in, names) > 0.7  # measured: 0.80
    for result in results:
        void = (result.panoptic.ids == 0).mean(0)  # of each column
        assert void[-3:].max() < void[-12:-6].max() + 0.1  # no stripe where the image is padded


def test_the_readmes_question_is_answered(segmenter: Predictor) -> None:
    words = ["sky", "sand, beach", "car", "mountain"]
    result = segmenter(demo_scenes()[1].image, words, things=["car"])
    assert sorted(segment.name for segment in result.panoptic.segments) == sorted(
        word.split(",")[0] for word in words
    )
    assert (result.panoptic.ids == 0).mean() < 0.3  # a moon, a cup and a disc are not asked for
    assert result.summary().startswith("1 ") and result.summary().endswith(" ms")


def test_a_synonym_of_an_unseen_thing_gives_its_place(segmenter: Predictor) -> None:
    """Mean overlap of what the two names give; measured: 0.86."""
    both = {name: NOUNS[name].names[1] for name in UNSEEN if len(NOUNS[name].names) > 1}
    agreed = []
    for scene in scenes(40):
        for thing in scene.things:
            if thing.name in both:
                others = ["star", "house", *(ground.name for ground in scene.grounds)]
                first, second = (
                    segmenter(scene.image, [word, *others], things=[word, "star", "house"]).semantic
                    == 0
                    for word in (thing.name, both[thing.name])
                )
                agreed.append((first & second).sum() / max((first | second).sum(), 1))
    assert len(agreed) >= 8 and np.mean(agreed) > 0.7


def test_a_colour_tells_two_things_of_one_noun_apart(segmenter: Predictor) -> None:
    """ "red star; blue star": under each, its own name has more pixels than the other's."""
    right = []
    for scene in scenes(190):
        for first, second in itertools.combinations(scene.things, 2):
            if first.name != second.name or first.colour == second.colour:
                continue
            words = [f"{thing.colour} {thing.name}" for thing in (first, second)]
            grounds = [ground.name for ground in scene.grounds]
            found = segmenter(scene.image, [*words, *grounds], things=words).semantic
            for thing, own in ((first, 0), (second, 1)):
                under = found[scene.ids == thing.id]
                right.append((under == own).sum() > (under == 1 - own).sum())
    assert len(right) >= 20 and np.mean(right) > 0.6  # chance: 0.5, measured: 0.84


def test_a_name_that_is_not_asked_for_is_not_given(segmenter: Predictor) -> None:
    scene = demo_scenes()[0]
    result = segmenter(scene.image, ["key", "bell"])
    assert {segment.name for segment in result.panoptic.segments} <= {"key", "bell"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_expected_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own evaluation of the shipped weights, against the numbers it states."""
    root = tmp_path / "small_world"
    export_split(root, "val", count=COUNTS["val"], seed=0, processes=2, progress=lambda _: None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("FROZENSEG_CACHE", str(tmp_path / "cache"))
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
    assert train_net(["--config-file", str(CONFIG), "--eval-only", *options]) == 0


def test_the_small_fusioner_finds_what_it_is_asked_for() -> None:
    """The share of pixels of things and grounds in demo scenes that get their own name, asked for
    the names in the image alone (oracle presence) and for all names of the world, against always
    naming the largest region."""
    fusioner = frozenseg.load("small-fusioner", options=["MODEL.DEVICE", "cpu"])
    assert fusioner.note is None
    oracle, whole, largest = [], [], []
    for scene in demo_scenes():
        present = sorted({region.name for region in scene.regions})
        oracle.append(share_named(fusioner, scene, Vocabulary.parse("; ".join(present))))
        whole.append(share_named(fusioner, scene, world_vocabulary()))
        areas = [(scene.ids == region.id).sum() for region in scene.regions]
        largest.append(max(areas) / sum(areas))
    assert np.mean(oracle) > max(0.7, np.mean(largest) + 0.2)  # measured: 0.74, and 0.46
    assert np.mean(whole) > np.mean(largest) + 0.1  # measured: 0.68


def share_named(fusioner: Predictor, scene: Scene, vocabulary: Vocabulary) -> float:
    """The share of a scene's annotated pixels whose semantic class is their own."""
    first = [names[0] for names in vocabulary.names]
    truth = np.full(scene.ids.shape, -1)
    for region in scene.regions:
        truth[scene.ids == region.id] = first.index(region.name)
    known = truth >= 0
    return float((fusioner(scene.image, vocabulary).semantic == truth)[known].mean())
