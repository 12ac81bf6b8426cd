"""Mask-Adapter: pooling by activation maps, compared with loops, and its role in the model."""

import pytest
import torch
import torch.nn.functional as F

from frozenseg.build.models import build_model
from frozenseg.checkpoints.state_dict import trainable_state
from frozenseg.config import load_config
from frozenseg.encoders.pooling import log_sigmoid, pool_activations, pool_masks
from frozenseg.errors import UserError
from frozenseg.models.mask_adapter import MASKS_AT_ONCE, MaskAdapter
from frozenseg.structures import ImageBatch, TextEmbeddings
from tests.conftest import FC_CLIP_OPTIONS, RESNET_OPTIONS, TINY_OPTIONS, build_tiny

PREFIX = "MODEL.FROZEN_SEG."
ADAPTER = [
    *(PREFIX + "POOLING", "adapter", PREFIX + "MASK_ADAPTER.NUM_CHANNELS", "8"),
    *(PREFIX + "MASK_ADAPTER.NUM_OUTPUT_MAPS", "3"),
]


def test_pooling_under_maps_equals_a_loop() -> None:
    features, maps = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    pooled = pool_activations(features, maps)
    for image in range(2):
        for region in range(6):
            total, weights = torch.zeros(3), 0.0
            for y in range(4):
                for x in range(5):
                    weight = 1 / (1 + torch.exp(-maps[image, region, y, x]))
                    total, weights = total + weight * features[image, :, y, x], weights + weight
            torch.testing.assert_close(pooled[image, region], total / weights)


def test_maps_of_large_numbers_pool_as_masks() -> None:
    features, maps = torch.randn(2, 3, 4, 5), 1e4 * torch.randn(2, 6, 4, 5).sign()
    torch.testing.assert_close(pool_activations(features, maps), pool_masks(features, maps))
    assert pool_activations(features, -maps.abs()).isfinite().all()


@pytest.mark.parametrize("options", [(), RESNET_OPTIONS])
def test_regions_by_maps_of_large_numbers_are_those_by_masks(options) -> None:
    clip = build_tiny(*options).clip
    dense = torch.randn(2, clip.channels["res5"], 3, 4)
    masks = torch.randn(2, 5, 3, 4).sign()
    masks[:, :, 1, 1] = 1  # none is empty
    by_maps = clip.encode_activations(dense, 1e4 * masks[:, :, None])
    torch.testing.assert_close(by_maps, clip.encode_regions(dense, masks), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [(), RESNET_OPTIONS])
def test_embeddings_of_maps_are_averaged(options) -> None:
    clip = build_tiny(*options).clip
    dense, maps = torch.randn(2, clip.channels["res5"], 3, 4), torch.randn(2, 5, 3, 3, 4)
    alone = [clip.encode_activations(dense, maps[:, :, [number]]) for number in range(3)]
    torch.testing.assert_close(clip.encode_activations(dense, maps), sum(alone) / 3)


@pytest.mark.parametrize("options", [(), RESNET_OPTIONS])
def test_cells_are_regions_of_one_cell(options) -> None:
    clip = build_tiny(*options).clip
    dense = torch.randn(2, clip.channels["res5"], 3, 4)
    cells = clip.encode_cells(dense)
    assert cells.shape == (2, clip.embed_dim, 3, 4)
    only = torch.full((2, 1, 3, 4), -1.0)
    only[..., 2, 1] = 1
    torch.testing.assert_close(cells[..., 2, 1], clip.encode_regions(dense, only)[:, 0])


def adapter_by_hand(adapter: MaskAdapter, cells: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the maps (M, h, w) of a mask (4h, 4w) on an image (D, h, w), with all norms and blocks
    written out."""

    def normed(x, norm):
        mean, square = x.mean(0), x.var(0, unbiased=False)
        x = (x - mean) / (square + norm.eps).sqrt()
        return x * norm.weight[:, None, None] + norm.bias[:, None, None]

    def conv(x, layer, **how):
        return F.conv2d(x[None], layer.weight, layer.bias, **how)[0]

    first, norm_1, _, second, norm_2, _, last = adapter.mask_embedding
    x = F.gelu(normed(conv(mask[None], first, stride=2, padding=1), norm_1))
    x = F.gelu(normed(conv(x, second, stride=2, padding=1), norm_2))
    x = conv(conv(x, last) + cells, adapter.fusion)
    for block in adapter.blocks:
        inner = normed(conv(x, block.conv_dw, padding=3, groups=len(x)), block.norm)
        hidden = F.gelu(
            torch.einsum("oc,chw->ohw", block.mlp.fc1.weight, inner).add(
                block.mlp.fc1.bias[:, None, None]
            )
        )
        inner = torch.einsum("oc,chw->ohw", block.mlp.fc2.weight, hidden).add(
            block.mlp.fc2.bias[:, None, None]
        )
        x = x + block.gamma[:, None, None] * inner
    return conv(normed(x, adapter.norm), adapter.maps)


def test_maps_equal_the_layers_written_out() -> None:
    adapter = MaskAdapter(embed_dim=6, mask_channels=8, channels=4, num_blocks=2, num_maps=3)
    for parameter in adapter.parameters():  # layer scales of 1e-6 would hide mistakes
        torch.nn.init.normal_(parameter, std=0.5)
    cells, masks = torch.randn(2, 6, 2, 3), torch.rand(2, MASKS_AT_ONCE + 1, 8, 12)
    maps = adapter(cells, masks)
    assert maps.shape == (2, MASKS_AT_ONCE + 1, 3, 2, 3)
    for image, region in ((0, 0), (1, MASKS_AT_ONCE)):
        by_hand = adapter_by_hand(adapter, cells[image], masks[image, region])
        torch.testing.assert_close(maps[image, region], by_hand, atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # masks are then processed in parts
        torch.testing.assert_close(adapter(cells, masks), maps)


@pytest.mark.parametrize("options", [FC_CLIP_OPTIONS, RESNET_OPTIONS])
def test_the_adapter_classifies_queries_and_regions(
    options: list[str], tiny_images: ImageBatch, tiny_text: TextEmbeddings
) -> None:
    plain, model = build_tiny(*options), build_tiny(*options, *ADAPTER)
    model.load_state_dict(plain.state_dict(), strict=False)
    masks = [torch.full((1, 16, 16), 5.0) for _ in tiny_images.sizes]
    one, other = (it.predict(tiny_images, tiny_text, regions=masks) for it in (plain, model))
    assert torch.equal(one.mask_logits, other.mask_logits)
    assert not torch.allclose(one.class_logits, other.class_logits, atol=1e-4)
    torch.testing.assert_close(other.class_logits.exp().sum(-1), torch.ones(2, 10))

    # Computed by hand: the first query, and the region, which covers the entire first image.
    features = model.encode(tiny_images).clip
    inside = (other.mask_logits > 0).float()
    shares = F.avg_pool2d(inside, 2)  # stride 4 to stride 8
    expected = model.region_embeddings(features.dense, shares)
    logits = model.clip_logits(features, shares, tiny_text)
    cosines = F.normalize(expected[0, 0], dim=-1) @ F.normalize(tiny_text.weight[2], dim=-1)
    scale = model.clip.logit_scale.exp().clamp(max=100)
    torch.testing.assert_close(logits[0, 0, 1], scale * cosines)
    whole = model.region_embeddings(features.dense[:1], torch.ones(1, 1, 8, 12))
    torch.testing.assert_close(
        other.region_logits[:1],
        model.class_logits_of_regions(whole, tiny_text),
        atol=1e-4,
        rtol=1e-4,
    )


def test_only_a_model_with_an_adapter_has_its_weights() -> None:
    plain, model = build_tiny(*FC_CLIP_OPTIONS), build_tiny(*FC_CLIP_OPTIONS, *ADAPTER)
    added = trainable_state(model).keys() - trainable_state(plain).keys()
    assert added and all(name.startswith("mask_adapter.") for name in added)
    assert not any("mask_adapter" in name for name in plain.state_dict())


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = build_model(load_config(None, [PREFIX + "POOLING", "adapter"]))
    found = {name: tuple(p.shape) for name, p in model.mask_adapter.named_parameters()}
    assert found["fusion.weight"] == (768, 768, 1, 1)
    assert found["mask_embedding.6.weight"] == (768, 16, 1, 1)
    assert found["maps.weight"] == (16, 768, 1, 1)
    assert found["blocks.2.mlp.fc1.weight"] == (3072, 768)


def test_channels_that_cannot_be_halved_twice() -> None:
    options = [*TINY_OPTIONS, *ADAPTER, PREFIX + "MASK_ADAPTER.MASK_IN_CHANNELS", "6"]
    with pytest.raises(UserError, match="MASK_IN_CHANNELS 6: must be a multiple of 4"):
        build_model(load_config(None, options))
    with pytest.raises(UserError, match="POOLING"):
        load_config(None, [PREFIX + "POOLING", "adaptor"])


def test_log_sigmoid_is_finite_for_all_maps() -> None:
    """Unlike PyTorch's `logsigmoid`, `log_sigmoid` also stays finite in exported graphs, which
    split it into simple operations."""
    maps = torch.tensor([-1e4, -200.0, -50.0, -3.0, 0.0, 3.0, 50.0, 1e4])
    torch.testing.assert_close(log_sigmoid(maps), torch.nn.functional.logsigmoid(maps))
