"""Frozen encoders of Fusioner against the libraries' own calls on the same weights."""

import sys
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from open_clip.model import resize_pos_embed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from frozenseg.encoders.bert import BertText, load_bert
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.encoders.clip_config import clip_config
from frozenseg.encoders.clip_text import ClipText, without_image_tower
from frozenseg.encoders.patches import (
    ClipResNetPatches,
    ClipVitPatches,
    PatchEncoder,
    SamPatches,
    TimmPatches,
    build_timm_vit,
    clip_patches,
)
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.errors import UserError
from frozenseg.structures import ImageBatch

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 62.0, 64.0]


def clip_model(name: str) -> open_clip.CLIP:
    torch.manual_seed(0)
    return build_clip_model(name, quick_gelu=False).eval()


def encoder(kind: str) -> PatchEncoder:
    torch.manual_seed(0)
    if kind == "timm":
        return TimmPatches(model=build_timm_vit("test_vit"))
    if kind == "dinov3":
        return TimmPatches(model=build_timm_vit("vit_tiny_patch16_dinov3_qkvb"))
    if kind == "sam":
        return SamPatches(sam=FrozenSam(model=build_sam_model("tiny"), view="keep_aspect"))
    return clip_patches(clip_model(kind).visual, name=kind, mean=MEAN, std=STD)


KINDS = {
    "frozenseg_tiny_vit": (ClipVitPatches, 32, 16, (4, 6)),
    "frozenseg_tiny_resnet": (ClipResNetPatches, 32, 32, (2, 3)),
    "timm": (TimmPatches, 64, 16, (4, 6)),
    "dinov3": (TimmPatches, 192, 16, (4, 6)),
    "sam": (SamPatches, 32, 8, (5, 8)),  # SAM's own 8 x 8 cells, cut to the image's shape
}


def images(height: int, width: int) -> ImageBatch:
    return ImageBatch.collate([torch.rand(3, height, width) * 255 for _ in range(2)], 1)


def normalized(batch: ImageBatch, mean: list[float], std: list[float]) -> Tensor:
    return batch.normalized(torch.tensor(mean), torch.tensor(std))


def close(tokens: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        tokens, nn.functional.normalize(expected.detach(), dim=-1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_interface_frozen_and_of_any_size(kind: str) -> None:
    made, (cls, channels, stride, grid) = encoder(kind), KINDS[kind]
    assert isinstance(made, cls) and (made.channels, made.stride) == (channels, stride)
    made.train()
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    batch = images(64, 96)
    found = made(batch)
    assert found.grid == grid and found.tokens.shape == (2, grid[0] * grid[1], channels)
    torch.testing.assert_close(found.tokens.norm(dim=-1), torch.ones(found.tokens.shape[:2]))
    assert not found.tokens.requires_grad
    alone = made(ImageBatch(batch.pixels[1:], batch.sizes[1:]))
    torch.testing.assert_close(alone.tokens, found.tokens[1:], atol=1e-5, rtol=1e-4)
    # what lies in the padding means nothing
    part = ImageBatch(batch.pixels.clone(), [(40, 96), (64, 70)])
    dirty = ImageBatch(part.pixels.clone(), part.sizes)
    dirty.pixels[0, :, 40:], dirty.pixels[1, :, :, 70:] = 255, 0
    assert torch.equal(made(part).tokens, made(dirty).tokens)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_clip_vit_tokens_are_open_clips_own(size: tuple[int, int]) -> None:
    """At another size: of an open_clip model built for it, its table resized by open_clip."""
    model, batch = clip_model("frozenseg_tiny_vit"), images(*size)
    config = clip_config("frozenseg_tiny_vit")
    config["vision_cfg"]["image_size"] = size
    other, state = open_clip.CLIP(**config).eval(), dict(model.state_dict())
    resize_pos_embed(state, other)
    other.load_state_dict(state)
    other.visual.output_tokens = True  # behind ln_post, before the projection
    with torch.no_grad():
        _, tokens = other.visual(normalized(batch, MEAN, STD))
        tokens = tokens @ other.visual.proj
    close(clip_patches(model.visual, name="", mean=MEAN, std=STD)(batch).tokens, tokens)


def test_clip_resnet_tokens_are_regions_of_one_cell() -> None:
    """Each cell as `FrozenClip` describes a mask that holds it alone."""
    model, batch = clip_model("frozenseg_tiny_resnet"), images(64, 96)
    clip = FrozenClip(model=model, name="frozenseg_tiny_resnet", mean=MEAN, std=STD)
    dense = clip(normalized(batch, MEAN, STD)).dense
    masks = (torch.eye(6) * 2 - 1).view(1, 6, 2, 3).expand(2, -1, -1, -1)
    expected = clip.encode_regions(dense, masks)
    found = clip_patches(model.visual, name="", mean=MEAN, std=STD)(batch)
    assert found.grid == (2, 3)
    close(found.tokens, expected)


@pytest.mark.parametrize("size", [(160, 160), (64, 96)])
def test_timm_tokens_are_timms_own(size: tuple[int, int]) -> None:
    """At another size: of a model built for it, whose loader resizes the table itself."""
    made, batch = encoder("timm"), images(*size)
    other = timm.create_model("test_vit", img_size=size, num_classes=0).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(made.model.state_dict(), other)
    other.load_state_dict(state)
    pixels = normalized(batch, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    close(made(batch).tokens, other.forward_features(pixels)[:, other.num_prefix_tokens :])


def test_dinov3_tokens_are_timms_own() -> None:
    """Its positions are rotary, so that a model of one size takes another's weights as they are."""
    made, batch = encoder("dinov3"), images(64, 96)
    other = timm.create_model("vit_tiny_patch16_dinov3_qkvb", img_size=(64, 96), num_classes=0)
    other.eval().load_state_dict(made.model.state_dict())
    pixels = normalized(batch, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    close(made(batch).tokens, other.forward_features(pixels)[:, 5:])


def test_sam_tokens_are_its_embedding() -> None:
    made, batch = encoder("sam"), images(64, 64)
    close(made(batch).tokens, made.sam(batch).flatten(2).transpose(1, 2))


def test_clip_text_needs_no_image_tower() -> None:
    whole, model = clip_model("frozenseg_tiny_vit"), clip_model("frozenseg_tiny_vit")
    text = ClipText(model=without_image_tower(model), name="frozenseg_tiny_vit")
    assert not [name for name in text.state_dict() if "visual" in name]
    with torch.no_grad():
        expected = whole.encode_text(text.tokenizer(["a dog", "sky"]))
    torch.testing.assert_close(text.encode_text(["a dog", "sky"]), expected)
    before = ClipText(model=whole, name="frozenseg_tiny_vit").text_fingerprint()
    assert text.text_fingerprint() == before  # the cache of vectors is shared


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_244", "unknown; did you mean vit_base_patch16_224"),
        ("test_vit.no_such_tag", "not a plain ViT of timm"),
        ("test_maxvit", "not a plain ViT of timm"),
        ("resnet18", "unknown"),
    ],
)
def test_timm_models_that_cannot_be_used_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"{name}: {message}"):
        build_timm_vit(name)


def test_other_image_towers_of_clip_are_refused() -> None:
    with pytest.raises(UserError, match="frozenseg_tiny: a ViT or ResNet"):
        encoder("frozenseg_tiny")  # a ConvNeXt


def test_bert_without_its_package_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install 'frozenseg\[fusioner\]'"):
        load_bert(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", object())
    for folder in ("", str(tmp_path)):
        with pytest.raises(UserError, match="no folder with BERT's config.json"):
            load_bert(folder)


def test_bert_vectors_are_means_over_the_tokens_of_a_text(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "sky", "blue"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    text = load_bert(str(tmp_path))
    assert isinstance(text, BertText) and text.embed_dim == 16
    found = text.encode_text(["a blue sky", "dog", "a dog"], batch_size=2)
    for row, ids in zip(found, ([2, 5, 8, 7, 3], [2, 6, 3], [2, 5, 6, 3]), strict=True):
        hidden = text.model(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(row, hidden.mean(0).detach(), atol=1e-5, rtol=1e-4)
    assert text.text_fingerprint() == load_bert(str(tmp_path)).text_fingerprint()
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    name = next(name for name in state if name.endswith("layer.1.output.dense.weight"))
    state.pop(name)
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="entries are missing, e.g. .*layer.1.output.dense"):
        load_bert(str(tmp_path))
    weights.write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be read as BERT"):
        load_bert(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as BERT"):
        load_bert(str(tmp_path))
