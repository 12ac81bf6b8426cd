"""The frozen CLIP against open_clip's own calls on the same weights."""

import copy
import math

import pytest
import torch
from open_clip.transformer import QuickGELU
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from frozenseg.encoders import convnext_block
from frozenseg.encoders.clip import FrozenClip, build_clip_model
from frozenseg.encoders.convnext_block import FusedConvNeXtBlock, fuse_blocks
from frozenseg.errors import UserError
from frozenseg.runtime.linear import PrepackedLinear, onednn_present

TEXTS = ["a photo of a dog.", "sky", "This is a photo of a large traffic light", "a b c " * 3]
NAMES = ["frozenseg_tiny", "frozenseg_tiny_resnet"]


def make_clip(name: str, quick_gelu: bool = False) -> FrozenClip:
    torch.manual_seed(0)
    model = build_clip_model(name, quick_gelu=quick_gelu)
    # Fresh norms, biases and layer scales are nearly nothing: with them, mistakes could hide.
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1 and "scale" not in key:
            nn.init.normal_(parameter, mean=float("bias" not in key), std=0.2)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer))
    return FrozenClip(model=model, name=name, mean=[120.0] * 3, std=[60.0] * 3)


@pytest.fixture(scope="module", params=NAMES)
def clip(request: pytest.FixtureRequest) -> FrozenClip:
    return make_clip(request.param)


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)


def test_text_vectors_are_open_clips_own(clip: FrozenClip) -> None:
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenizer(TEXTS))
    assert expected.shape == (4, clip.embed_dim)
    assert expected.std(0).min() > 1e-3  # the texts differ
    close(clip.encode_text(TEXTS), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_places_behind_the_ends_of_texts_are_left_out_where_nobody_sees_them(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip("frozenseg_tiny")
    if not causal:
        clip.model.attn_mask = None
    texts = ["a", "!$! a b", "a b c d e f", "b", "a long red thing! by the sea", "c d"]
    expected = clip.model.encode_text(clip.tokenizer(texts)).detach()
    lengths = []
    clip.model.transformer.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape))
    close(clip.encode_text(texts, batch_size=2), expected)
    places = [length for _, length, _ in lengths]
    assert places == ([3, 7, 10] if causal else [24] * 3), places


def test_text_vectors_of_single_texts_and_of_batches_agree(clip: FrozenClip) -> None:
    """A text tower fed (batch, tokens) in the wrong order mixes texts, silently."""
    together = clip.encode_text(TEXTS)
    close(clip.encode_text(TEXTS, batch_size=3), together)
    close(torch.cat([clip.encode_text([text]) for text in TEXTS]), together)


def test_text_vectors_equal_a_transformer_written_out(clip: FrozenClip) -> None:
    """CLIP's text tower from its paper (pre-norm, causal, the token at the end counts), one text
    at a time, so that no layout of batches can be wrong."""
    model = clip.model
    for text, ours in zip(TEXTS, clip.encode_text(TEXTS), strict=True):
        tokens = clip.tokenizer([text])[0]
        x = model.token_embedding.weight[tokens] + model.positional_embedding
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        for block in model.transformer.resblocks:
            norm = block.ln_1(x)
            x = x + block.attn(norm, norm, norm, attn_mask=hidden)[0]
            x = x + block.mlp(block.ln_2(x))
        expected = model.ln_final(x)[tokens.argmax()] @ model.text_projection
        close(ours, expected.detach())


def test_a_text_longer_than_the_context_is_refused(clip: FrozenClip) -> None:
    with pytest.raises(UserError, match=r"'word word.*: 32 tokens, the text encoder reads 24"):
        clip.encode_text(["sky", "word " * 30])
    assert clip.encode_text(["word " * 22]).shape == (1, clip.embed_dim)  # 24 with start and end


def test_levels_have_the_declared_channels_and_strides(clip: FrozenClip) -> None:
    features = clip(torch.randn(2, 3, 64, 96))
    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        shape = (2, clip.channels[name], 64 // stride, 96 // stride)
        assert tuple(features.levels[name].shape) == shape
    assert features.dense.shape == features.levels["res5"].shape


def test_nothing_trains_and_eval_mode_stays(clip: FrozenClip) -> None:
    clip.train()
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    assert not clip(pixels).dense.requires_grad
    assert not clip.encode_text(["sky"]).requires_grad


def test_convnext_features_are_those_of_the_trunk() -> None:
    clip = make_clip("frozenseg_tiny")
    trunk, pixels = clip.model.visual.trunk, torch.randn(2, 3, 64, 96)
    trunk.norm_pre = nn.Tanh()  # the identity in most models, and then nobody would miss it
    caught: list[Tensor] = []
    for stage in trunk.stages:
        stage.register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.no_grad():
        dense = trunk.forward_features(pixels)
    expected = list(caught)
    features = clip(pixels)
    for level, wanted in zip(features.levels.values(), expected, strict=True):
        close(level, wanted)
    close(features.dense, dense)


@pytest.mark.parametrize("elements", [1 << 24, 1000])
def test_fused_convnext_equals_timms(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """With a hidden layer as a whole and in parts."""
    monkeypatch.setattr(convnext_block, "HIDDEN_ELEMENTS", elements)
    clip = make_clip("frozenseg_tiny")
    blocks = [m for m in clip.model.visual.trunk.modules() if isinstance(m, ConvNeXtBlock)]
    assert blocks and all(type(block) is FusedConvNeXtBlock for block in blocks)
    names = list(clip.state_dict())
    pixels = torch.randn(2, 3, 64, 96)
    ours = clip(pixels)
    for block in blocks:
        block.__class__ = ConvNeXtBlock
    theirs = clip(pixels)
    for name, level in theirs.levels.items():
        close(ours.levels[name], level)
    close(ours.dense, theirs.dense)
    assert list(clip.state_dict()) == names


@pytest.mark.skipif(not onednn_present(), reason="nothing is packed on this CPU")
@pytest.mark.filterwarnings("ignore:TF32")  # PyTorch's own, when oneDNN is switched off
def test_a_packed_convnext_has_the_layer_scale_in_its_weights() -> None:
    clip = make_clip("frozenseg_tiny")
    blocks = [m for m in clip.model.visual.trunk.modules() if isinstance(m, FusedConvNeXtBlock)]
    for block in blocks:
        nn.init.uniform_(block.gamma, -2, 2)
    pixels, fingerprint = torch.randn(2, 3, 64, 96), clip.text_fingerprint()
    before, original = clip(pixels), copy.deepcopy(clip.state_dict())
    for block in blocks:
        block.prepack()
        block.prepack()  # nothing more to do
    assert all(type(block.mlp.fc2) is PrepackedLinear for block in blocks)
    after = clip(pixels)
    for name, level in before.levels.items():
        close(after.levels[name], level)
    close(after.dense, before.dense)
    other = make_clip("frozenseg_tiny")
    other.load_state_dict(clip.state_dict())  # says the same with a scale of 1
    close(other(pixels).dense, before.dense)
    assert clip.text_fingerprint() == fingerprint
    with torch.backends.mkldnn.flags(enabled=False):  # timm's own block
        close(clip(pixels).dense, before.dense)
    clip.load_state_dict(original)  # the scale is the loaded one again
    close(clip(pixels).dense, before.dense)


def test_a_convnext_block_of_another_kind_stays_as_it_is() -> None:
    plain, convolutions = ConvNeXtBlock(8), ConvNeXtBlock(8, conv_mlp=True)
    other, narrower = ConvNeXtBlock(8, use_grn=True), ConvNeXtBlock(8, 16)
    fuse_blocks(nn.ModuleList([plain, convolutions, other, narrower]))
    assert type(plain) is FusedConvNeXtBlock
    assert {type(block) for block in (convolutions, other, narrower)} == {ConvNeXtBlock}


def test_convnext_region_of_everything_is_clips_view_of_the_image() -> None:
    clip = make_clip("frozenseg_tiny")
    pixels = torch.randn(2, 3, 64, 96)
    dense = clip(pixels).dense
    with torch.no_grad():
        expected = clip.model.visual(pixels)
    ours = clip.encode_regions(dense, torch.ones(2, 3, *dense.shape[-2:]))
    for region in range(3):
        close(ours[:, region], expected)


def test_convnext_region_is_clips_view_of_the_mean_under_the_mask() -> None:
    """The trunk's head on a 1 x 1 image that holds the mean of the region."""
    clip = make_clip("frozenseg_tiny")
    dense = clip(torch.randn(1, 3, 64, 96)).dense
    masks = torch.randn(1, 4, *dense.shape[-2:])
    ours = clip.encode_regions(dense, masks)
    visual = clip.model.visual
    for region in range(4):
        mean = dense[0][:, masks[0, region] > 0].mean(1)
        with torch.no_grad():
            close(ours[0, region], visual.head(visual.trunk.head(mean[None, :, None, None]))[0])


def test_resnet_features_are_those_of_the_tower() -> None:
    clip = make_clip("frozenseg_tiny_resnet")
    visual, pixels = clip.model.visual, torch.randn(2, 3, 64, 64)
    caught: list[Tensor] = []
    for number in range(1, 5):
        getattr(visual, f"layer{number}").register_forward_hook(
            lambda _, __, output: caught.append(output)
        )
    with torch.no_grad():
        visual(pixels)
    expected = list(caught)
    for level, wanted in zip(clip(pixels).levels.values(), expected, strict=True):
        close(level, wanted)


def test_resnet_region_of_everything_is_attention_pooling_over_all_cells() -> None:
    """At the grid that the position table was made for (2 x 2 here). CLIP's own pooling looks at
    the cells and at their mean; under a mask, as published, at cells alone."""
    clip = make_clip("frozenseg_tiny_resnet")
    dense = clip(torch.randn(2, 3, 64, 64)).dense
    pool = clip.model.visual.attnpool
    cells = dense.flatten(2).permute(2, 0, 1)
    keys = cells + pool.positional_embedding[1:, None]
    mean = cells.mean(0, keepdim=True) + pool.positional_embedding[:1, None]

    def pooled(keys: Tensor) -> Tensor:
        return nn.functional.multi_head_attention_forward(
            query=mean,
            key=keys,
            value=keys,
            embed_dim_to_check=keys.shape[-1],
            num_heads=pool.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=pool.c_proj.weight,
            out_proj_bias=pool.c_proj.bias,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
            need_weights=False,
        )[0][0]

    with torch.no_grad():
        close(pooled(torch.cat((mean, keys))), pool(dense))  # the words above are true of CLIP's
        expected = pooled(keys)
    ours = clip.encode_regions(dense, torch.ones(2, 3, 2, 2))
    for region in range(3):
        close(ours[:, region], expected)


def test_resnet_region_of_one_cell_is_attention_to_that_cell_alone() -> None:
    """One key: its weight is 1, so its projected value comes out, whatever the query. The position
    table (2 x 2) is interpolated to the 2 x 3 cells of this image."""
    clip = make_clip("frozenseg_tiny_resnet")
    dense = clip(torch.randn(1, 3, 64, 96)).dense
    pool = clip.model.visual.attnpool
    table = pool.positional_embedding[1:].T.unflatten(1, (2, 2))[None]
    table = nn.functional.interpolate(table, size=(2, 3), mode="bilinear", align_corners=False)[0]
    masks = torch.full((1, 6, 2, 3), -1.0)
    for cell in range(6):
        masks[0, cell, cell // 3, cell % 3] = 1
    ours = clip.encode_regions(dense, masks)
    for cell in range(6):
        i, j = divmod(cell, 3)
        value = pool.v_proj(dense[0, :, i, j] + table[:, i, j])
        close(ours[0, cell], pool.c_proj(value).detach())


def test_resnet_region_equals_attention_written_out() -> None:
    clip = make_clip("frozenseg_tiny_resnet")
    dense = clip(torch.randn(1, 3, 64, 64)).dense
    pool = clip.model.visual.attnpool
    masks = torch.tensor([[1.0, -1.0], [1.0, 1.0]])[None, None]
    ours = clip.encode_regions(dense, masks)[0, 0]
    tokens = dense[0].flatten(1).T  # (4, C)
    query = pool.q_proj(tokens.mean(0) + pool.positional_embedding[0])
    seen = (tokens + pool.positional_embedding[1:])[[0, 2, 3]]
    size = len(query) // pool.num_heads
    heads = []
    for head in range(pool.num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = pool.k_proj(seen)[:, part] @ query[part] / math.sqrt(size)
        heads.append(scores.softmax(0) @ pool.v_proj(seen)[:, part])
    close(ours, pool.c_proj(torch.cat(heads)).detach())


def test_resnet_region_of_nothing_is_the_whole_image(clip: FrozenClip) -> None:
    dense = clip(torch.randn(1, 3, 64, 64)).dense
    nothing = clip.encode_regions(dense, torch.full((1, 1, 2, 2), -1.0))
    assert nothing.isfinite().all()
    if clip.name.endswith("resnet"):
        close(nothing, clip.encode_regions(dense, torch.ones(1, 1, 2, 2)))


def test_quick_gelu_is_another_activation() -> None:
    plain = make_clip("frozenseg_tiny_resnet")
    quick = make_clip("frozenseg_tiny_resnet", quick_gelu=True)
    quick.model.load_state_dict(plain.model.state_dict())
    assert sum(isinstance(part, QuickGELU) for part in quick.modules()) == 2  # a block each
    assert not any(isinstance(part, QuickGELU) for part in plain.modules())
    difference = (quick.encode_text(TEXTS) - plain.encode_text(TEXTS)).abs().max()
    assert difference > 1e-4
    assert quick.text_fingerprint() != plain.text_fingerprint()


def test_fingerprint_follows_text_weights_and_nothing_else() -> None:
    clip = make_clip("frozenseg_tiny")
    before = clip.text_fingerprint()
    assert make_clip("frozenseg_tiny").text_fingerprint() == before
    with torch.no_grad():
        clip.model.visual.trunk.stem[0].weight.add_(1)
    assert clip.text_fingerprint() == before
    with torch.no_grad():
        clip.model.token_embedding.weight[100, 3] += 1e-3
    assert clip.text_fingerprint() != before


def test_a_temperature_divides_what_attention_pools_by() -> None:
    plain, divided, even = (make_clip("frozenseg_tiny_resnet") for _ in range(3))
    plain.set_pool_temperature(3.0)
    even.set_pool_temperature(1e6)  # all cells of a region count alike
    with torch.no_grad():
        for parameter in divided.trunk.visual.attnpool.q_proj.parameters():
            parameter /= 3.0
    dense = torch.randn(2, plain.channels["res5"], 3, 4)
    masks = torch.randn(2, 5, 3, 4)
    masks[:, :, 1, 1] = 1  # none is empty
    found = plain.encode_regions(dense, masks)
    close(found, divided.encode_regions(dense, masks))
    inside = (masks > 0).float().flatten(2)
    mean = inside @ even.encode_cells(dense).flatten(2).transpose(1, 2) / inside.sum(-1)[..., None]
    close(even.encode_regions(dense, masks), mean)
    assert not torch.allclose(found, mean, rtol=0.01)


def test_only_a_resnet_has_a_temperature() -> None:
    clip = make_clip("frozenseg_tiny")
    clip.set_pool_temperature(1.0)
    with pytest.raises(UserError, match="2: the .* frozenseg_tiny is not CLIP.s ResNet, .* at 1"):
        clip.set_pool_temperature(2.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_larg_d_320", "unknown; did you mean convnext_large_d_320"),
        ("roberta-ViT-B-32", "its text tower is not CLIP's own"),
    ],
)
def test_models_that_cannot_be_used_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        FrozenClip(model=build_clip_model(name, quick_gelu=False), name=name, mean=[0], std=[1])
