"""A predictor is saved, pushed, loaded by its name and offline; a broken download goes on, and
another file than the hub tells is refused. The hub is one of this machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

import frozenseg
from frozenseg.build.families import find_family
from frozenseg.build.hub import HubPredictor
from frozenseg.build.model_card import read_scores
from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import model_state, write_state
from frozenseg.config import load_config
from frozenseg.errors import UserError
from tests.conftest import TINY_OPTIONS
from tests.hub_stand_in import Hub, hub_stand_in

NAME = "somebody/tiny"
FILES = {"README.md", "config.json", "frozenseg.yaml", "model.safetensors"}
IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OUTPUT_DIR of a run, with frozen encoders in files of their own, and scores."""
    folder = tmp_path_factory.mktemp("run")
    options = dict(zip(TINY_OPTIONS[::2], TINY_OPTIONS[1::2], strict=True))
    model = build_model(load_config(None, options))
    write_state(folder / "clip.safetensors", model.clip.model.state_dict())
    assert model.sam is not None
    write_state(folder / "sam.safetensors", model.sam.model.state_dict())
    trained = {k: v for k, v in model_state(model).items() if not k.startswith(("clip.", "sam."))}
    write_state(folder / "model_final.safetensors", trained)
    (folder / "sentences.txt").write_text("a photo of {}.\nmany {}.\n")
    options |= {
        "MODEL.ALLOW_RANDOM_WEIGHTS": "False",
        "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS": str(folder / "clip.safetensors"),
        "MODEL.SAM_WEIGHTS": str(folder / "sam.safetensors"),
        "MODEL.TEXT.TEMPLATES": str(folder / "sentences.txt"),
        "DATASETS.TRAIN_VOCABULARY": 'classes:[["cat", "kitten"], ["sky"]]',
        "DATASETS.TRAIN": f"('coco_panoptic:{folder}/a:{folder}/b:{folder}/c',)",
        "OUTPUT_DIR": str(folder),
    }
    (folder / "config.yaml").write_text(load_config(None, options).dump())
    summary = {"PQ": 12.3, "PQ things": 1.0, "mIoU": 50.0, "fwIoU": 2.0}
    scores = {f"coco_panoptic:{folder}/a": {"images": 1, "summary": summary}}
    (folder / "results.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[type[Hub]]:
    with hub_stand_in(str(tmp_path / "cache")) as hub:
        yield hub


@pytest.fixture(scope="module")
def segmenter(run: Path) -> HubPredictor:
    return frozenseg.load(run)


def same(first: HubPredictor, second: HubPredictor) -> bool:
    """By what they make of an image; the weights of the model are random, but not its results."""
    one, two = (predictor(IMAGE, "cat; dog; sky") for predictor in (first, second))
    names = first.training_vocabulary.names
    return np.array_equal(one.semantic, two.semantic) and second.training_vocabulary.names == names


def test_a_saved_folder_needs_nothing_of_this_machine(
    run: Path, segmenter: HubPredictor, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    segmenter.save_pretrained(folder, model_card_kwargs={"license": "mit", "datasets": ["coco"]})
    assert {path.name for path in folder.iterdir()} == {*FILES, "templates.txt"}
    for path in folder.iterdir():
        assert str(run).encode() not in path.read_bytes(), path
    assert json.loads((folder / "config.json").read_text())["library_name"] == "frozenseg"
    card = (folder / "README.md").read_text()
    data = yaml.safe_load(card.split("---")[1])
    assert data["library_name"] == "frozenseg" and data["pipeline_tag"] == "image-segmentation"
    assert data["license"] == "mit" and data["datasets"] == ["coco"]
    (result,) = data["model-index"][0]["results"]
    metrics = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert metrics == {"PQ": 12.3, "mIoU": 50.0}
    assert "| coco_panoptic | mIoU | 50.0 |" in card and "cat, sky" in card
    own = [run / name for name in ("clip.safetensors", "sam.safetensors", "sentences.txt")]
    for path in own:
        path.rename(path.with_suffix(".away"))
    try:
        assert same(segmenter, frozenseg.from_pretrained(folder, options={"MODEL.DEVICE": "cpu"}))
        assert same(segmenter, frozenseg.load(folder, device="cpu"))
    finally:
        for path in own:
            path.with_suffix(".away").rename(path)


def test_a_card_names_data_sets_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    names = ["cityscapes_fine_panoptic_val", "/home/me/own.v2/set.yaml:val", "images:/a/b:/c"]
    results = {name: {"images": 1, "summary": {"PQ": 1.0}} for name in names}
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = read_scores(tmp_path / "results.json")
    expected = ["cityscapes_fine_panoptic_val", "set.yaml:val", "images"]
    assert [score.dataset_name for score in found] == expected
    assert [score.dataset_type for score in found] == expected


def test_a_model_is_pushed_and_loaded_by_its_name(
    hub: type[Hub], segmenter: HubPredictor, run: Path, tmp_path: Path
) -> None:
    segmenter.push_to_hub(NAME, token="hf_of_nobody")
    files = hub.repositories[NAME]
    assert files.keys() >= {*FILES, "templates.txt"}
    files |= {"run.py": b"raise SystemExit", "weights.bin": b"pickle"}  # never fetched

    hub.breaks.add("model.safetensors")
    assert same(segmenter, frozenseg.from_pretrained(NAME, device="cpu"))
    ranges = [r for way, path, r in hub.asked if way == "GET" and path.endswith(".safetensors")]
    assert len(ranges) == 2 and int(ranges[1].removeprefix("bytes=").split("-")[0]) > 0
    assert not hub.breaks  # it broke, and went on
    fetched = {path.rpartition("/")[2] for way, path, _ in hub.asked if "/resolve/" in path}
    assert fetched == {*FILES - {"README.md"}, "templates.txt"}

    hub.asked.clear()
    assert same(segmenter, frozenseg.from_pretrained(NAME, local_files_only=True))
    assert not hub.asked


def test_a_download_goes_on_after_a_kill(
    hub: type[Hub], segmenter: HubPredictor, tmp_path: Path
) -> None:
    segmenter.push_to_hub(NAME, token="hf_of_nobody")
    hub.asked.clear()
    hub.hangs.add("model.safetensors")
    call = f"from frozenseg.checkpoints.hub import fetch_model; fetch_model({NAME!r})"
    names = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_CACHE": str(tmp_path / "cache")}
    run = subprocess.Popen(
        [sys.executable, "-c", call], env=os.environ | names, stderr=subprocess.DEVNULL
    )
    size = len(hub.repositories[NAME]["model.safetensors"])
    parts: list[Path] = []
    while run.poll() is None and not any(part.stat().st_size > size // 4 for part in parts):
        parts = [*(tmp_path / "cache").rglob("*.incomplete")]
        time.sleep(0.02)
    run.kill()
    run.wait()
    here = parts[0].stat().st_size
    frozenseg.from_pretrained(NAME, device="cpu").close()
    ranges = [r for way, path, r in hub.asked if way == "GET" and path.endswith(".safetensors")]
    assert ranges == ["", f"bytes={here}-"] and 0 < here < size
    assert not [*(tmp_path / "cache").rglob("*.incomplete")]


def test_a_token_is_sent_without_the_end_of_its_file_and_never_told(
    hub: type[Hub], segmenter: HubPredictor
) -> None:
    segmenter.push_to_hub(NAME, token="hf_of_nobody\n")
    frozenseg.from_pretrained(NAME, token="hf_of_nobody\n", device="cpu").close()
    for token in ("hf_\u00f6f_nobody", "hf_of\nnobody"):
        for call in (segmenter.push_to_hub, frozenseg.from_pretrained):
            with pytest.raises(UserError, match="^the token is not one line of ASCII") as told:
                call(NAME, token=token)
            assert "nobody" not in str(told.value)


def test_another_file_than_the_hub_tells_is_refused(
    hub: type[Hub], segmenter: HubPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.push_to_hub(NAME, token="hf_of_nobody")
    monkeypatch.setattr("tests.hub_stand_in._tag", lambda name, content: "0" * 64)
    with pytest.raises(
        UserError, match=r"model\.safetensors: has the SHA-256 \w+, but the hub states 0"
    ):
        frozenseg.from_pretrained(NAME)


def test_what_is_not_there_and_what_cannot_be_shared(
    hub: type[Hub], segmenter: HubPredictor, run: Path, tmp_path: Path
) -> None:
    said = "somebody/else: the request to the hub failed .*Repository Not Found.* authenticated"
    with pytest.raises(UserError, match=said) as told:
        frozenseg.from_pretrained("somebody/else")
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="somebody/else: "):
        frozenseg.from_pretrained("somebody/else", local_files_only=True)
    with pytest.raises(UserError, match=r'small: not a model of the hub; use .*load\("small"\)'):
        frozenseg.from_pretrained("small")
    options = {"MODEL.ALLOW_RANDOM_WEIGHTS": True, "MODEL.SAM_WEIGHTS": ""}
    with pytest.raises(UserError, match=r"random weights \(sam\) are not shared"):
        frozenseg.load(run, options=options).save_pretrained(tmp_path / "x")


def test_a_predictor_that_cannot_be_shared_leaves_nothing_behind(
    hub: type[Hub], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with frozenseg.load(run) as by_hand:
        by_hand.cfg = None
        with pytest.raises(UserError, match="this predictor has no configuration"):
            by_hand.push_to_hub("somebody/new")
    for share in (by_hand.save_pretrained, by_hand.push_to_hub):
        with pytest.raises(UserError, match="this predictor is closed; load the model again"):
            share("somebody/new")
    assert "somebody/new" not in hub.repositories and not Path("somebody").exists()


@pytest.mark.parametrize("fetching", [{}, {"force_download": True}])
def test_a_model_of_another_program_is_refused(hub: type[Hub], fetching: dict) -> None:
    hub.repositories[NAME] = {"config.json": b"{}", "model.safetensors": b"of another program"}
    with pytest.raises(UserError, match="^somebody/tiny: not a model of this package, because"):
        frozenseg.from_pretrained(NAME, **fetching)
    fetched = [path for way, path, _ in hub.asked if way == "GET" and path.endswith(".safetensors")]
    assert bool(fetched) == bool(fetching), "weights are fetched in vain"


# ---- what decides a result is in the folder, and nothing else decides it


def test_sentences_of_the_folder_count_wherever_one_works(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those that the model was loaded with, by a path from the folder of that moment."""
    monkeypatch.chdir(run)
    with_own = frozenseg.load(run, options={"MODEL.TEXT.TEMPLATES": "sentences.txt"})
    monkeypatch.chdir(tmp_path)
    Path("templates.txt").write_text("another {}\n")
    with_own.save_pretrained("shared")
    expected = ("a photo of {}.", "many {}.")
    for again in (frozenseg.load("shared"), frozenseg.from_pretrained(tmp_path / "shared")):
        assert again.text_classifier.templates == expected == with_own.text_classifier.templates
    monkeypatch.chdir(tmp_path / "shared")
    assert frozenseg.from_pretrained(".").text_classifier.templates == expected


def test_the_weights_that_were_loaded_are_saved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    loaded = frozenseg.load(run, weights="model_final.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("model_final.safetensors").write_bytes(b"of another model")
    loaded.save_pretrained("shared")
    assert same(loaded, frozenseg.from_pretrained("./shared"))


def test_a_second_sam_is_refused(run: Path, tmp_path: Path) -> None:
    own = {"TEST.USE_SAM_MASKS": True, "TEST.PKL_SAM_MODEL_NAME": "tiny"}
    own |= {"TEST.SAM_MASKS.POINTS_PER_SIDE": 1}
    frozenseg.load(run, options=own).save_pretrained(tmp_path / "own")
    other = tmp_path / "other.safetensors"
    other.write_bytes((run / "sam.safetensors").read_bytes())
    beside = frozenseg.load(run, options=own | {"TEST.SAM_MASKS.WEIGHTS": str(other)})
    with pytest.raises(UserError, match=r"^TEST\.SAM_MASKS\.WEIGHTS .*USE_SAM_MASKS False first$"):
        beside.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x" / "model.safetensors").exists()
    named = {"TEST.PKL_SAM_MODEL_NAME": "small", "TEST.SAM_MASKS.WEIGHTS": ""}
    named |= {"MODEL.ALLOW_RANDOM_WEIGHTS": True}
    with pytest.raises(UserError, match=r"^TEST\.PKL_SAM_MODEL_NAME small: this SAM makes"):
        frozenseg.load(run, options=own | named).save_pretrained(tmp_path / "x")


def test_a_bert_is_refused() -> None:
    options = {"MODEL.META_ARCHITECTURE": "Fusioner", "MODEL.FUSIONER.TEXT": "bert"}
    cfg = load_config(None, options | {"MODEL.FUSIONER.TEXT_WEIGHTS": "models/bert"})
    with pytest.raises(UserError, match=r"TEXT_WEIGHTS models/bert: a BERT is not saved with"):
        find_family(cfg).shared(cfg, None)


def test_what_is_of_the_machine_or_the_run_stays_there(run: Path, tmp_path: Path) -> None:
    loaded = frozenseg.load(run)
    assert loaded.cfg is not None
    loaded.cfg = loaded.cfg.clone()
    loaded.cfg.defrost()
    loaded.cfg.MODEL.BACKEND = "openvino"
    loaded.cfg.TEST.SAVE_PREDICTIONS, loaded.cfg.TEST.EVAL_PERIOD = True, 100
    loaded.save_pretrained(tmp_path / "shared")
    shared = load_config(tmp_path / "shared")
    assert shared.MODEL.BACKEND == "pytorch"
    assert not shared.TEST.SAVE_PREDICTIONS and not shared.TEST.EVAL_PERIOD


# ---- names of folders, and files that are of no use


def test_home_and_folders_that_are_not_there(
    segmenter: HubPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    segmenter.save_pretrained("~/mine")
    assert (tmp_path / "home" / "mine" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert same(segmenter, frozenseg.from_pretrained("~/mine"))
    for name in ("./nope", "../nope", "~/nope", str(tmp_path / "nope")):
        with pytest.raises(UserError, match=rf"^{name}: no such folder$"):
            frozenseg.from_pretrained(name)
    Path("a_file").write_text("")
    with pytest.raises(UserError, match="a_file: cannot be written .*; it is not a folder"):
        segmenter.save_pretrained("a_file")


def test_a_card_that_is_there_stays_and_is_told(
    segmenter: HubPredictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter.save_pretrained(tmp_path / "shared")
    assert not caplog.records
    (tmp_path / "shared" / "README.md").write_text("of a person")
    segmenter.save_pretrained(tmp_path / "shared", model_card_kwargs={"license": "mit"})
    assert (tmp_path / "shared" / "README.md").read_text() == "of a person"
    assert "README.md: kept as it is; for a card of this model remove it first" in caplog.text


def test_files_that_nobody_needs_may_be_damaged(
    run: Path, segmenter: HubPredictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "run"
    shutil.copytree(run, model)
    (model / "results.json").write_text("[1, 2]")
    frozenseg.load(model).save_pretrained(tmp_path / "shared")
    assert "results.json: is not the results.json of an evaluation; the model card" in caplog.text
    assert "## Scores" not in (tmp_path / "shared" / "README.md").read_text()
    (tmp_path / "shared" / "config.json").write_text('{"a":')
    assert same(segmenter, frozenseg.from_pretrained(tmp_path / "shared"))
    assert same(segmenter, HubPredictor.from_pretrained(tmp_path / "shared"))
