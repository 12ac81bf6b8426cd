"""What the library says about a value, with the key that it came from and what to do."""

import json
from pathlib import Path

import pytest
import torch

from frozenseg.build.device import prepare_for_inference
from frozenseg.build.models import build_model
from frozenseg.build.prediction import build_predictor
from frozenseg.build.prediction_settings import settings_of
from frozenseg.build.setting import data_sets
from frozenseg.build.training_data import training_dataset
from frozenseg.config import load_config
from frozenseg.errors import UserError
from tests.conftest import TINY_OPTIONS
from tests.data.tiny import dataset_name, write_dataset

FUSIONER = (
    *("MODEL.META_ARCHITECTURE", "Fusioner", "MODEL.ALLOW_RANDOM_WEIGHTS", "True"),
    *("MODEL.FUSIONER.VISUAL_NAME", "frozenseg_tiny_vit"),
    *("MODEL.FUSIONER.TEXT_NAME", "frozenseg_tiny_vit"),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [*FUSIONER, "MODEL.FUSIONER.VISUAL", "dino", "MODEL.FUSIONER.VISUAL_NAME", "vit_none"],
            r"^MODEL\.FUSIONER\.VISUAL_NAME vit_none: unknown",
        ),
        (
            [*FUSIONER, "MODEL.FUSIONER.VISUAL_NAME", "frozenseg_tiny"],
            r"^MODEL\.FUSIONER\.VISUAL_NAME frozenseg_tiny: a ViT or ResNet",
        ),
        (
            [*FUSIONER, "MODEL.FUSIONER.TEXT", "bert", "MODEL.FUSIONER.TEXT_WEIGHTS", "none"],
            r"^MODEL\.FUSIONER\.TEXT_WEIGHTS .*none'?: ",
        ),
        (
            [*TINY_OPTIONS, "MODEL.FROZEN_SEG.CLIP_MODEL_NAME", "frozenseg_tinny"],
            r"^MODEL\.FROZEN_SEG\.CLIP_MODEL_NAME frozenseg_tinny: unknown; did you mean",
        ),
    ],
)
def test_a_part_that_cannot_be_built_names_its_key(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(load_config(None, options))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.TEXT.TEMPLATES", "nothing", "prompt templates nothing: unknown"),
        ("DATASETS.TRAIN_VOCABULARY", "nothing", "vocabulary nothing: not in the package"),
        ("DATASETS.TRAIN_VOCABULARY", "/nothing.txt", "/nothing.txt: cannot be read"),
    ],
)
def test_a_predictor_that_cannot_be_built_names_the_key(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: .*{message}"):
        build_predictor(load_config(None, [*TINY_OPTIONS, key, value]))


def test_a_folder_without_proposals_names_its_key(tmp_path: Path) -> None:
    options = [*TINY_OPTIONS, "TEST.USE_SAM_MASKS", "True", "TEST.PKL_SAM_MODEL_NAME", "tiny"]
    with pytest.raises(UserError, match=rf"^TEST\.SAM_MASKS\.FOLDER {tmp_path}: no proposals"):
        build_predictor(load_config(None, [*options, "TEST.SAM_MASKS.FOLDER", str(tmp_path)]))


def test_results_without_a_picture_are_foretold(caplog: pytest.LogCaptureFixture) -> None:
    test = "MODEL.MASK_FORMER.TEST"
    switches = ("PANOPTIC_ON", "SEMANTIC_ON", "INSTANCE_ON")
    options = [word for name in switches for word in (f"{test}.{name}", "False")]
    build_predictor(load_config(None, [*TINY_OPTIONS, *options]))
    assert f"{test}: PANOPTIC_ON, SEMANTIC_ON and INSTANCE_ON are all False" in caplog.text


def test_what_concerns_evaluations_alone_is_told_and_is_no_other_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = load_config(None, TINY_OPTIONS)
    augmented = load_config(
        None, [*TINY_OPTIONS, "TEST.AUG.ENABLED", "True", "TEST.AUG.FLIP", "False"]
    )
    build_predictor(plain)
    assert "TEST.AUG" not in caplog.text
    build_predictor(augmented)
    assert caplog.text.count("TEST.AUG.ENABLED: only an evaluation averages several views") == 1
    assert settings_of(augmented) == settings_of(plain)


def test_a_stage_that_cannot_be_compiled_names_the_key(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda method, **_: fail)
    cfg = load_config(None, [*TINY_OPTIONS, "MODEL.COMPILE", "True", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    prepare_for_inference(cfg, model)
    stage = model.stages()[0]
    with pytest.raises(TypeError):  # of the method itself, which runs uncompiled
        getattr(stage.owner, stage.method)()
    assert f"MODEL.COMPILE: {stage.name} cannot be compiled here" in caplog.text


def test_names_with_commas_point_to_the_key_for_synonyms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = write_dataset(tmp_path, [(40, 50)])
    content["categories"] = [
        entry | {"name": f"{entry['name']}, other"} for entry in content["categories"]
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    name = dataset_name(tmp_path)
    training_dataset(load_config(None, ["DATASETS.TRAIN", f"('{name}',)"]))
    hint = "to give its classes synonyms, name a list of them in DATASETS.VOCABULARIES"
    assert f"{name}: {hint}" in caplog.text


def test_a_set_is_tested_once_and_trained_on_as_often_as_it_is_named() -> None:
    cfg = load_config(None, {"DATASETS.TRAIN": ("a", "a"), "DATASETS.TEST": ("b", "a", "b")})
    assert data_sets(cfg, "TRAIN") == ("a", "a")
    with pytest.raises(UserError, match=r"^DATASETS\.TEST names b twice; name it once$"):
        data_sets(cfg, "TEST")
