"""The package's main entrance, on tiny encoders with random weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frozenseg
from frozenseg.build.device import prepare_for_inference
from frozenseg.build.models import build_model
from frozenseg.build.prediction import build_predictor
from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import model_state, trainable_state, write_state
from frozenseg.config import load_config
from frozenseg.data.video import video_writer
from frozenseg.errors import UserError
from frozenseg.predictor import Predictor
from tests.conftest import FC_CLIP_OPTIONS, RESNET_OPTIONS, TINY_OPTIONS, build_tiny

WORDS = "car, truck; road; sky; dog"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build_predictor(load_config(None, [*TINY_OPTIONS, "SEED", "0"]))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (70, 90), (33, 31), (200, 128)])
def test_results_have_the_size_of_the_image(predictor: Predictor, size: tuple[int, int]) -> None:
    result = predictor(picture(*size), WORDS)
    assert result.image.shape == (*size, 3)
    assert result.panoptic.ids.shape == result.semantic.shape == size
    assert result.panoptic.ids.dtype == result.semantic.dtype == np.int32
    found = np.unique(result.panoptic.ids)
    assert [segment.id for segment in result.panoptic.segments] == [i for i in found if i > 0]
    for segment in result.panoptic.segments:
        inside = result.panoptic.ids == segment.id
        assert segment.area == inside.sum() > 0
        x0, y0, x1, y1 = segment.box
        assert inside[y0:y1, x0:x1].sum() == inside.sum()
        assert segment.name == result.vocabulary.labels[segment.class_id]
        assert segment.is_thing == (segment.name in ("car", "dog"))
    instances = result.instances
    assert instances.masks.shape == (len(instances), *size)
    assert set(instances.names) <= {"car", "dog"}
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()


def test_all_forms_of_an_image_give_the_same(predictor: Predictor, tmp_path: Path) -> None:
    pixels = picture(40, 50)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = predictor(pixels, WORDS)
    for image in (
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        Image.fromarray(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):
        result = predictor(image, WORDS)
        np.testing.assert_array_equal(result.semantic, expected.semantic)
        np.testing.assert_array_equal(result.panoptic.ids, expected.panoptic.ids)


def test_the_same_image_twice_and_other_vocabularies_between(predictor: Predictor) -> None:
    pixels = picture(60, 80)
    first = predictor(pixels, WORDS)
    encoded = predictor.text_classifier.encoded
    # A name of no other test: vectors of names are kept on disk for the whole session.
    one = predictor(pixels, ["savanna"])
    assert one.vocabulary.labels == ["savanna"] and not one.semantic.any()
    many = predictor(pixels, [f"thing number {number}" for number in range(40)])
    assert len(many.vocabulary) == 40 and many.semantic.max() < 40
    again = predictor(pixels, WORDS)
    np.testing.assert_array_equal(first.semantic, again.semantic)
    np.testing.assert_array_equal(first.panoptic.ids, again.panoptic.ids)
    assert first.panoptic.segments == again.panoptic.segments
    np.testing.assert_array_equal(first.instances.scores, again.instances.scores)
    assert predictor.text_classifier.encoded == encoded + 41  # nothing was encoded twice


def test_a_batch_gives_what_single_images_give(predictor: Predictor) -> None:
    pixels = [picture(60, 80, seed) for seed in (1, 2, 3)]
    vocabulary = frozenseg.Vocabulary.parse(WORDS)
    for image, found in zip(pixels, predictor.batch(pixels, vocabulary), strict=True):
        alone = predictor(image, WORDS)
        assert np.array_equal(found.image, image)
        assert (found.semantic == alone.semantic).mean() > 0.999
        assert (found.panoptic.ids == alone.panoptic.ids).mean() > 0.999
        np.testing.assert_allclose(found.instances.scores, alone.instances.scores, atol=1e-4)


@pytest.mark.parametrize(
    "one", [picture(8, 9), torch.zeros(3, 8, 9), Image.fromarray(picture(8, 9)), "a.png"]
)
def test_one_image_is_no_batch(predictor: Predictor, one: object) -> None:
    with pytest.raises(UserError, match="batch takes a list of images"):
        predictor.batch(one, WORDS)


def test_permuted_classes_permute_the_results(predictor: Predictor) -> None:
    pixels = picture(60, 80)
    first = predictor(pixels, "car, truck; road; sky; dog")
    other = predictor(pixels, "sky; dog; car, truck; road")
    place = np.array([2, 3, 0, 1])  # of each class of the first in the second
    assert (place[first.semantic] == other.semantic).mean() > 0.999
    assert len(first.panoptic.segments) == len(other.panoptic.segments)
    for ours, theirs in zip(first.panoptic.segments, other.panoptic.segments, strict=True):
        assert (ours.name, ours.area, ours.box) == (theirs.name, theirs.area, theirs.box)
        assert ours.score == pytest.approx(theirs.score, rel=1e-4)
    assert sorted(first.instances.names) == sorted(other.instances.names)


def test_things_can_be_chosen(predictor: Predictor) -> None:
    result = predictor(picture(40, 50), WORDS, things=["road", "sky"])
    assert set(result.instances.names) <= {"road", "sky"}
    assert result.vocabulary.is_thing == (False, True, True, False)


def test_random_weights_are_said_on_every_result(predictor: Predictor) -> None:
    result = predictor(picture(40, 50), WORDS)
    assert result.note == "random weights (clip, decoder, sam): the result means nothing"
    assert result.draw().size[0] >= 50


def test_what_is_drawn_without_a_panoptic_result() -> None:
    """A region for each class of the semantic result, else nothing."""
    options = [*TINY_OPTIONS, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    result = build_predictor(load_config(None, options))(picture(40, 50), WORDS)
    assert result.panoptic is None and result.semantic is not None
    for segment in result.regions.segments:
        mask = result.semantic == segment.class_id
        assert (mask == (result.regions.ids == segment.id)).all() and mask.sum() == segment.area
        assert segment.name == result.vocabulary.labels[segment.class_id]
    assert sum(segment.area for segment in result.regions.segments) == 40 * 50
    assert result.draw().size[0] >= 50
    alone = replace(result, semantic=None)
    assert len(alone) <= len(alone.instances) and alone.draw().size[0] >= 50
    with pytest.raises(UserError, match="nothing to draw: all results are switched off"):
        replace(alone, instances=None).draw()


@pytest.mark.parametrize("options", [RESNET_OPTIONS, FC_CLIP_OPTIONS])
def test_the_other_models(options: list[str]) -> None:
    result = build_predictor(load_config(None, [*TINY_OPTIONS, *options]))(picture(40, 50), WORDS)
    assert result.semantic.shape == (40, 50)
    assert ("sam" in result.note) == (options is RESNET_OPTIONS)


def test_the_vocabulary_is_checked_first(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="the vocabulary is empty"):
        predictor("no such file.jpg", "")
    with pytest.raises(UserError, match="no such file"):
        predictor("no such file.jpg", WORDS)


def test_random_weights_are_refused_unless_asked_for() -> None:
    options = [*TINY_OPTIONS, "MODEL.ALLOW_RANDOM_WEIGHTS", "False"]
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty: give a checkpoint"):
        build_predictor(load_config(None, options))


# ---- frozenseg.load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration; tests add weights."""
    cfg = load_config(None, [*TINY_OPTIONS, "MODEL.ALLOW_RANDOM_WEIGHTS", "False"])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path


def whole_state(seed: int = 5) -> dict[str, torch.Tensor]:
    return model_state(build_tiny(seed=seed))


def test_a_folder_with_weights(folder: Path) -> None:
    state = whole_state()
    write_state(folder / "model.safetensors", state)
    segmenter = frozenseg.load(folder)
    assert segmenter.note is None
    expected = build_tiny(seed=5)
    prepare_for_inference(load_config(folder / "config.yaml"), expected)
    loaded = segmenter.model.state_dict()
    assert loaded.keys() >= state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model_state(expected).items())
    by_file = frozenseg.load(folder / "config.yaml")
    assert torch.equal(by_file.model.void_embedding, state["void_embedding"])


def test_weights_by_argument_come_first(folder: Path) -> None:
    write_state(folder / "model.safetensors", whole_state(5))
    torch.save({"model": to_published(whole_state(6))}, folder / "other.pth")
    segmenter = frozenseg.load(str(folder), weights=folder / "other.pth")
    assert torch.equal(segmenter.model.void_embedding, whole_state(6)["void_embedding"])


def test_trained_parts_alone_need_the_frozen_ones(folder: Path) -> None:
    write_state(folder / "model_final.safetensors", trainable_state(build_tiny(seed=5)))
    with pytest.raises(UserError, match=r"CLIP_PRETRAINED_WEIGHTS none: no such tag"):
        frozenseg.load(folder)
    segmenter = frozenseg.load(folder, options=["MODEL.ALLOW_RANDOM_WEIGHTS", "True"])
    assert segmenter.note == "random weights (clip, sam): the result means nothing"


@pytest.mark.parametrize("model", [5, b"small"])
def test_what_is_no_name_of_a_model(model: object) -> None:
    with pytest.raises(UserError, match=f"model {model}: must be the name of a model, or a path"):
        frozenseg.load(model)


@pytest.mark.parametrize("name", ["smal", "no/such/folder", "nothing.yaml"])
def test_unknown_models(name: str) -> None:
    with pytest.raises(UserError, match=f"configuration {name}: no such file, and no recipe"):
        frozenseg.load(name)


def test_a_folder_without_configuration_or_with_wrong_options(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without config.yaml"):
        frozenseg.load(tmp_path / "empty")
    with pytest.raises(UserError, match=r"unknown key MODEL\.WEIGHT; did you mean MODEL\.WEIGHTS"):
        frozenseg.load(folder, options=["MODEL.WEIGHT", "x"])
    with pytest.raises(UserError, match=r"weights nowhere\.pth: no such file"):
        frozenseg.load(folder, weights="nowhere.pth")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"x\.safetensors: a file of weights; give its folder"):
        frozenseg.load(tmp_path / "x.safetensors")


# ---- build


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.DEVICE", "gpu"], r"MODEL\.DEVICE gpu: unknown; use auto, cuda, mps or cpu"),
        (["MODEL.DEVICE", "meta"], r"MODEL\.DEVICE meta: unknown; use auto, cuda, mps or cpu"),
        (["MODEL.DEVICE", "mps:9"], r"MODEL\.DEVICE mps:9: this PyTorch finds .* MPS device"),
        (["MODEL.DEVICE", "cuda:99"], r"MODEL\.DEVICE cuda:99: this PyTorch finds .* CUDA device"),
        (["MODEL.META_ARCHITECTURE", "FrozenSeq"], "META_ARCHITECTURE FrozenSeq: unknown; did you"),
        (["MODEL.FROZEN_SEG.EMBED_DIM", "64"], "EMBED_DIM is 64, but frozenseg_tiny has 32"),
        (["MODEL.MASK_FORMER.HIDDEN_DIM", "64"], "HIDDEN_DIM is 64, but SAM tiny has 32 channels"),
        (["MODEL.SEM_SEG_HEAD.CONVS_DIM", "64"], "CONVS_DIM must equal"),
        (["MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "2"], "SAM_ENCODER_LEVELS 2: must be 1 or 3"),
        (["MODEL.FROZEN_SEG.SAM_VIEW", "squash"], "SAM_VIEW squash: must be one of stretch"),
        (["MODEL.SAM_NAME", "vit_x"], r"MODEL\.SAM_NAME vit_x: unknown"),
        (
            ["MODEL.MASK_FORMER.SAM_QUERY_FUSE_LAYER", "3"],
            "SAM_QUERY_FUSE_LAYER 3: must be 0, 1 or 2",
        ),
        (["MODEL.MASK_FORMER.SAM_FEATURE_FUSE_LAYER", "-1"], "SAM_FEATURE_FUSE_LAYER -1: must be"),
        (["DATASETS.TRAIN_VOCABULARY", "coco"], "vocabulary coco: not in the package"),
    ],
)
def test_values_that_fit_no_model_are_named(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_predictor(load_config(None, [*TINY_OPTIONS, *options]))


def test_fc_clip_is_frozenseg_without_injectors() -> None:
    names = {
        key: build_model(load_config(None, [*TINY_OPTIONS, *options])).state_dict().keys()
        for key, options in (
            ("FCCLIP", ["MODEL.META_ARCHITECTURE", "FCCLIP"]),
            ("off", FC_CLIP_OPTIONS),
        )
    }
    assert names["FCCLIP"] == names["off"]


def test_a_training_vocabulary_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "seen.txt"
    path.write_text("dog\nlorry, truck\n")
    options = [*TINY_OPTIONS, "DATASETS.TRAIN_VOCABULARY", str(path)]
    text = build_predictor(load_config(None, options))
    vocabulary = frozenseg.Vocabulary.parse(WORDS)
    assert text.embed(vocabulary).seen.tolist() == [True, False, False, True]


# ---- forms of images, thresholds


def test_many_images_give_a_list_that_equals_single_calls(
    predictor: Predictor, tmp_path: Path
) -> None:
    """Images of several sizes; a call, a batch, and whatever stands for several images."""
    sizes = [(60, 80), (33, 31), (60, 80)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        Image.fromarray(picture(*size, number)).save(path)
    alone = [predictor(path, WORDS) for path in paths]
    for many in (paths, (path for path in paths), tmp_path, f"{tmp_path}/?.png"):
        found = predictor(many, WORDS)
        assert [result.file_name for result in found] == [str(path) for path in paths]
        for one, other in zip(found, alone, strict=True):
            assert (one.panoptic.ids == other.panoptic.ids).mean() > 0.999
            assert (one.semantic == other.semantic).mean() > 0.999
            assert one.seconds > 0
    assert predictor([], WORDS) == []


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_generator_that_fails_ends_a_stream_after_the_results_of_its_images(
    predictor: Predictor, count: int
) -> None:
    def images() -> Iterator[np.ndarray]:
        for number in range(count):
            yield np.full((50, 60, 3), number, np.uint8)
        raise OSError("the disk is gone")

    for still in (None, 0.0, 255.0):
        seen = []
        with pytest.raises(OSError, match="the disk is gone"):
            for result in predictor.track(images(), WORDS, still=still):
                seen.append(int(result.image[0, 0, 0]))
        assert seen == list(range(count))


def test_a_threshold_drops_what_is_below(predictor: Predictor) -> None:
    """The pipeline itself, of which benchmarks take their results, knows no such limit."""
    image = picture(60, 80)
    everything = predictor(image, WORDS, threshold=0)
    limit = float(np.median(everything.instances.scores))
    above = predictor(image, WORDS, threshold=limit)
    assert 0 < len(above.instances) < len(everything.instances)
    assert above.instances.scores.min() >= limit
    assert all(segment.score >= limit for segment in above.panoptic.segments)
    usual, quarter = predictor(image, WORDS), everything.filter(threshold=0.25)
    np.testing.assert_array_equal(usual.panoptic.ids, quarter.panoptic.ids)
    np.testing.assert_array_equal(usual.instances.scores, quarter.instances.scores)
    (streamed,) = predictor.stream([image], WORDS, threshold=limit)
    assert len(streamed.instances) == len(above.instances)
    words = frozenseg.Vocabulary.parse(WORDS)
    whole = predictor.segment(image, words, predictor.embed(words))
    assert len(whole.instances) >= len(everything.instances)
    with pytest.raises(ValueError, match="threshold 2: must lie in 0-1"):
        predictor(image, WORDS, threshold=2)


def test_where_a_predictor_is(predictor: Predictor, tmp_path: Path) -> None:
    assert repr(predictor).startswith("<Predictor FrozenSeg on cpu, shorter side ")
    assert predictor.device == torch.device("cpu") and predictor.to("cpu") is predictor
    with pytest.raises(UserError, match=r"MODEL\.DEVICE cuda:99: this PyTorch finds"):
        predictor.to("cuda:99")
    assert predictor(picture(8, 9), WORDS) is not None  # it stays where it is


def test_another_device_takes_the_place_of_the_first(predictor: Predictor) -> None:
    """With a stand-in for another device: the same model, built again."""
    cfg = load_config(None, [*TINY_OPTIONS, "SEED", "0"])
    moved = build_predictor(cfg)
    moved._rebuild = lambda device: build_predictor(cfg)
    before = moved.model
    assert moved.to("cuda:0") is moved and moved.model is not before
    np.testing.assert_array_equal(
        moved(picture(40, 50), WORDS).semantic, predictor(picture(40, 50), WORDS).semantic
    )
    moved._rebuild = None
    with pytest.raises(UserError, match="cannot be moved; load it with device='cuda'"):
        moved.to("cuda")
    moved.close()
    assert repr(moved) == "<Predictor, closed>"


def test_frames_of_a_video_have_identities() -> None:
    options = [*TINY_OPTIONS, "SEED", "0", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    predictor = build_predictor(load_config(None, options))  # regions of the semantic result
    frames = [picture(64, 64)] * 2 + [picture(64, 64, 1)]
    results = list(predictor.track(iter(frames), WORDS, threshold=0.0))
    single = [predictor(frame, WORDS, threshold=0.0) for frame in frames]
    assert results[0].track_ids == results[1].track_ids != []
    for result, alone in zip(results, single, strict=True):
        found = {segment.track_id for segment in result.panoptic.segments}
        assert found == set(np.unique(result.panoptic.ids).tolist()) - {0}
        assert np.array_equal(result.panoptic.ids > 0, alone.regions.ids > 0)
        assert alone.track_ids == [None] * len(alone)
        assert result.draw().size[0] > 0
    again = list(predictor.track(frames, WORDS, threshold=0.0, still=1.0))
    assert [result.track_ids for result in again] == [result.track_ids for result in results]


def test_memory_that_is_written_again_changes_no_result(predictor: Predictor) -> None:
    """A generator may fill one buffer with each frame, as programs around OpenCV do."""
    pixels = [picture(40, 50, number) for number in range(4)]

    def frames(buffer: np.ndarray | torch.Tensor) -> Iterator[np.ndarray | torch.Tensor]:
        for frame in pixels:
            buffer[:] = torch.from_numpy(frame) if torch.is_tensor(buffer) else frame
            yield buffer

    for buffer in (np.zeros_like(pixels[0]), torch.zeros(40, 50, 3, dtype=torch.uint8)):
        for call in (predictor.batch, predictor.stream, predictor.track):
            results = list(call(frames(buffer), WORDS))
            for result, frame in zip(results, pixels, strict=True):
                np.testing.assert_array_equal(result.image, frame)
        result = predictor(buffer, WORDS)
        buffer[:] = 0
        np.testing.assert_array_equal(result.image, pixels[-1])


def test_frames_keep_the_names_of_their_files(predictor: Predictor, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(picture(40, 50)).save(path)
    with open(paths[0], "rb") as file, Image.open(paths[1]) as image:
        for results in (predictor.batch([file, image], WORDS), predictor.track([file, image], "a")):
            assert [result.file_name for result in results] == [str(path) for path in paths]
    for still in (None, 1.0):
        results = list(predictor.track(tmp_path, WORDS, still=still))
        assert [result.file_name for result in results] == [str(path) for path in paths]
    for result in results:
        result.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("?_*.png")} >= {"a_drawn.png"}


def test_images_without_files_do_not_replace_one_another(
    predictor: Predictor, tmp_path: Path
) -> None:
    images = [picture(40, 50), picture(40, 50)]
    for results in (predictor.track(images, WORDS), predictor.batch(images, WORDS)):
        assert [result.file_name for result in results] == ["image_000001", "image_000002"]
    for result in predictor.stream(images, WORDS):
        result.save(tmp_path)
    assert {path.name for path in tmp_path.glob("*_drawn.png")} == {
        "image_000001_drawn.png",
        "image_000002_drawn.png",
    }
    assert predictor(images[0], WORDS).file_name is None


def test_frames_of_a_video_file_are_numbered(predictor: Predictor, tmp_path: Path) -> None:
    with video_writer(tmp_path / "cam.2024.mp4", fps=5.0) as append:
        for number in range(2):
            append(picture(48, 64, number))
    results = [*predictor.track(tmp_path / "cam.2024.mp4", WORDS)]
    names = ["cam.2024_000001", "cam.2024_000002"]
    assert [result.file_name for result in results] == names
    for result in results:
        result.save(tmp_path / "frames")
    drawn = {path.name for path in (tmp_path / "frames").glob("*_drawn.png")}
    assert drawn == {f"{name}_drawn.png" for name in names}
    png = results[0].to_coco()["panoptic"]["annotations"][0]["file_name"]
    assert png == "cam.2024_000001_panoptic.png"


def test_the_home_folder_has_its_short_name(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(picture(40, 50)).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("cat\nsky\n")
    assert predictor("~/a.png", Path("~/names.txt")).vocabulary.labels == ["cat", "sky"]
    with pytest.raises(UserError, match=r"a\.mp4: no such video file"):
        list(predictor.track("~/a.mp4", WORDS))


def test_results_can_be_compared_and_looked_for(predictor: Predictor) -> None:
    one, other = (predictor(picture(40, 50), WORDS) for _ in range(2))
    assert one != other and one in [other, one]
    assert one.panoptic != other.panoptic and one.instances != other.instances


def test_a_video_in_python_names_what_is_wrong(predictor: Predictor, tmp_path: Path) -> None:
    for wrong, words in (
        ({"threshold": 2}, "threshold 2"),
        ({"still": -1}, "still -1"),
        ({"still": "x"}, "still 'x': must lie in 0-255"),
        ({"tracker": "x"}, "tracker 'x': must be a Tracker"),
    ):
        with pytest.raises(UserError, match=words):
            next(predictor.track([picture(40, 40)], WORDS, **wrong))
    with pytest.raises(UserError, match=r"a\.mp4: no such video file"):
        next(predictor.track(tmp_path / "a.mp4", WORDS))
    with pytest.raises(UserError, match="an image must be"):
        list(predictor.track([picture(40, 40), 5], WORDS))
