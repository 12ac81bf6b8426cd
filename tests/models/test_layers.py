"""Blocks of the decoders, compared with PyTorch's own layers and with formulas in loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frozenseg.models.layers import (
    MLP,
    Attention,
    AttentionBlock,
    FeedForwardBlock,
    _channels_last,
    resize,
    sine_positions,
)


def published_attention(ours: Attention, dim: int, num_heads: int) -> nn.MultiheadAttention:
    """Return PyTorch's layer with the weights of ours, whose names are the same."""
    theirs = nn.MultiheadAttention(dim, num_heads, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return theirs


def make_attention(dim: int = 24, num_heads: int = 4) -> Attention:
    attention = Attention(dim=dim, num_heads=num_heads)
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    return attention


def test_attention_equals_pytorchs_with_the_same_weights() -> None:
    attention = make_attention()
    query, key, value = torch.randn(2, 5, 24), torch.randn(2, 9, 24), torch.randn(2, 9, 24)
    expected, _ = published_attention(attention, 24, 4)(query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected, atol=1e-5, rtol=1e-4)


def test_attention_under_a_mask_equals_pytorchs() -> None:
    attention = make_attention()
    query, memory = torch.randn(2, 5, 24), torch.randn(2, 9, 24)
    visible = torch.rand(2, 5, 9) < 0.4
    visible[..., 0] = True
    hidden = (~visible).repeat_interleave(4, dim=0)  # PyTorch: a mask per head, True is hidden
    expected, _ = published_attention(attention, 24, 4)(query, memory, memory, attn_mask=hidden)
    ours = attention(query, memory, memory, visible)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, attention(query, memory, memory), atol=1e-3)


def test_attention_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="dim 30 is not a multiple of num_heads 4"):
        Attention(dim=30, num_heads=4)


@pytest.mark.parametrize("with_positions", [True, False])
def test_attention_block_is_post_norm_and_adds_positions_to_queries_and_keys_only(
    with_positions: bool,
) -> None:
    block = AttentionBlock(dim=24, num_heads=4)
    nn.init.normal_(block.norm.weight)
    tokens, positions = torch.randn(2, 5, 24), torch.randn(5, 24)
    memory, memory_positions = torch.randn(2, 9, 24), torch.randn(1, 9, 24)
    theirs = published_attention(block.attention, 24, 4)
    key = memory + memory_positions if with_positions else memory
    attended, _ = theirs(tokens + positions, key, memory)
    expected = F.layer_norm(tokens + attended, (24,), block.norm.weight, block.norm.bias)
    ours = block(
        tokens,
        memory,
        positions=positions,
        key=key if with_positions else None,
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_feed_forward_block_equals_pytorchs_encoder_layer() -> None:
    """It equals the second half of the layer. The first half is disabled: the output projection of
    its attention is zero, and its norm1 does not change normalised tokens."""
    block = FeedForwardBlock(dim=16, hidden_dim=40)
    theirs = nn.TransformerEncoderLayer(16, 2, 40, dropout=0.0, batch_first=True)
    nn.init.zeros_(theirs.self_attn.out_proj.weight)
    nn.init.zeros_(theirs.self_attn.out_proj.bias)
    theirs.linear1.load_state_dict(block.linear1.state_dict())
    theirs.linear2.load_state_dict(block.linear2.state_dict())
    theirs.norm2.load_state_dict(block.norm.state_dict())
    tokens = F.layer_norm(torch.randn(2, 5, 16), (16,))
    torch.testing.assert_close(block(tokens), theirs(tokens), atol=1e-4, rtol=1e-4)


def test_mlp_is_linear_layers_with_relu_between_them() -> None:
    mlp = MLP(input_dim=4, hidden_dim=8, output_dim=3, num_layers=3)
    first, second, third = mlp.layers
    x = torch.randn(6, 4)
    expected = third(second(first(x).clamp(min=0)).clamp(min=0))
    assert torch.equal(mlp(x), expected)
    assert (expected < 0).any()  # no ReLU after the last layer


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 5, 16), (1, 1, 8), (2, 9, 12)])
def test_sine_positions_follow_the_formula(height: int, width: int, dim: int) -> None:
    """As in DETR: the first half of the channels encodes rows, the second half columns; even
    channels are sines, odd channels cosines."""
    ours = sine_positions(height, width, dim, device="cpu")
    assert ours.shape == (1, dim, height, width)
    half = dim // 2
    for row in range(height):
        for column in range(width):
            for channel in range(dim):
                count, number = (height, row) if channel < half else (width, column)
                place = (number + 1) / (count + 1e-6)
                within = channel % half
                frequency = 10000 ** (2 * (within // 2) / half)
                angle = place * 2 * math.pi / frequency
                expected = math.sin(angle) if within % 2 == 0 else math.cos(angle)
                assert ours[0, channel, row, column].item() == pytest.approx(expected, abs=2e-6)


def test_resize_is_bilinear_and_leaves_the_same_size_alone() -> None:
    features = torch.randn(1, 2, 4, 6)
    assert resize(features, (4, 6)) is features
    # At half the size, every new cell is the mean of four.
    expected = features.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(resize(features, (2, 3)), expected)


def test_channels_last_maps_say_so_by_their_strides() -> None:
    """The maps of a single image may have any stride along the batch, but PyTorch's resize on CUDA
    derives the memory layout from it."""
    tokens = torch.randn(1, 10, 8)[:, 4:]
    maps = tokens.transpose(1, 2).unflatten(2, (2, 3))
    assert maps.stride()[0] != 48
    found = _channels_last(maps)
    assert found.stride() == (48, 1, 24, 8) and torch.equal(found, maps)
    assert found.data_ptr() == maps.data_ptr()
    planes = torch.randn(2, 8, 2, 3)
    assert torch.equal(_channels_last(planes), planes)
    assert _channels_last(planes).stride() == (48, 1, 24, 8)
