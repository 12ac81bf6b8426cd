"""The recipes in `configs/`: what the published ones and ours hold, key by key."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frozenseg
from frozenseg.build.models import build_model
from frozenseg.build.optimization import (
    clip_norm_of,
    decay_of,
    schedule_of,
    training_loss,
    training_state,
)
from frozenseg.build.training_data import training_dataset
from frozenseg.build.transforms import eval_transform
from frozenseg.config import default_config, load_config
from frozenseg.data.benchmarks import find_benchmark
from frozenseg.errors import UserError
from frozenseg.structures import TextEmbeddings
from frozenseg.text.templates import find_templates
from tests.engine.test_fusioner import FUSIONER
from tests.engine.tiny import TinyRun

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FUSIONER_RECIPE = CONFIGS / "fusioner" / "clip_vit_l14.yaml"
TRAINING = {  # key: (published, ours)
    "INPUT.DIAGONAL_CROPS": (True, False),
    "INPUT.PADDING": ("grey", "zeros"),
    "INPUT.KEEP_EMPTY_OBJECTS": (True, False),
    "SOLVER.WEIGHT_DECAY_RULE": ("modules", "tables"),
}
OURS = {
    "coco/frozenseg/convnext_large.yaml",
    "coco/frozenseg/convnext_large_1gpu.yaml",
    "coco/frozenseg/r50x64.yaml",
    "small/fixed_views.yaml",
    "small/frozenseg.yaml",
    "small/fusioner.yaml",
    "small/fusioner_fixed_views.yaml",
}
PUBLISHED = {
    "coco/Base-COCO-PanopticSegmentation.yaml",
    "coco/frozenseg/convnext_large_eval_ade20k.yaml",
    "coco/frozenseg/convnext_large_eval_bdd100k.yaml",
    "coco/frozenseg/fc_clip_convnext_large.yaml",
    "coco/frozenseg/r50x64_eval_ade20k.yaml",
    "coco/frozenseg/r50x64_eval_bdd100k.yaml",
}
OTHERS = {"small/two_photographs.yaml", "fusioner/clip_vit_l14.yaml"}  # neither wholly


def value(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_every_recipe_is_one_or_the_other() -> None:
    found = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    assert found == OURS | PUBLISHED | OTHERS


@pytest.mark.parametrize("key", TRAINING)
def test_published_recipes_train_as_published_and_ours_as_ours(key: str) -> None:
    published, ours = TRAINING[key]
    assert value(default_config(), key) == published
    assert {name: value(load_config(CONFIGS / name), key) for name in PUBLISHED} == dict.fromkeys(
        PUBLISHED, published
    )
    assert {name: value(load_config(CONFIGS / name), key) for name in OURS} == dict.fromkeys(
        OURS, ours
    )


@pytest.mark.parametrize("name", sorted(OURS | PUBLISHED | OTHERS))
def test_only_what_the_weights_that_ship_began_with_is_not_published(name: str) -> None:
    assert load_config(CONFIGS / name).MODEL.PUBLISHED_INIT == (not name.startswith("small/"))


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("INPUT.PADDING", "gray"),
        ("SOLVER.WEIGHT_DECAY_RULE", "matrix"),
        ("SOLVER.WEIGHT_DECAY_SCHEDULE", "cosinus"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"),
    ],
)
def test_a_choice_that_is_none_is_named(run: TinyRun, key: str, wrong: str) -> None:
    with pytest.raises(UserError, match=f"{key} {wrong}: must be one of .*did you mean"):
        load_config(run.config, [key, wrong])


def test_keys_of_fusioner_are_refused_elsewhere(run: TinyRun) -> None:
    pairs = load_config(
        run.config, ["DATASETS.PAIRS", "True", "DATASETS.TRAIN", f"('{run.dataset}',)"]
    )
    with pytest.raises(
        UserError, match="DATASETS.PAIRS: FrozenSeg cannot be queried with one class"
    ):
        training_dataset(pairs)
    cfg = load_config(run.config, ["SOLVER.CONSTANT_DECODER", "True"])
    with pytest.raises(UserError, match="SOLVER.CONSTANT_DECODER: this model has no such decoder"):
        training_state(cfg, build_model(cfg))


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    return TinyRun(tmp_path)


def test_fusioner_trains_as_published() -> None:
    cfg = load_config(FUSIONER_RECIPE)
    assert clip_norm_of(cfg) is None and not cfg.SOLVER.AMP.ENABLED
    assert cfg.MODEL.PRECISION == "fp32"
    assert cfg.SOLVER.IMS_PER_BATCH == 32 and cfg.DATASETS.PAIRS
    epoch = -(-12_667 // 32)
    assert cfg.SOLVER.MAX_ITER == 510 * epoch and cfg.SOLVER.WARMUP_ITERS == 10 * epoch
    rate, decay = schedule_of(cfg), decay_of(cfg)
    last, half = cfg.SOLVER.MAX_ITER - 1, cfg.SOLVER.WARMUP_ITERS + 250 * epoch
    assert rate(0) == 0 and rate(cfg.SOLVER.WARMUP_ITERS - 1) == rate(3960) == 1e-3
    assert rate(half) == pytest.approx((1e-3 + 2e-6) / 2)
    assert rate(last) == pytest.approx(2e-6, rel=1e-4)
    assert (decay(0), decay(255 * epoch)) == pytest.approx((0.01, 0.205))
    assert decay(last) == pytest.approx(0.4, rel=1e-4)
    assert len(find_templates(cfg.MODEL.TEXT.TEMPLATES)) == 32
    node = cfg.MODEL.FUSIONER
    assert (node.WINDOW, node.WINDOW_STRIDE, node.WINDOW_PADDING) == (224, 149, -1.0)
    assert (node.CLASSES_AT_ONCE, node.NUM_LAYERS, node.DIM) == (1, 12, 512)
    assert eval_transform(cfg, find_benchmark("pascal5i_fold0_val")).short == 0


def tiny_fusioner(*options: str) -> list[str]:
    """Over the published recipe: encoders of a moment, whose cells are 16 pixels."""
    tiny = [*FUSIONER, "MODEL.DEVICE", "cpu", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "16"]
    return [*tiny, "MODEL.ALLOW_RANDOM_WEIGHTS", "True", *options]


def test_a_predictor_of_the_fusioner_recipe_takes_images_as_the_recipe_says() -> None:
    """At their own size, in windows, one name a pass, with its templates."""
    segmenter = frozenseg.load(FUSIONER_RECIPE, options=tiny_fusioner())
    image = np.random.default_rng(0).integers(0, 256, (230, 250, 3), dtype=np.uint8)
    assert segmenter.resize(image).shape == (3, 230, 250)
    assert len(segmenter.text_classifier.templates) == 32
    seen: list[tuple[int, ...]] = []
    passes: list[tuple[int, ...]] = []
    model = segmenter.model
    model.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0].pixels.shape))
    model.fusion.register_forward_pre_hook(lambda _, given: passes.append(given[1].shape[:2]))
    result = segmenter(image, ["cat", "dog", "sky"])
    assert result.semantic.shape == (230, 250)
    assert seen == [(1, 3, 224, 224)] * 4 and passes == [(1, 1)] * 12


@pytest.mark.parametrize("depth", ["1", "3", "5"])
def test_the_depths_of_the_fusion(depth: str) -> None:
    options = tiny_fusioner("MODEL.FUSIONER.NUM_LAYERS", depth)
    assert len(build_model(load_config(FUSIONER_RECIPE, options)).fusion.blocks) == int(depth)


def test_fusioner_goes_through_pairs(run: TinyRun, caplog: pytest.LogCaptureFixture) -> None:
    """Every image once for each class in it, and is asked for that class, crop it as you may."""
    caplog.set_level(logging.INFO, "frozenseg")
    options = [
        *tiny_fusioner("INPUT.IMAGE_SIZE", "32", "INPUT.MIN_SCALE", "4", "INPUT.MAX_SCALE", "4"),
        *("DATASETS.TRAIN", f"('{run.dataset}',)", "DATASETS.PAIRS", "True"),
        *("INPUT.KEEP_EMPTY_OBJECTS", "False"),
    ]
    cfg = load_config(run.config, options)
    dataset, vocabulary = training_dataset(cfg)
    images = {record.image_id for record in dataset.records}
    assert "5 images, 15 pairs of an image" in caplog.text and ": 5 images; classes" in caplog.text
    assert "objects by class: dog 5, cat 5, grass 5" in caplog.text
    pairs = [(record.image_id, record.asked) for record in dataset.records]
    assert sorted(pairs) == [(image, k) for image in sorted(images) for k in range(3)]
    model = build_model(cfg)
    count = len(vocabulary)
    text = TextEmbeddings(torch.eye(count, 32), torch.arange(count), torch.ones(count).bool())
    loss = training_loss(cfg, model, text)
    for item, (_, asked) in enumerate(pairs[:6]):
        sample = dataset[item]
        first = loss.queried_classes(sample.targets.class_ids, item, sample.record.asked)[0]
        assert int(first) == asked
    others = loss.queried_classes(torch.tensor([1]), 0, 2).tolist()
    assert others[0] == 2 and sorted(others) == [0, 1, 2]
