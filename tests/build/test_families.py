"""A third family of models is one row of the table: nothing else of the package is touched."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import frozenseg
from frozenseg.build.families import MODELS
from frozenseg.build.family import Family
from frozenseg.build.models import load_model
from frozenseg.checkpoints.frozen_weights import FrozenPart
from frozenseg.checkpoints.state_dict import write_state
from frozenseg.config import load_config
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.engine.training_loss import InputPreparation, MaskClassificationLoss
from frozenseg.errors import UserError
from frozenseg.losses.set_criterion import SetCriterion
from frozenseg.models.base import SegmentationModel, Stage
from frozenseg.models.geometric_ensemble import class_logits
from frozenseg.structures import FrozenFeatures, ImageBatch, MaskPredictions, TextEmbeddings
from tests.engine.tiny import TinyRun, assert_same_scores

CLIP, CHANNELS, QUERIES = "frozenseg_tiny", 8, 4


class ToyModel(SegmentationModel):
    """A frozen CLIP, and queries that look for their pixels in a projection of its features."""

    size_divisor = 32

    def __init__(self, clip: FrozenClip) -> None:
        super().__init__()
        self.clip = clip
        self.pixels = nn.Conv2d(clip.channels["res2"], CHANNELS, 1)
        self.queries = nn.Parameter(torch.randn(QUERIES, CHANNELS))
        self.classes = nn.Parameter(torch.randn(QUERIES, clip.embed_dim))
        self.void = nn.Parameter(torch.randn(1, clip.embed_dim))

    @property
    def text_encoder(self) -> FrozenClip:
        return self.clip

    def stages(self) -> list[Stage]:
        return [Stage("CLIP trunk", self.clip, frozen=True), Stage("pixels", self.pixels)]

    @torch.no_grad()
    def encode(self, images: ImageBatch) -> FrozenFeatures:
        return FrozenFeatures(self.clip(images.normalized(self.clip.mean, self.clip.std)), None)

    def forward(
        self,
        images: ImageBatch,
        text: TextEmbeddings,
        auxiliary: bool = False,
        features: FrozenFeatures | None = None,
    ) -> MaskPredictions:
        levels = (features or self.encode(images)).clip.levels
        masks = torch.einsum("qc,bchw->bqhw", self.queries, self.pixels(levels["res2"]))
        classes = self.classes.expand(len(masks), -1, -1)
        logits = class_logits(classes, text, self.void, self.clip.logit_scale)
        return MaskPredictions(logits, masks)

    @torch.no_grad()
    def predict(self, images: ImageBatch, text: TextEmbeddings) -> MaskPredictions:
        found = self(images, text)
        return MaskPredictions(found.class_logits.log_softmax(-1), found.mask_logits)


def build_toy(cfg) -> ToyModel:
    model = build_clip_model(CLIP, quick_gelu=False)
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    return ToyModel(FrozenClip(model=model, name=CLIP, mean=mean, std=std))


def toy_loss(
    cfg, model: ToyModel, text: TextEmbeddings, inputs: InputPreparation
) -> MaskClassificationLoss:
    criterion = SetCriterion(
        num_classes=text.num_classes,
        num_points=32,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
    )
    return MaskClassificationLoss(
        criterion=criterion,
        text=text,
        num_queries=QUERIES,
        inputs=inputs,
        seed=cfg.SEED,
    )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """The table with one more row, and a recipe that names it."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    clip = tmp_path / "clip.safetensors"
    row = Family(
        build=build_toy,
        frozen_parts=lambda cfg, model: [FrozenPart("clip", model.clip.model, lambda: clip)],
        loss=toy_loss,
        identity=lambda cfg, model: {"clip": ([CLIP], model.clip.model.visual)},
        encoders=lambda cfg: {"clip": CLIP},
    )
    monkeypatch.setitem(MODELS, "Toy", row)
    write_state(clip, build_clip_model(CLIP, quick_gelu=False).state_dict())
    return TinyRun(tmp_path)


def options(run: TinyRun, output: str) -> list[str]:
    sets = f"('{run.dataset}',)"
    return [
        *("MODEL.META_ARCHITECTURE", "Toy", "MODEL.ALLOW_RANDOM_WEIGHTS", "False"),
        *("DATASETS.TRAIN", sets, "DATASETS.TEST", sets, "OUTPUT_DIR", output),
        *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
    ]


def test_a_toy_family_is_built_trained_evaluated_and_asked(toy: TinyRun) -> None:
    cfg = load_config(toy.config, options(toy, "out"))
    model, random = load_model(cfg)
    assert isinstance(model, ToyModel) and random == ["decoder"]
    clip = load_file("clip.safetensors")
    state: dict[str, Tensor] = model.clip.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in clip.items())

    result = frozenseg.train(cfg)
    assert result.step == 2 and result.finished and result.weights is not None
    trained = load_file(result.weights)
    assert trained.keys() == {"pixels.weight", "pixels.bias", "queries", "classes", "void"}
    assert not torch.equal(trained["queries"], model.queries)
    assert_same_scores(frozenseg.evaluate(cfg), result.scores)

    segmenter = frozenseg.load("out")
    assert torch.equal(segmenter.model.queries, trained["queries"])
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    assert segmenter(image, vocabulary="cat; sky").semantic.shape == (64, 96)


def test_what_a_family_cannot_do_is_said(toy: TinyRun) -> None:
    for more, message in (
        (["TEST.ORACLE_PRESENCE", "True"], "ORACLE_PRESENCE: Toy does not make a mask for a"),
        (["DATASETS.PAIRS", "True"], "PAIRS: Toy cannot be queried with one class"),
        (["TEST.USE_SAM_MASKS", "True"], "USE_SAM_MASKS: Toy cannot classify proposals"),
        (["SOLVER.CONSTANT_DECODER", "True"], "CONSTANT_DECODER: this model has no such decoder"),
    ):
        with pytest.raises(UserError, match=message):
            frozenseg.train(load_config(toy.config, [*options(toy, "out"), *more]))
