"""Fusioner: sizes as published, a slow re-computation, what trains, what asking together does."""

import pytest
import torch
from torch import nn

from frozenseg.encoders.clip import build_clip_model
from frozenseg.encoders.clip_text import ClipText, without_image_tower
from frozenseg.encoders.patches import clip_patches
from frozenseg.models.fusioner import EarlyFusion, Fusion, Fusioner, LateFusion, PixelHead
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
    doublings: int = 3,
) -> Fusioner:
    torch.manual_seed(0)
    clip = build_clip_model(CLIP, quick_gelu=False)
    model = Fusioner(
        visual=clip_patches(clip.visual, name=CLIP, mean=[120.0] * 3, std=[60.0] * 3),
        text=ClipText(model=without_image_tower(clip), name=CLIP),
        fusion=make_fusion(kind),
        decoder=PixelHead(dim=16, doublings=doublings),
        temperature=0.07,
        classes_at_once=classes_at_once,
        size_divisor=16,
        window=window,
        window_stride=window_stride,
    )
    for name, parameter in model.trained_parameters():
        if parameter.dim() == 1:  # fresh norms and biases are nothing, and mistakes could hide
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
    """CLIP ViT-L/14 (PAPERS 3.1): 39,145,984 + 9,701,888 = 48.85 M; nothing is allocated."""
    with torch.device("meta"):
        fusion = EarlyFusion(visual_channels=768, text_channels=768)
        decoder = PixelHead()
        late = LateFusion(visual_channels=768, text_channels=768)
    assert count(fusion) == 39_145_984
    assert count(decoder) == 9_701_888
    assert count(late) == count(fusion) + 2 * 512  # one final norm more


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
    """And takes a grid of one cell, which torch's own refuses."""
    head, tokens = PixelHead(dim=8), torch.randn(2, 6, 8)
    features = tokens.transpose(1, 2).unflatten(2, (2, 3))
    for number, convolution in enumerate(head.convolutions):
        if number:
            features = nn.functional.interpolate(features, scale_factor=2, mode="bilinear")
        features = nn.functional.instance_norm(convolution(features)).relu()
    torch.testing.assert_close(head(tokens, (2, 3)), head.output(features))
    assert head(torch.randn(1, 1, 8), (1, 1)).isfinite().all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_gradient_reaches_fusion_and_decoder_alone(kind: str) -> None:
    model = make(kind).train()
    assert not any(part.training for part in (*model.visual.modules(), *model.text.modules()))
    model(batch(), text().weight.expand(2, -1, -1)).square().mean().backward()
    trained = dict(model.trained_parameters())
    assert {name.split(".")[0] for name in trained} == {"fusion", "decoder"}
    # A bias before an instance norm has no effect.
    idle = [f"decoder.convolutions.{n}.bias" for n in range(4)]
    for name, parameter in model.named_parameters():
        if name not in trained:
            assert parameter.grad is None and not parameter.requires_grad, name
        elif name not in idle:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_asked_together(kind: str) -> None:
    """Late: no influence at all. Early: words see each other; the order has none."""
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
    assert len(passes) == (2 if kind == "early" else 1)  # no pass for nothing


def test_predictions_name_their_class() -> None:
    """Synonyms are one class, by their mean; a batch of two equals two batches of one."""
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
    """Windows of 32 every 16 over 32 x 64 pixels, the second image 30 x 40 of it: three windows,
    of which the last shows the second image not at all."""
    pixels = [torch.rand(3, 32, 64) * 255, torch.rand(3, 30, 40) * 255]
    images, words = ImageBatch.collate(pixels, 16), text()
    found = make(kind, window=32, window_stride=16).predict(images, words).mask_logits
    plain = make(kind)
    vectors = words.weight.expand(1, -1, -1)
    for number, image in enumerate(pixels):
        whole = ImageBatch.collate([image], 1)
        sums, counts = torch.zeros(3, 16, 32), torch.zeros(32)
        for left in (0, 16, 32):
            inside = whole.pixels[..., left : left + 32]
            canvas = torch.zeros(1, 3, 32, 32)
            canvas[..., : inside.shape[-2], : inside.shape[-1]] = inside
            part = ImageBatch(canvas, [(inside.shape[-2], inside.shape[-1])])
            sums[..., left // 2 : left // 2 + 16] += plain(part, vectors)[0].detach()
            counts[left // 2 : left // 2 + 16] += 1
        torch.testing.assert_close(found[number], sums / counts, atol=1e-4, rtol=0)
    # in a window, too, classes asked together equal those asked alone, where fusion is late
    if kind == "late":
        model = make(kind, window=32, window_stride=16)
        alone = [model.predict(images, words.select([k])).mask_logits for k in range(3)]
        torch.testing.assert_close(torch.cat(alone, dim=1), found, atol=1e-4, rtol=0)
    # an image no larger than the window is one piece
    small = batch()
    one = make(kind, window=48, window_stride=16).predict(small, words).mask_logits
    torch.testing.assert_close(one, plain.predict(small, words).mask_logits)


def test_windows_cover_every_pixel_and_end_at_the_edge() -> None:
    assert window_starts(500, 224, 140) == [0, 140, 276]
    assert window_starts(224, 224, 140) == window_starts(100, 224, 140) == [0]
    assert window_starts(504, 224, 140) == [0, 140, 280]
