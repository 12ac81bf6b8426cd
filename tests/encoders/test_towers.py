"""CLIPs whose image tower is neither ConvNeXt nor ResNet, in tiny sizes: a pyramid of features,
regions in the joint space, text, and a step of training. timm's and open_clip's own calls on the
same weights say what is right."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import frozenseg
from frozenseg.build.frozenseg import _warn_of_other_pixels
from frozenseg.config import load_config
from frozenseg.encoders import clip_config
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.encoders.clip_vit import STRIDE
from frozenseg.errors import UserError
from frozenseg.structures import ImageBatch, TextEmbeddings
from tests.conftest import build_tiny
from tests.engine.tiny import TinyRun

CAUSAL = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP = {**CAUSAL, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def timm_tower(name: str, pool: str, proj: str | None, size: int) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}


def own(embed_dim: int, vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return {"embed_dim": embed_dim, "custom_text": True, "vision_cfg": vision, "text_cfg": text}


# As open_clip's files have it, with smaller networks.
TOWERS = {
    "tiny-SigLIP2": own(64, timm_tower("test_vit", "map", "none", 160), SIGLIP),
    "tiny-EVA02": own(32, timm_tower("eva02_tiny_patch14_224", "token", None, 224), CAUSAL),
    "tiny-MobileCLIP2-B": own(32, timm_tower("test_vit", "token", None, 160), CAUSAL),
    "tiny-MobileCLIP2-S": own(32, timm_tower("fastvit_t8", "avg", None, 256), SIGLIP),
}
NAMES = [*TOWERS, "frozenseg_tiny_vit"]
TEXTS = ["a photo of a dog.", "sky", "This is a photo of a large traffic light"]


@pytest.fixture(autouse=True)
def towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known by name, as our own are."""
    for name, config in TOWERS.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        monkeypatch.setitem(clip_config.OWN, name, path)


def make_clip(name: str) -> FrozenClip:
    torch.manual_seed(0)
    model = build_clip_model(name, quick_gelu=False)
    for parameter in model.parameters():  # fresh ones are often nothing, and mistakes would hide
        mean = float(parameter.detach().mean())
        if parameter.dim() == 1 or (parameter.detach() - mean).abs().max() < 1e-3:
            nn.init.normal_(parameter, mean=mean, std=0.2)
    return FrozenClip(model=model, name=name, mean=[120.0] * 3, std=[60.0] * 3)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_levels_regions_and_text_have_their_sizes(name: str) -> None:
    clip = make_clip(name)
    features = clip(torch.randn(2, 3, 64, 96))
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    assert features.levels.keys() == clip.channels.keys() and len(clip.channels) in (1, 4)
    for level, tensor in features.levels.items():
        stride = strides[level]
        assert tensor.shape == (2, clip.channels[level], 64 // stride, 96 // stride)
    masks = torch.randn(2, 3, *features.dense.shape[-2:])
    regions = clip.encode_regions(features.dense, masks)
    assert regions.shape == (2, 3, clip.embed_dim) and regions.isfinite().all()
    nothing = clip.encode_regions(features.dense, -masks.abs())
    assert nothing.isfinite().all()
    by_maps = clip.encode_activations(features.dense, 1e4 * masks.sign()[:, :, None])
    close(by_maps, regions)
    grid = masks.shape[-2:]
    one_cell_each = 2 * torch.eye(grid.numel()).view(1, -1, *grid).expand(2, -1, -1, -1) - 1
    cells = clip.encode_cells(features.dense)
    close(cells.flatten(2).mT, clip.encode_regions(features.dense, one_cell_each))
    assert clip.encode_text(TEXTS).shape == (3, clip.embed_dim)
    assert not any(parameter.requires_grad for parameter in clip.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_text_is_open_clips_own(name: str) -> None:
    clip = make_clip(name)
    with torch.no_grad():
        close(clip.encode_text(TEXTS), clip.model.encode_text(clip.tokenizer(TEXTS)))


@pytest.mark.parametrize("name", ["tiny-SigLIP2", "tiny-MobileCLIP2-S"])
def test_the_region_of_everything_is_clips_view_of_the_image(name: str) -> None:
    clip = make_clip(name)
    pixels = torch.randn(2, 3, 160, 160)  # at the size of its positions
    dense = clip(pixels).dense
    with torch.no_grad():
        expected = clip.model.visual(pixels)
    ours = clip.encode_regions(dense, torch.ones(2, 2, *dense.shape[-2:]))
    close(ours[:, 0], expected)
    close(ours[:, 1], expected)


def test_attention_under_a_mask_is_that_to_the_cells_of_the_region() -> None:
    clip = make_clip("tiny-SigLIP2")
    dense = clip(torch.randn(1, 3, 64, 96)).dense
    masks = torch.randn(1, 3, 4, 6)
    pool, head = clip.model.visual.trunk.attn_pool, clip.model.visual.trunk.fc_norm
    ours = clip.encode_regions(dense, masks)
    for region in range(3):
        cells = dense[0][:, masks[0, region] > 0].T[None]
        with torch.no_grad():
            close(ours[0, region], head(pool(cells))[0])


@pytest.mark.parametrize("name", ["tiny-EVA02", "tiny-MobileCLIP2-B", "frozenseg_tiny_vit"])
def test_the_region_of_one_cell_is_its_token_in_the_joint_space(name: str) -> None:
    clip = make_clip(name)
    pixels = torch.randn(1, 3, 64, 96)
    dense = clip(pixels).dense
    masks = torch.full((1, 1, 4, 6), -1.0)
    masks[0, 0, 1, 2] = 1
    token = dense[0, :, 1, 2]
    visual = clip.model.visual
    with torch.no_grad():
        if name == "frozenseg_tiny_vit":
            expected = token @ visual.proj
        else:
            expected = visual.trunk.head(visual.trunk.fc_norm(token))
    close(clip.encode_regions(dense, masks)[0, 0], expected)


def test_tokens_are_timms_own() -> None:
    """At the size that positions were made for, and with patches of 14 pixels at stride 16."""
    for name in ("tiny-SigLIP2", "tiny-EVA02"):
        clip = make_clip(name)
        reference = build_clip_model(name, quick_gelu=False).eval()
        reference.load_state_dict(clip.model.state_dict())
        vit = reference.visual.trunk  # which takes images of one size
        size, patch = vit.patch_embed.img_size[0], vit.patch_embed.patch_size[0]
        pixels = torch.randn(1, 3, size * STRIDE // patch, size * STRIDE // patch)
        resized = nn.functional.interpolate(
            pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True
        )
        with torch.no_grad():
            tokens = vit.forward_features(resized)[0, vit.num_prefix_tokens :]
        close(clip(pixels).dense[0].flatten(1).T, tokens)


def options(name: str) -> dict[str, Any]:
    width = TOWERS[name]["embed_dim"] if name in TOWERS else 32
    return {
        "MODEL.FROZEN_SEG.CLIP_MODEL_NAME": name,
        "MODEL.FROZEN_SEG.EMBED_DIM": width,
        "MODEL.FROZEN_SEG.QUERY_INJECTOR": False,
        "MODEL.FROZEN_SEG.FEATURE_INJECTOR": False,
    }


@pytest.mark.parametrize("name", ["tiny-SigLIP2", "tiny-EVA02", "frozenseg_tiny_vit"])
def test_half_precision_stays_close(name: str) -> None:
    words = [str(word) for pair in options(name).items() for word in pair]
    clip = build_tiny(*words).clip
    pixels = torch.randn(1, 3, 64, 96)
    before = clip(pixels).dense
    clip.cast_trunk(torch.bfloat16)
    after = clip(pixels).dense
    assert after.dtype == torch.bfloat16
    assert (after.float() - before).norm() < 0.05 * before.norm()


def test_a_pyramid_of_the_level_at_stride_16(
    tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    """CLIP_PYRAMID simple: the decoder reads nothing of the other levels."""
    model = build_tiny("MODEL.FROZEN_SEG.CLIP_PYRAMID", "simple").eval()
    features = model.encode(tiny_images)
    for name, level in features.clip.levels.items():
        blank = replace(
            features.clip, levels={**features.clip.levels, name: torch.zeros_like(level)}
        )
        with torch.no_grad():
            found, other = (
                model.decode(of, tiny_text, auxiliary=False).mask_logits
                for of in (features, replace(features, clip=blank))
            )
        assert torch.equal(found, other) == (name != "res4")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_and_a_picture(name: str, tmp_path: Path) -> None:
    run = TinyRun(tmp_path)
    more = {
        **options(name),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "DATASETS.TRAIN": (run.dataset,),
        "DATASETS.TEST": (),
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
    }
    result = frozenseg.train(frozenseg.load_config(run.config, more))
    assert result.weights is not None
    names = load_file(result.weights).keys()
    trained = {key for key in names if key.startswith("pyramid.")}
    assert bool(trained) == (name != "tiny-MobileCLIP2-S") and "void_embedding" in names
    segmenter = frozenseg.load(tmp_path / "out")
    image = torch.zeros(3, 50, 90, dtype=torch.uint8)
    assert segmenter(image, "cat; sky").semantic.shape == (50, 90)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roberta-ViT-B-32", "its text tower is not CLIP's own"),
        ("coca_ViT-B-32", "its text tower is not CLIP's own"),
        ("swin_base_patch4_window7_224", "its image tower gives no pyramid of features"),
    ],
)
def test_towers_that_cannot_be_used_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        FrozenClip(model=build_clip_model(name, quick_gelu=False), name=name, mean=[0], std=[1])


def test_a_tokenizer_of_transformers_is_not_fetched() -> None:
    with pytest.raises(UserError, match=r"ViT-B-16-SigLIP2: .*(needs transformers|hf download)"):
        with torch.device("meta"):
            FrozenClip(
                model=build_clip_model("ViT-B-16-SigLIP2", quick_gelu=False),
                name="ViT-B-16-SigLIP2",
                mean=[0],
                std=[1],
            )


def test_pixels_of_another_kind_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for name, weights, warnings in (
        ("ViT-B-16-SigLIP2", "webli", 2),
        ("RN50x64", "openai", 0),
        ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", 0),
        ("frozenseg_tiny", "none", 0),
    ):
        frozen = "MODEL.FROZEN_SEG."
        given = {f"{frozen}CLIP_MODEL_NAME": name, f"{frozen}CLIP_PRETRAINED_WEIGHTS": weights}
        caplog.clear()
        _warn_of_other_pixels(load_config(None, given))
        assert len(caplog.records) == warnings, caplog.text
