"""The entire model: what trains, what stays frozen, and invariants of its predictions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from frozenseg.build.models import build_model
from frozenseg.config import load_config
from frozenseg.errors import UserError
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings
from tests.conftest import FC_CLIP_OPTIONS, RESNET_OPTIONS, TINY_OPTIONS, build_tiny

VARIANTS = {
    "published": [],
    "corrected": [
        "MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "1",
        "MODEL.FROZEN_SEG.SAM_VIEW", "keep_aspect",
        "MODEL.FROZEN_SEG.KEEP_KEY_POSITIONS", "True",
    ],
    "query injector only": ["MODEL.FROZEN_SEG.FEATURE_INJECTOR", "False"],
    "feature injector only": ["MODEL.FROZEN_SEG.QUERY_INJECTOR", "False"],
    "fc-clip": FC_CLIP_OPTIONS,
    "resnet": RESNET_OPTIONS,
}  # fmt: skip


def close(ours: MaskPredictions, expected: MaskPredictions, rows: slice = slice(None)) -> None:
    for name in ("class_logits", "mask_logits"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(expected, name)[rows], atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_reaches_all_trained_parts_and_no_frozen_part(
    name: str, tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    model = build_tiny(*VARIANTS[name]).train()
    # The initial weights of deformable attention are zero, so no gradient would reach the queries.
    for key, parameter in model.trainable_parameters():
        if key.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            nn.init.normal_(parameter, std=0.1)
    outputs = model(tiny_images, tiny_text)
    assert len(outputs.auxiliary) == 6
    total = torch.zeros(())
    for output in (outputs, *outputs.auxiliary):
        assert output.mask_embed is not None and not output.mask_logits.numel()
        masks = torch.einsum("bqc,bchw->bqhw", output.mask_embed, output.mask_features)
        total = total + output.class_logits.square().mean() + masks.square().mean()
    total.backward()
    trained = dict(model.trainable_parameters())
    untouched = [
        key for key, parameter in trained.items()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]  # fmt: skip
    assert untouched == []
    frozen = [(key, p) for key, p in model.named_parameters() if key not in trained]
    assert frozen and all(p.grad is None and not p.requires_grad for _, p in frozen)
    assert {key.split(".")[0] for key, _ in frozen} <= {"clip", "sam"}


@pytest.mark.parametrize("name", ["published", "resnet"])
def test_frozen_parts_stay_in_eval_mode_and_keep_their_statistics(
    name: str, tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    model = build_tiny(*VARIANTS[name]).train()
    assert model.mask_decoder.training and model.pixel_decoder.training
    for part in (model.clip, model.sam):
        assert not any(module.training for module in part.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(tiny_images, tiny_text)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_without_injectors_there_is_no_sam() -> None:
    model = build_tiny(*FC_CLIP_OPTIONS)
    assert model.sam is None and model.sam_branch is None
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "clip", "pixel_decoder", "mask_decoder", "void_embedding",
    }  # fmt: skip
    assert not [name for name in model.state_dict() if "injector" in name]
    only_query = build_tiny(*VARIANTS["query injector only"])
    assert only_query.sam is not None and only_query.sam_branch is None


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_of_two_equals_two_batches_of_one(
    name: str, tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    model = build_tiny(*VARIANTS[name])
    both = model.predict(tiny_images, tiny_text)
    assert both.class_logits.shape == (2, 10, 4) and both.mask_logits.shape == (2, 10, 16, 24)
    torch.testing.assert_close(
        both.class_logits.exp().sum(-1), torch.ones(2, 10), atol=1e-3, rtol=0
    )
    for image in (0, 1):
        rows = slice(image, image + 1)
        alone = model.predict(
            ImageBatch(tiny_images.pixels[rows], tiny_images.sizes[rows]), tiny_text
        )
        close(alone, both, rows)


def test_padding_means_nothing(tiny_model: FrozenSeg, tiny_text: TextEmbeddings) -> None:
    """The pixels in the padding of a batch have no effect."""
    images = ImageBatch.collate([torch.rand(3, 50, 70) * 255], 32)
    dirty = ImageBatch(images.pixels.clone(), images.sizes)
    dirty.pixels[:, :, 50:], dirty.pixels[..., 70:] = 255, 99
    close(tiny_model.predict(dirty, tiny_text), tiny_model.predict(images, tiny_text))


def test_permuted_classes_permute_scores(
    tiny_model: FrozenSeg, tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    permuted = TextEmbeddings(  # class order 2, 0, 1
        tiny_text.weight[[3, 4, 0, 1, 2]],
        torch.tensor([0, 0, 1, 1, 2]),
        tiny_text.seen[[2, 0, 1]],
    )
    expected = tiny_model.predict(tiny_images, tiny_text)
    expected.class_logits = expected.class_logits[..., [2, 0, 1, 3]]
    close(tiny_model.predict(tiny_images, permuted), expected)


def test_seen_flags_choose_between_the_classifiers(
    tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    """With alpha 0 and beta 0, only the trained classifier counts, and the flags have no effect."""
    model = build_tiny()
    unseen = replace(tiny_text, seen=torch.zeros(3, dtype=torch.bool))
    one, other = model.predict(tiny_images, tiny_text), model.predict(tiny_images, unseen)
    assert not torch.allclose(one.class_logits, other.class_logits, atol=1e-3)
    assert torch.equal(one.mask_logits, other.mask_logits)
    model.ensemble_alpha = model.ensemble_beta = 0.0
    trained = model(tiny_images, tiny_text).class_logits.softmax(-1)
    torch.testing.assert_close(
        model.predict(tiny_images, unseen).class_logits.exp(), trained, atol=1e-5, rtol=1e-4
    )


def test_empty_masks_leave_finite_scores(
    tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    for options in ((), RESNET_OPTIONS):
        model = build_tiny(*options)
        nn.init.zeros_(model.mask_decoder.mask_embedding.layers[-1].weight)
        nn.init.zeros_(model.mask_decoder.mask_embedding.layers[-1].bias)
        predictions = model.predict(tiny_images, tiny_text)
        assert not predictions.mask_logits.any()  # logit 0 everywhere: no pixel is inside
        assert predictions.class_logits.isfinite().all()
        if options is RESNET_OPTIONS:  # ENSEMBLE_ON_VALID_MASK: only the trained classifier
            trained = model(tiny_images, tiny_text).class_logits.softmax(-1)
            ours = predictions.class_logits.exp()
            torch.testing.assert_close(ours, trained, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 26_497_153),
        (["MODEL.FROZEN_SEG.SAM_ENCODER_LEVELS", "1"], 26_200_577),
        (FC_CLIP_OPTIONS, 20_721_601),
    ],
)
def test_trained_parameters_of_the_published_models(options: list[str], count: int) -> None:
    """docs/papers.md, departures, row 11. The meta device neither computes nor allocates."""
    with torch.device("meta"):
        model = build_model(load_config(None, options))
    assert sum(parameter.numel() for _, parameter in model.trainable_parameters()) == count
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


def test_the_seed_decides_the_weights() -> None:
    first, second = (
        build_model(load_config(None, [*TINY_OPTIONS, "SEED", "7"])).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_tiny(seed=8).state_dict()
    assert not torch.equal(first["void_embedding"], other["void_embedding"])


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "layers"), ("always", "layers"), ("never", "nothing")]
)
def test_what_is_recomputed(name: str, expected: str) -> None:
    model = build_tiny("MODEL.RECOMPUTE", name)
    assert model.pixel_decoder.encoder.recompute == model.sam_branch.encoder.recompute == expected


def test_an_unknown_way_to_recompute_is_named() -> None:
    match = r"MODEL\.RECOMPUTE nevr: must be one of .*did you mean never"
    with pytest.raises(UserError, match=match):
        build_tiny("MODEL.RECOMPUTE", "nevr")
