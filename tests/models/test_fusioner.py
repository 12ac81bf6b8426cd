"""Fusioner: the published sizes, a slow computation, what trains, and how classes interact."""

import pytest
import torch
from torch import nn

from frozenseg.encoders.clip import build_clip_model
from frozenseg.encoders.clip_text import ClipText, without_image_tower
from frozenseg.encoders.patches import clip_patches
from frozenseg.models.fusioner import EarlyFusion, Fusion, Fusioner, LateFusion, UpsamplingDecoder
from frozenseg.models.windows import window_starts
from frozenseg.structures import ImageBatch, TextEmbeddings

from .slow_fusioner import fusioner, weights_of

FUSIONS = {"early": EarlyFusion, "late": LateFusion}
CLIP = "frozenseg_tiny_vit"


def make_fusion(kind: str, num_layers: int = 4) -> Fusion:
    return FUSIONS[kind](
        visual_channels=32, text_channels=32, dim=16, num_heads=2, hidden_dim=24,
        num_layers=num_layers,
    )  # fmt: skip


def make(
    kind: str = "early",
    classes_at_once: int = 0,
    window: int = 0,
    window_stride: int = 0,
    window_padding: float = 0.0,
    doublings: int = 3,
) -> Fusioner:
    torch.manual_seed(0)
    clip = build_clip_model(CLIP, quick_gelu=False)
    model = Fusioner(
        visual=clip_patches(clip.visual, name=CLIP, mean=[120.0] * 3, std=[60.0] * 3),
        text=ClipText(model=without_image_tower(clip), name=CLIP),
        fusion=make_fusion(kind),
        decoder=UpsamplingDecoder(dim=16, doublings=doublings),
        temperature=0.07,
        classes_at_once=classes_at_once,
        size_divisor=16,
        window=window,
        window_stride=window_stride,
        window_padding=window_padding,
    )
    for name, parameter in model.trainable_parameters():
        if parameter.dim() == 1:  # new norms and biases have no effect and could hide mistakes
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return model.eval()


def batch() -> ImageBatch:
    return ImageBatch.collate([torch.rand(3, 32, 48) * 255, torch.rand(3, 30, 40) * 255], 16)


def text(classes: int = 3) -> TextEmbeddings:
    vectors = nn.functional.normalize(torch.randn(classes, 32), dim=-1)
    return TextEmbeddings(vectors, torch.arange(classes), torch.ones(classes, dtype=torch.bool))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_trained_parameters_are_as_many_as_published() -> None:
    """With CLIP ViT-L/14: 39,145,984 + 9,701,888 = 48.85 M. The meta device allocates nothing."""
    with torch.device("meta"):
        fusion = EarlyFusion(visual_channels=768, text_channels=768)
        decoder = UpsamplingDecoder()
        late = LateFusion(visual_channels=768, text_channels=768)
    assert count(fusion) == 39_145_984
    assert count(decoder) == 9_701_888
    assert count(late) == count(fusion) + 2 * 512  # one more final norm


@pytest.mark.parametrize(("kind", "doublings"), [("early", 3), ("late", 3), ("early", 1)])
def test_equals_the_slow_computation(kind: str, doublings: int) -> None:
    model, images = make(kind, doublings=doublings), batch()
    vectors = nn.functional.normalize(torch.randn(2, 3, 32), dim=-1)  # other classes for each image
    with torch.no_grad():
        ours = model.double()(ImageBatch(images.pixels.double(), images.sizes), vectors.double())
    patches = model.visual(ImageBatch(images.pixels.double(), images.sizes))
    assert patches.grid == (2, 3) and ours.shape == (2, 3, 2 * 2**doublings, 3 * 2**doublings)
    for image in range(2):
        expected = fusioner(
            patches.tokens[image].numpy(), vectors[image].double().numpy(), patches.grid,
            weights_of(model), heads=2, temperature=0.07, doublings=doublings,
        )  # fmt: skip
        torch.testing.assert_close(ours[image], torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert ours.abs().max() <= 1 / 0.07 and ours.std() > 0.1


def test_the_instance_norm_is_torchs() -> None:
    """Unlike PyTorch's instance norm, it also accepts a grid of one cell."""
    head, tokens = UpsamplingDecoder(dim=8), torch.randn(2, 6, 8)
    features = tokens.transpose(1, 2).unflatten(2, (2, 3))
    for number, convolution in enumerate(head.convolutions):
        if number:
            features = nn.functional.interpolate(features, scale_factor=2, mode="bilinear")
        features = nn.functional.instance_norm(convolution(features)).relu()
    torch.testing.assert_close(head(tokens, (2, 3)), head.output(features))
    assert head(torch.randn(1, 1, 8), (1, 1)).isfinite().all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_gradient_reaches_only_fusion_and_decoder(kind: str) -> None:
    model = make(kind).train()
    assert not any(part.training for part in (*model.visual.modules(), *model.text.modules()))
    model(batch(), text().weight.expand(2, -1, -1)).square().mean().backward()
    trained = dict(model.trainable_parameters())
    assert {name.split(".")[0] for name in trained} == {"fusion", "decoder"}
    # A bias before an instance norm has no effect.
    idle = [f"decoder.convolutions.{n}.bias" for n in range(4)]
    for name, parameter in model.named_parameters():
        if name not in trained:
            assert parameter.grad is None and not parameter.requires_grad, name
        elif name not in idle:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", FUSIONS)
def test_how_classes_queried_together_influence_each_other(kind: str) -> None:
    """Not at all with late fusion. With early fusion, classes attend to each other, but their order
    has no effect."""
    model, images, words = make(kind), batch(), text(3)
    together = model.predict(images, words).mask_logits
    vectors = words.weight.expand(2, -1, -1)
    alone = torch.cat([model(images, vectors[:, k : k + 1]) for k in range(3)], dim=1)
    same = torch.allclose(together, alone, atol=1e-4)
    assert same == (kind == "late")
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        model(images, vectors[:, order]), together[:, order], atol=1e-4, rtol=0
    )
    one_by_one = make(kind, classes_at_once=1).predict(images, words)
    torch.testing.assert_close(one_by_one.mask_logits, alone, atol=1e-4, rtol=0)
    passes = []
    pairwise = make(kind, classes_at_once=2)
    pairwise.decoder.register_forward_hook(lambda *_: passes.append(1))
    pairs = pairwise.predict(images, words).mask_logits
    torch.testing.assert_close(pairs[:, :2], model(images, vectors[:, :2]), atol=1e-4, rtol=0)
    torch.testing.assert_close(pairs[:, 2:], alone[:, 2:], atol=1e-4, rtol=0)
    assert len(passes) == (2 if kind == "early" else 1)  # late fusion needs no further pass


def test_predictions_name_their_class() -> None:
    """Each mask belongs to one class, which has the mean vector of its synonyms. A batch of two
    equals two batches of one."""
    model, images, names = make(), batch(), text(4)
    words = TextEmbeddings(names.weight, torch.tensor([0, 1, 1, 2]), torch.ones(3).bool())
    found = model.predict(images, words)
    assert torch.equal(found.class_logits.softmax(-1), torch.eye(3, 4).expand(2, -1, -1))
    mean = names.weight[1:3].mean(0)
    vectors = torch.stack((names.weight[0], mean / mean.norm(), names.weight[3]))
    expected = model(images, vectors.expand(2, -1, -1))
    torch.testing.assert_close(found.mask_logits, expected, atol=1e-4, rtol=0)
    alone = model.predict(ImageBatch(images.pixels[1:], images.sizes[1:]), words)
    torch.testing.assert_close(alone.mask_logits, found.mask_logits[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", FUSIONS)
def test_windows_are_images_of_their_own_and_averaged(kind: str) -> None:
    """Windows of 32 pixels with stride 21 on an image of 30 x 61, padded to 32 x 64, begin at 0, 21
    and 42. The last reaches beyond the image; the encoders see -1 there. The second image is
    30 x 40 and has no window at 42."""
    pixels = [torch.rand(3, 30, 61) * 255, torch.rand(3, 30, 40) * 255]
    images, words = ImageBatch.collate(pixels, 16), text()
    sliding = {"window": 32, "window_stride": 21, "window_padding": -1.0}
    found = make(kind, **sliding).predict(images, words).mask_logits
    assert found.shape == (2, 3, 32, 64)
    plain = make(kind)
    vectors = words.weight.expand(1, -1, -1)
    for number, image in enumerate(pixels):
        height, width = image.shape[-2:]
        sums, counts = torch.zeros(3, height, width), torch.zeros(width)
        for left in window_starts(width, 32, 21):
            shown = image[..., left : left + 32]
            # The mean minus one standard deviation is normalised to -1.
            canvas = torch.full((1, 3, 32, 32), 120.0 - 60.0)
            canvas[..., :height, : shown.shape[-1]] = shown
            masks = plain(ImageBatch(canvas, [(32, 32)]), vectors).detach()
            masks = nn.functional.interpolate(masks, size=(32, 32), mode="bilinear")[0]
            sums[..., left : left + 32] += masks[:, :height, : shown.shape[-1]]
            counts[left : left + 32] += 1
        ours = found[number, :, :height, :width]
        torch.testing.assert_close(ours, sums / counts, atol=1e-4, rtol=0)
        # The other image has no influence: the same image alone, padded as in the batch.
        single = ImageBatch(images.pixels[[number]], [images.sizes[number]])
        alone = make(kind, **sliding).predict(single, words).mask_logits
        torch.testing.assert_close(alone, found[[number]], atol=1e-4, rtol=0)
    # With late fusion, classes do not influence each other in windows either.
    if kind == "late":
        model = make(kind, **sliding)
        alone = [model.predict(images, words.select([k])).mask_logits for k in range(3)]
        torch.testing.assert_close(torch.cat(alone, dim=1), found, atol=1e-4, rtol=0)


def test_windows_are_as_many_as_published_and_cover_every_pixel() -> None:
    """The published number is ceil((length - side) / stride) + 1."""
    assert [*window_starts(500, 224, 149)] == [0, 149, 298]
    assert [*window_starts(224, 224, 149)] == [*window_starts(100, 224, 149)] == [0]
    assert [*window_starts(225, 224, 149)] == [0, 149]
    assert [*window_starts(522, 224, 149)] == [0, 149, 298]
    for length in range(1, 80):
        starts = window_starts(length, 16, 7)
        assert len(starts) == -(-max(length - 16, 0) // 7) + 1
        assert starts[-1] + 16 >= length and starts[-1] < max(length, 1)


@pytest.mark.parametrize("kind", FUSIONS)
def test_it_starts_as_the_published_code_draws_it(kind: str) -> None:
    """The text embedding is drawn from N(0, 1), the projections with standard deviation
    1 / sqrt(dim), and linear layers, including those of attention, uniformly in
    +-1 / sqrt(inputs)."""
    torch.manual_seed(0)
    fusion = FUSIONS[kind](visual_channels=96, text_channels=64, dim=256, num_layers=2)
    fusion.start_as_published()
    for name, parameter in fusion.named_parameters():
        found = float(parameter.detach().std())
        if name == "text_embedding":
            expected = 1.0
        elif name.endswith("projection.weight"):
            expected = 256**-0.5
        elif "norm" in name or name.split(".")[1] in ("0", "2") and "input" in name:
            expected = 0.0
        else:
            inputs = parameter.shape[-1] if parameter.ndim > 1 else 256
            inputs = {"linear2.bias": 2048}.get(name.partition(".")[2][2:], inputs)
            inputs = {"visual_input.1.bias": 96, "text_input.1.bias": 64}.get(name, inputs)
            expected = (3 * inputs) ** -0.5
        assert found == pytest.approx(expected, rel=0.15, abs=1e-9), name
