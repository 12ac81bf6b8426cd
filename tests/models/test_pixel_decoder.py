"""Both pixel decoders: shapes, independence of images, and the top-down step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.models import ms_deform_attn
from frozenseg.models.layers import sine_positions
from frozenseg.models.ms_deform_attn import DeformableEncoderLayer, deformable_attention
from frozenseg.models.pixel_decoder import (
    DeformableEncoder,
    PixelDecoder,
    Recompute,
    SAMPixelDecoder,
)

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}


def make_decoder() -> PixelDecoder:
    torch.manual_seed(1)
    return PixelDecoder(
        in_channels=CHANNELS, dim=32, mask_dim=24, num_layers=2, num_heads=4, num_points=2
    ).eval()


def make_features(batch: int = 2) -> dict[str, torch.Tensor]:
    sizes = {"res2": (16, 24), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3)}
    return {name: torch.randn(batch, CHANNELS[name], *size) for name, size in sizes.items()}


def make_sam_pixel_decoder(num_levels: int) -> SAMPixelDecoder:
    torch.manual_seed(1)
    decoder = SAMPixelDecoder(
        in_channels=20, dim=32, num_layers=2, num_levels=num_levels, num_heads=4, num_points=2
    ).eval()
    for name, parameter in decoder.named_parameters():  # offsets and weights that depend on queries
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def test_levels_go_from_coarse_to_fine_and_mask_features_are_at_stride_4() -> None:
    mask_features, levels = make_decoder()(make_features())
    assert mask_features.shape == (2, 24, 16, 24)
    assert [tuple(level.shape) for level in levels] == [
        (2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12),
    ]  # fmt: skip


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    decoder, features = make_decoder(), make_features()
    with torch.no_grad():
        masks, levels = decoder(features)
        for image in (0, 1):
            alone, alone_levels = decoder(
                {name: level[image : image + 1] for name, level in features.items()}
            )
            torch.testing.assert_close(alone[0], masks[image], atol=1e-5, rtol=1e-4)
            for ours, expected in zip(alone_levels, levels, strict=True):
                torch.testing.assert_close(ours[0], expected[image], atol=1e-5, rtol=1e-4)


def test_mask_features_are_one_top_down_step_from_the_finest_level() -> None:
    decoder, features = make_decoder(), make_features()
    with torch.no_grad():
        masks, levels = decoder(features)
        convolution, norm = decoder.lateral
        lateral = F.group_norm(
            F.conv2d(features["res2"], convolution.weight), 32, norm.weight, norm.bias
        )
        finest = lateral + F.interpolate(
            levels[2], size=(16, 24), mode="bilinear", align_corners=False
        )
        convolution, norm = decoder.output
        finest = F.conv2d(finest, convolution.weight, padding=1)
        finest = F.group_norm(finest, 32, norm.weight, norm.bias).clamp(min=0)
        expected = F.conv2d(finest, decoder.mask_features.weight, decoder.mask_features.bias)
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-4)


def test_tokens_and_sampling_locations_stay_in_float32_under_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = []

    def recorded(value: Tensor, shapes: Any, locations: Tensor, weights: Tensor) -> Tensor:
        places.append((locations, weights))
        return deformable_attention(value, shapes, locations, weights)

    monkeypatch.setattr(ms_deform_attn, "deformable_attention", recorded)
    decoder, features = make_decoder(), make_features()
    expected_masks, expected = decoder(features)
    exact = places.copy()
    places.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks, levels = decoder(features)
    assert masks.dtype == torch.bfloat16
    assert {level.dtype for level in levels} == {torch.float32}
    assert {part.dtype for pair in places for part in pair} == {torch.float32}
    # A location in half precision would be off by up to 2^-9; here only the tokens are rounded.
    torch.testing.assert_close(places[0][0], exact[0][0], atol=1e-3, rtol=0)
    for level, exactly in zip(levels, expected, strict=True):
        assert (level - exactly).norm() <= 0.02 * exactly.norm()
    assert (masks.float() - expected_masks).norm() <= 0.02 * expected_masks.norm()


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (1, 7)])
@pytest.mark.parametrize("num_levels", [1, 3])
def test_sam_pixel_decoder_halves_the_embedding(num_levels: int, size: tuple[int, int]) -> None:
    output = make_sam_pixel_decoder(num_levels)(torch.randn(2, 20, *size))
    assert output.shape == (2, 32, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert output.isfinite().all()


@pytest.mark.parametrize("num_levels", [1, 3])
def test_sam_pixel_decoder_treats_images_one_by_one(num_levels: int) -> None:
    """In the published kernel, the images of a batch read each other's buffers; ours must not."""
    decoder, embedding = make_sam_pixel_decoder(num_levels), torch.randn(2, 20, 8, 8)
    with torch.no_grad():
        both = decoder(embedding)
        torch.testing.assert_close(decoder(embedding[1:]), both[1:], atol=1e-5, rtol=1e-4)


def test_built_for_three_levels_it_is_another_model_than_built_for_one() -> None:
    """The same offsets and weights, put at the first of three levels, give another result, because
    the entries are read in scrambled order, as the released weights need it."""
    one, three = make_sam_pixel_decoder(1), make_sam_pixel_decoder(3)
    state = one.state_dict()
    for name, tensor in three.state_dict().items():
        if tensor.shape == state[name].shape:
            tensor.copy_(state[name])
        elif name.endswith("level_embedding"):
            tensor[:1].copy_(state[name])
        else:  # (heads * levels * points * ..., C): copy to level 0, and make the others negligible
            parts = tensor.view(4, 3, -1, *tensor.shape[1:])
            parts[:, 0] = state[name].view(4, 1, -1, *tensor.shape[1:])[:, 0]
            parts[:, 1:] = -1e4 if name.endswith("attention_weights.bias") else 0
    embedding = torch.randn(1, 20, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(one(embedding), three(embedding), atol=1e-2)


def test_encoder_adds_positions_and_level_embedding_to_queries_only() -> None:
    encoder = DeformableEncoder(dim=32, num_layers=1, num_levels=2, num_heads=4, num_points=2)
    levels = [torch.randn(1, 32, 2, 3), torch.randn(1, 32, 4, 5)]
    positions = [
        sine_positions(*level.shape[-2:], 32, device="cpu") + embedding[None, :, None, None]
        for level, embedding in zip(levels, encoder.level_embedding, strict=True)
    ]
    caught: list[tuple[torch.Tensor, ...]] = []
    encoder.layers[0].self_attn.register_forward_hook(
        lambda _, arguments, __: caught.append(arguments)
    )
    encoder(levels)
    tokens = torch.cat([level.flatten(2) for level in levels], -1).transpose(1, 2)
    places = torch.cat([place.flatten(2) for place in positions], -1).transpose(1, 2)
    value, added, _, shapes = caught[0]
    torch.testing.assert_close(added, places)
    torch.testing.assert_close(value, tokens)
    assert shapes == [(2, 3), (4, 5)]


@pytest.mark.parametrize("recompute", ["layers", "parts", "nothing"])
def test_layers_run_again_in_the_backward_pass_give_the_same_gradients(
    recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    forward = DeformableEncoderLayer.forward
    monkeypatch.setattr(
        DeformableEncoderLayer,
        "forward",
        lambda self, *given: runs.append(self) or forward(self, *given),
    )
    found = []
    for again in (recompute, "nothing"):
        torch.manual_seed(1)
        encoder = DeformableEncoder(
            dim=32, num_layers=2, num_levels=2, num_heads=4, num_points=2, recompute=again
        )
        levels = [torch.randn(2, 32, *size).requires_grad_() for size in ((4, 6), (8, 12))]
        outputs = encoder(levels)
        sum(output.square().mean() for output in outputs).backward()
        grads = [parameter.grad for parameter in (*encoder.parameters(), *levels)]
        found.append([*outputs, *grads])
    assert len(runs) == (6 if recompute == "layers" else 4)
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)
    with torch.no_grad():
        encoder(levels)
    assert len(runs) == (8 if recompute == "layers" else 6)
