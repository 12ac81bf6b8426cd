"""The masked-attention decoder: invariants of its predictions, and where it injects features."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from frozenseg.models.layers import sine_positions
from frozenseg.models.mask_decoder import MaskDecoder, MaskHead, attention_mask
from frozenseg.structures import MaskPredictions

Decode = Callable[..., MaskPredictions]


def make_decoder(
    query_level: int | None = 2,
    feature_level: int | None = 0,
    *,
    keep: bool = False,
    layers: int = 6,
) -> MaskDecoder:
    torch.manual_seed(3)
    return MaskDecoder(
        num_queries=7,
        dim=16,
        num_heads=4,
        hidden_dim=24,
        num_layers=layers,
        mask_dim=16,
        embed_dim=12,
        query_injector_level=query_level,
        feature_injector_level=feature_level,
        keep_key_positions=keep,
    )


def inputs(batch: int = 2) -> dict:
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weight = noise(4, 12)
    return {
        "levels": [noise(batch, 16, 3, 4), noise(batch, 16, 6, 8), noise(batch, 16, 12, 16)],
        "mask_features": noise(batch, 16, 24, 32),
        "classify": lambda embeddings, scale: embeddings @ weight.T * scale,
        "sam_embedding": noise(batch, 16, 8, 8),
        "sam_level": noise(batch, 16, 4, 4),
    }


def close(ours: MaskPredictions, expected: MaskPredictions, atol: float = 2e-4) -> None:
    torch.testing.assert_close(ours.class_logits, expected.class_logits, atol=atol, rtol=1e-3)
    torch.testing.assert_close(masks_of(ours), masks_of(expected), atol=atol, rtol=1e-3)


def masks_of(output: MaskPredictions) -> Tensor:
    """Return the mask logits, which in training only the losses compute."""
    if output.mask_embed is None:
        return output.mask_logits
    return torch.einsum("bqc,bchw->bqhw", output.mask_embed, output.mask_features)


@pytest.mark.parametrize("feature_level", [None, 0, 1, 2])
@pytest.mark.parametrize("query_level", [None, 2])
def test_last_prediction_is_the_same_with_and_without_auxiliary_ones(
    query_level: int | None, feature_level: int | None
) -> None:
    decoder = make_decoder(query_level, feature_level)
    with torch.no_grad():
        lean = decoder(**inputs())
        full = decoder(**inputs(), auxiliary=True)
    assert lean.auxiliary == [] and len(full.auxiliary) == 6
    close(lean, full)
    assert lean.class_logits.shape == (2, 7, 4) and lean.mask_logits.shape == (2, 7, 24, 32)


def test_auxiliary_outputs_are_the_last_outputs_of_shorter_decoders() -> None:
    decoder = make_decoder()
    with torch.no_grad():
        full = decoder(**inputs(), auxiliary=True)
        for number in (1, 2, 4):  # if there is a fourth layer, queries are injected before it
            layers = decoder.layers
            decoder.layers = layers[:number]
            shorter = decoder(**inputs())
            decoder.layers = layers
            close(full.auxiliary[number], shorter)


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    decoder, both = make_decoder(), inputs()
    with torch.no_grad():
        together = decoder(**both)
        for image in (0, 1):
            rows = slice(image, image + 1)
            one = {
                name: [level[rows] for level in value]
                if isinstance(value, list)
                else (value[rows] if torch.is_tensor(value) else value)
                for name, value in both.items()
            }
            alone = decoder(**one)
            close(alone, MaskPredictions(together.class_logits[rows], together.mask_logits[rows]))


def changes(decoder: MaskDecoder, name: str) -> bool:
    """Return whether the result depends on the input `name`."""
    data = inputs()
    with torch.no_grad():
        before = decoder(**data)
        data[name] = data[name] + 1
        after = decoder(**data)
    return not torch.equal(before.mask_logits, after.mask_logits)


@pytest.mark.parametrize(
    ("query_level", "feature_level", "uses_embedding", "uses_level"),
    [
        (2, 0, True, True),
        (2, None, True, False),
        (None, 0, False, True),
        (None, None, False, False),
    ],
)
def test_each_injector_reads_its_own_input_only(
    query_level: int | None, feature_level: int | None, uses_embedding: bool, uses_level: bool
) -> None:
    decoder = make_decoder(query_level, feature_level)
    assert changes(decoder, "sam_embedding") == uses_embedding
    assert changes(decoder, "sam_level") == uses_level


def test_without_injectors_neither_sam_nor_parameters_for_it() -> None:
    decoder, data = make_decoder(None, None), inputs()
    del data["sam_embedding"], data["sam_level"]
    decoder(**data)
    assert not [name for name, _ in decoder.named_parameters() if "injector" in name]


def test_feature_injector_has_weights_of_its_own_for_each_layer_of_its_level() -> None:
    names = {
        name.split(".")[2]
        for name, _ in make_decoder(layers=9).named_parameters()
        if name.startswith("feature_injector.")
    }
    assert names == {"0", "3", "6"}
    assert set(make_decoder(2, 1, layers=9).feature_injector.blocks) == {"1", "4", "7"}


def test_no_injection_after_the_last_layer() -> None:
    """With three layers, an injection after the last layer has no effect and is left out."""
    assert not changes(make_decoder(2, None, layers=3), "sam_embedding")
    assert changes(make_decoder(2, None, layers=4), "sam_embedding")
    assert changes(make_decoder(1, None, layers=3), "sam_embedding")


def test_query_injector_adds_the_projected_mean_of_sam_under_the_mask() -> None:
    decoder = make_decoder()
    queries, embedding = torch.randn(1, 2, 16), torch.randn(1, 16, 8, 8)
    logits = torch.randn(1, 2, 8, 8)
    logits[0, 1] = -1
    ours = decoder.query_injector(queries, embedding, logits)
    inside = embedding[0][:, logits[0, 0] > 0].mean(1)
    norm, linear = decoder.pooling_projection
    torch.testing.assert_close(ours[0, 0], queries[0, 0] + linear(norm(inside)), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours[0, 1], queries[0, 1] + linear(norm(torch.zeros(16))), atol=1e-4, rtol=0
    )


def test_published_keys_behind_the_feature_injector_have_no_positions() -> None:
    """KEEP_KEY_POSITIONS changes the result, but has no effect without the Feature Injector."""
    with torch.no_grad():
        published, kept = make_decoder()(**inputs()), make_decoder(keep=True)(**inputs())
        assert not torch.allclose(published.mask_logits, kept.mask_logits, atol=1e-3)
        plain, same = make_decoder(2, None), make_decoder(2, None, keep=True)
        assert torch.equal(plain(**inputs()).mask_logits, same(**inputs()).mask_logits)


def layer_by_hand(decoder: MaskDecoder, data: dict) -> Tensor:
    """Return the queries after the first layer, without injectors, by PyTorch's own attention."""

    def attend(block: nn.Module, query: Tensor, key: Tensor, value: Tensor, **mask: Tensor):
        theirs = nn.MultiheadAttention(16, 4, batch_first=True)
        theirs.load_state_dict(block.attention.state_dict())
        return theirs(query, key, value, **mask)[0]

    layer = decoder.layers[0]
    queries, places = decoder.query_features[None], decoder.query_positions[None]
    masks = torch.einsum(
        "bqc,bchw->bqhw", decoder.mask_embedding(decoder.norm(queries)), data["mask_features"]
    )
    small = nn.functional.interpolate(masks, size=(3, 4), mode="bilinear", align_corners=False)
    hidden = small.sigmoid().flatten(2) < 0.5
    hidden[hidden.all(-1)] = False
    keys = data["levels"][0].flatten(2).transpose(1, 2) + decoder.level_embedding[0]
    positions = sine_positions(3, 4, 16, device="cpu").flatten(2).transpose(1, 2)
    seen = attend(
        layer.cross_attention,
        queries + places,
        keys + positions,
        keys,
        attn_mask=hidden.repeat_interleave(4, 0),
    )
    queries = layer.cross_attention.norm(queries + seen)
    exchanged = attend(layer.self_attention, queries + places, queries + places, queries)
    return layer.feed_forward(layer.self_attention.norm(queries + exchanged))


def test_a_layer_is_cross_attention_then_self_attention_then_feed_forward() -> None:
    decoder, data = make_decoder(None, None, layers=1), inputs(batch=1)
    with torch.no_grad():
        queries = decoder.norm(layer_by_hand(decoder, data))
        masks = torch.einsum(
            "bqc,bchw->bqhw", decoder.mask_embedding(queries), data["mask_features"]
        )
        ours = decoder(**data)
    torch.testing.assert_close(ours.mask_logits, masks, atol=1e-4, rtol=1e-4)


def test_attention_mask_opens_where_nothing_is_inside() -> None:
    logits = torch.tensor([[[[1.0, -1.0], [0.0, -3.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert attention_mask(logits).tolist() == [[[True, False, True, False], [True] * 4]]


def test_masks_at_any_size_are_resized_products() -> None:
    features, embedding = torch.randn(1, 8, 12, 16), torch.randn(1, 3, 8)
    product = torch.einsum("bqc,bchw->bqhw", embedding, features)
    masks = MaskHead(features)
    for size in ((3, 4), (5, 7), (12, 16)):
        expected = nn.functional.interpolate(
            product, size=size, mode="bilinear", align_corners=False
        )
        ours = masks.logits(embedding, size)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_learned_scale_begins_at_the_published_temperature() -> None:
    assert make_decoder().logit_scale.item() == pytest.approx(math.log(1 / 0.07))
