"""Three steps of the published recipe from generated weights and features, against the published
code: what trains, where it starts, 30 losses, matching, gradients, AdamW's updates, schedules.

Everything is computed in float64, as the published side was: AdamW divides by gradients that may be
tiny, and a mask's threshold turns the last bit into a pixel.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frozenseg.build import frozenseg as assembly
from frozenseg.build.models import build_model
from frozenseg.build.optimization import clip_norm_of, schedule_of, training_loss, training_state
from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import load_state
from frozenseg.config import load_config
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.devtools.reference.model import load_fill
from frozenseg.engine.state import TrainingState
from frozenseg.engine.trainer import loss_normalizers, training_step
from frozenseg.losses.matcher import Matching
from frozenseg.losses.weighting import weighted_losses
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ClipFeatures, FrozenFeatures, Targets, TextEmbeddings
from tests.parity.conftest import BOUND

pytestmark = pytest.mark.reference

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "coco" / "frozenseg" / "convnext_large_eval_ade20k.yaml"
LEVELS = {"res2": (192, 4), "res3": (384, 8), "res4": (768, 16), "res5": (1536, 32)}
SAM = (256, 16)  # channels and stride
PER_TENSOR = 12  # numbers kept of each gradient and update


@dataclass
class Run:
    """A model with the recipe's training around it, and what the published run says of it."""

    expected: dict[str, Any]
    arrays: dict[str, np.ndarray]
    cfg: Any
    model: FrozenSeg
    state: TrainingState
    parameters: dict[str, nn.Parameter]
    """By published name, in the published order."""
    initial_std: dict[str, float]


@pytest.fixture(scope="module")
def run(published: Path) -> Run:
    """The encoders have no memory: their features are generated."""
    expected = json.loads((published / "training_step.json").read_text())
    points = str(expected["points"])
    options = ["MODEL.DEVICE", "cpu", "SEED", "7", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", points]
    cfg = load_config(RECIPE, options)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_clip", "build_sam"):
            patch.setattr(assembly, name, _without_memory(getattr(assembly, name)))
        model = build_model(cfg).train()
    found = {_published_name(name): entry for name, entry in model.trainable_parameters()}
    assert sorted(found) == expected["names"]
    parameters = {name: found[name] for name in expected["names"]}
    start = {name: _std(entry) for name, entry in parameters.items()}
    blank = {name: torch.empty(entry.shape) for name, entry in parameters.items()}
    load_state(model, load_fill(published).fill_(blank), "fill.py")
    arrays = dict(np.load(published / "training_step.npz"))
    return Run(expected, arrays, cfg, model, training_state(cfg, model), parameters, start)


def _without_memory(make: Any) -> Any:
    def made(cfg: Any) -> nn.Module:
        with torch.device("meta"):
            return make(cfg)

    return made


def _published_name(name: str) -> str:
    return next(iter(to_published({name: torch.zeros(())})))


def _std(parameter: Tensor) -> float:
    return float(parameter.detach().std(unbiased=False)) if parameter.numel() > 1 else 0.0


def test_as_many_numbers_train(run: Run) -> None:
    trained = sum(parameter.numel() for parameter in run.parameters.values())
    assert trained == run.expected["trained"]
    with_gradient = [p for p in run.model.parameters() if p.requires_grad]
    assert len(with_gradient) == len(run.parameters)


def test_training_starts_from_weights_of_the_same_spread(run: Run) -> None:
    """Within five per cent, or what chance does to so few numbers."""
    wrong = {}
    for (name, found), std in zip(run.initial_std.items(), run.expected["init_std"], strict=True):
        chance = max(0.05, 6 / run.parameters[name].numel() ** 0.5)
        if abs(found - std) > chance * max(found, std):
            wrong[name] = (found, std)
    assert wrong == {}


def test_the_same_weights_decay(run: Run) -> None:
    groups = run.state.optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    none = set(run.expected["no_decay"])
    expected = {name: 0.0 if name in none else run.expected["decay"] for name in run.parameters}
    assert {name: decay[id(p)] for name, p in run.parameters.items()} == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("schedule", []),
        ("schedule_warm", ["SOLVER.WARMUP_FACTOR", "0.001", "SOLVER.WARMUP_ITERS", "1000"]),
    ],
)
def test_the_learning_rate_is_the_same(run: Run, name: str, options: list[str]) -> None:
    schedule = schedule_of(load_config(RECIPE, options))
    for step, rate in run.expected[name].items():
        assert schedule(int(step)) == pytest.approx(rate, rel=1e-12), step


@pytest.fixture
def in_float64(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever our code turns into float32 stays in float64 instead."""
    run.model.double()
    for name in ("float32", "float"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(Tensor, "float", lambda self, *_, **__: self.double())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_three_steps_are_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, clip_norm = run.expected, clip_norm_of(run.cfg)
    assert clip_norm == expected["clip"]
    features = _features(len(run.arrays["ids_0"]))
    text = _text(expected)
    loss = training_loss(run.cfg, run.model, text, lambda images, device: features)
    matcher, matchings = loss.criterion.matcher, []

    def watched(*given: Any) -> Matching:
        matchings.append(matcher(*given))
        return matchings[-1]

    monkeypatch.setattr(loss.criterion, "matcher", watched)
    samples = [_sample(run.arrays, image) for image in range(2)]
    start = {name: p.detach().clone() for name, p in run.parameters.items()}
    schedule = schedule_of(run.cfg)
    for number, step in enumerate(expected["steps"], 1):
        normalizers, _ = loss_normalizers(loss, [samples], False)
        rate = schedule(run.state.step)
        losses, norm = training_step(
            *(run.state, run.model, loss, [samples], normalizers),
            rate=rate,
            clip_norm=clip_norm,
        )
        total = losses.pop("total_loss")
        weighted = weighted_losses(losses, loss.weights)
        assert weighted == pytest.approx(step["losses"], rel=BOUND)
        assert total == pytest.approx(step["total"], rel=BOUND)
        assert _pairs(matchings[-1], run.arrays) == step["matching"]
        assert norm == pytest.approx(step["norm"], rel=BOUND)
        clipped = {name: _gradient(p) / clip_norm for name, p in run.parameters.items()}
        _compare(clipped, run.arrays, "gradient", number)
        moved = {name: (p.detach() - start[name]) / rate for name, p in run.parameters.items()}
        _compare(moved, run.arrays, "update", number)


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"training.{name}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _features(side: int) -> FrozenFeatures:
    maps = {
        name: _noise(name, (2, channels, side // stride, side // stride))
        for name, (channels, stride) in LEVELS.items()
    }
    sam = _noise("sam", (2, SAM[0], side // SAM[1], side // SAM[1]))
    return FrozenFeatures(ClipFeatures(maps, maps["res5"]), sam)


def _text(expected: dict[str, Any]) -> TextEmbeddings:
    index = torch.tensor(expected["class_of_name"])
    vectors = nn.functional.normalize(_noise("text", (len(index), 768)), dim=-1)
    return TextEmbeddings(vectors, index, torch.ones(expected["classes"], dtype=torch.bool))


def _sample(arrays: dict[str, np.ndarray], image: int) -> Sample:
    ids, classes = arrays[f"ids_{image}"], arrays[f"classes_{image}"]
    masks = ids[None] == np.arange(1, len(classes) + 1)[:, None, None]
    targets = Targets(torch.from_numpy(classes), torch.from_numpy(masks))
    side = len(ids)
    record = Record(image, "", side, side, num_classes=len(classes))
    return Sample(torch.zeros(3, side, side, dtype=torch.uint8), side, side, record, targets)


def _pairs(matching: Matching, arrays: dict[str, np.ndarray]) -> list[list[list[list[int]]]]:
    """Queries and objects of each output and image, the last output first as published."""
    outputs = len(matching.queries)
    found = []
    for output in (outputs - 1, *range(outputs - 1)):
        rows = []
        for image, offset in ((0, 0), (1, len(arrays["classes_0"]))):
            of_image = matching.images == image
            queries = matching.queries[output][of_image].tolist()
            rows.append([queries, (matching.objects[output][of_image] - offset).tolist()])
        found.append(rows)
    return found


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _compare(
    tensors: dict[str, Tensor], arrays: dict[str, np.ndarray], kind: str, step: int
) -> None:
    """A few numbers and the norm of each tensor; the published numbers lie one after another."""
    samples, norms = arrays[f"{kind}_{step}"], arrays[f"{kind}_norms_{step}"]
    at = 0
    for (name, tensor), norm in zip(tensors.items(), norms, strict=True):
        flat = tensor.detach().flatten()
        count = min(PER_TENSOR, len(flat))
        places = torch.linspace(0, len(flat) - 1, count).round().long()
        expected = samples[at : at + count]
        at += count
        scale = max(float(np.abs(expected).max()), 1e-30)
        if not expected.any():
            scale = 1.0
        error = float(np.abs(flat[places].numpy() - expected).max()) / scale
        assert error <= BOUND, (kind, step, name)
        assert float(flat.norm()) == pytest.approx(float(norm), rel=BOUND, abs=1e-30), name
    assert at == len(samples)
