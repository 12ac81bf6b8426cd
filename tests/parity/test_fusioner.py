"""Fusioner of the published recipe with generated weights, against the published code: both towers,
fusion, decoder, loss, metric and folds."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.data.annotations import VOID_CLASS
from frozenseg.data.benchmarks.folds import fold_classes
from frozenseg.devtools.reference.model import load_fill
from frozenseg.evaluation.few_shot import ClassMaskIoU
from frozenseg.losses.pixel import pixel_losses
from frozenseg.models.fusioner import Fusioner
from frozenseg.structures import ImageBatch, TextEmbeddings
from frozenseg.text.classifier import TextClassifier
from tests.parity.conftest import BOUND

pytestmark = pytest.mark.reference

ROOT = Path(__file__).resolve().parents[2]
CLIP = "fusioner_parity"
SAME_SIDE = 0.995  # share of pixels; logits are resized here, features there, on purpose
BLOCKS = (0, 5, 11)
PUBLISHED_NAMES = (  # ours, theirs
    (r"^visual\.model\.", "img_model."),
    (r"^text\.model\.", "text_model."),
    (r"fusion\.visual_input\.", "fusion.visual_proj."),
    (r"fusion\.text_input\.", "fusion.text_proj."),
    (r"fusion\.text_embedding$", "fusion.cls_emb"),
    (r"fusion\.visual_projection\.weight", "fusion.proj_patch"),
    (r"fusion\.text_projection\.weight", "fusion.proj_classes"),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.feed_forward_norm\.", ".norm2."),
    (r"\.attention\.in_proj_", ".attn.qkv."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.linear1\.", ".mlp.fc1."),
    (r"\.linear2\.", ".mlp.fc2."),
    (r"decoder\.convolutions\.(\d)", r"decoder.conv_\1"),
    (r"decoder\.output\.", "decoder.conv_4."),
)


@dataclass
class Case:
    """about: settings, slices and scores; arrays: inputs and outputs of the published code."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: Fusioner

    def expect(self, name: str, found: Tensor) -> None:
        rule = self.about["slices"].get(name, "")
        expected = torch.from_numpy(self.arrays[name]).double()
        ours = found[_slices(rule)].double()
        assert ours.shape == expected.shape, name
        assert float((ours - expected).abs().max() / expected.abs().max()) <= BOUND, name


def _slices(rule: str) -> tuple[slice, ...]:
    """Of "::4,::8"; all of it for ""."""
    axes = rule.split(",") if rule else []
    return tuple(slice(*(int(n) if n else None for n in axis.split(":"))) for axis in axes)


@pytest.fixture(scope="module")
def case(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    about = json.loads((published / "fusioner.json").read_text())
    config = tmp_path_factory.mktemp("clip") / f"{CLIP}.json"
    config.write_text(json.dumps(about["clip"]))
    open_clip.add_model_config(config)
    options = [
        "MODEL.DEVICE", "cpu",
        "MODEL.FUSIONER.VISUAL_NAME", CLIP,
        "MODEL.FUSIONER.TEXT_NAME", CLIP,
    ]  # fmt: skip
    cfg = load_config(ROOT / "configs" / "fusioner" / "clip_vit_l14.yaml", options)
    assert cfg.MODEL.PIXEL_MEAN == pytest.approx([255 * value for value in about["mean"]])
    assert cfg.MODEL.PIXEL_STD == pytest.approx([255 * value for value in about["std"]])
    model = build_model(cfg).eval().requires_grad_(False)
    assert isinstance(model, Fusioner) and model.temperature == about["temperature"]
    values = load_fill(published).values
    for name, entry in model.state_dict().items():
        theirs = _published_name(name)
        if theirs == "fusion.cls_emb":  # (1, dim) there
            entry.copy_(values(theirs, torch.Size((1, *entry.shape)))[0])
        else:  # projections stand on the right of the tokens there
            value = values(theirs, entry.shape)
            entry.copy_(value.T if ".proj_" in theirs else value)
    return Case(about, dict(np.load(published / "fusioner.npz")), model)


def _published_name(name: str) -> str:
    for ours, theirs in PUBLISHED_NAMES:
        name = re.sub(ours, theirs, name)
    return name


@pytest.fixture(scope="module")
def vectors(case: Case) -> Tensor:
    classifier = TextClassifier(
        case.model.text_encoder, templates=case.about["templates"], folder=None
    )
    return classifier.vectors(case.about["names"])


@pytest.fixture(scope="module")
def images(case: Case) -> ImageBatch:
    """Every pixel of the small picture 8 times in each direction."""
    small = torch.from_numpy(case.arrays["image_coarse"]).permute(2, 0, 1)
    pixels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)[None].float()
    return ImageBatch(pixels, [(224, 224)])


def test_the_towers(case: Case, images: ImageBatch, vectors: Tensor) -> None:
    case.expect("text", vectors)
    case.expect("visual", case.model.encode(images).tokens[0])


def test_fusion_and_decoder(case: Case, images: ImageBatch, vectors: Tensor) -> None:
    model, found = case.model, {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            found[name] = output[0]

        return hook

    blocks = model.fusion.blocks
    watched = [(f"block_{number}", blocks[number]) for number in BLOCKS]
    watched += [("norm", model.fusion.norm), ("conv_4", model.decoder.output)]
    watched += [(f"conv_{number}", model.decoder.convolutions[number]) for number in range(4)]
    hooks = [module.register_forward_hook(keep(name)) for name, module in watched]
    hooks.append(
        blocks[0].register_forward_pre_hook(lambda _, given: found.update(block_input=given[0][0]))
    )
    patches = model.encode(images)
    together = model.decode(patches, vectors[None])
    for hook in hooks:
        hook.remove()
    patches_out, words = model.fusion(patches.tokens, vectors[None])
    found |= {"patches": patches_out[0], "words": words[0]}
    for name, tensor in found.items():
        case.expect(name, tensor)
    features = F.interpolate(found["conv_4"][None], size=(224, 224), mode="bilinear")
    cosine = torch.einsum("kc,bchw->bkhw", F.normalize(words[0], dim=-1), F.normalize(features))
    case.expect("logits", cosine[0] / model.temperature)
    _same_sides(case, "logits", together)


def test_prediction_in_windows_one_name_a_pass(
    case: Case, images: ImageBatch, vectors: Tensor
) -> None:
    assert case.model.window == 224 and case.model.classes_at_once == 1
    one = TextEmbeddings(vectors[:1], torch.zeros(1, dtype=torch.long), torch.zeros(1).bool())
    _same_sides(case, "logit_alone", case.model.predict(images, one).mask_logits)


def _same_sides(case: Case, name: str, logits: Tensor) -> None:
    whole = F.interpolate(logits, size=(224, 224), mode="bilinear", align_corners=False)[0]
    ours = whole[_slices(case.about["slices"][name])] > 0
    theirs = torch.from_numpy(case.arrays[name]) > 0
    assert float((ours == theirs).float().mean()) >= SAME_SIDE


def test_the_loss(case: Case) -> None:
    shape = case.arrays["loss_logits"].shape

    def bits(name: str, size: tuple[int, ...]) -> Tensor:
        flat = np.unpackbits(case.arrays[name], count=int(np.prod(size)))
        return torch.from_numpy(flat.reshape(size).astype(bool))

    logits = torch.from_numpy(case.arrays["loss_logits"]).float() / 16
    ignored = bits("loss_ignored", (shape[0], *shape[2:]))
    found = pixel_losses(logits, bits("loss_targets", shape), ~ignored)
    assert found.tolist() == pytest.approx(case.about["loss"]["expected"], rel=BOUND)


def test_the_metric(case: Case) -> None:
    metric = ClassMaskIoU(names=[str(number) for number in range(21)], seen=[False] * 21)
    arrays = case.arrays
    for logits, labels, asked in zip(
        arrays["metric_logits"], arrays["metric_labels"], arrays["metric_asked"], strict=True
    ):
        mask = logits > 0  # a probability above one half
        truth = np.where(labels == 255, VOID_CLASS, labels.astype(int))
        metric.update([int(asked)], mask[None], truth)
    scores = metric.compute()
    for name in ("mIoU", "FB-IoU"):
        assert scores[name] == pytest.approx(case.about["metric"][name], rel=BOUND)


def test_the_folds(case: Case) -> None:
    for benchmark, folds in case.about["folds"].items():
        found = [list(fold_classes(benchmark, fold)) for fold in range(len(folds))]
        assert found == folds
