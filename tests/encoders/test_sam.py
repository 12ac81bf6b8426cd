"""The frozen SAM against segment-anything's own classes, and its two views of an image."""

import copy

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from segment_anything.utils.transforms import ResizeLongestSide

from frozenseg.encoders import sam_attention
from frozenseg.encoders.sam import FrozenSam, build_sam_model
from frozenseg.encoders.sam_attention import FusedAttention, FusedBlock, fuse_attention
from frozenseg.errors import UserError
from frozenseg.runtime.linear import PrepackedLinear, onednn_present
from frozenseg.structures import ImageBatch


@pytest.mark.parametrize("elements", [64_000_000, 1, 3 * 48**2])
@pytest.mark.parametrize("size", [(6, 8), (5, 5)])
def test_fused_attention_equals_segment_anythings(
    monkeypatch: pytest.MonkeyPatch, elements: int, size: tuple[int, int]
) -> None:
    """All heads at once and one by one, and some of them at once."""
    monkeypatch.setitem(sam_attention.BIAS_ELEMENTS, "cpu", elements)
    theirs = Attention(24, num_heads=4, use_rel_pos=True, input_size=size)
    ours = FusedAttention(24, num_heads=4, use_rel_pos=True, input_size=size)
    for parameter in theirs.parameters():  # relative positions begin at zero
        torch.nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, *size, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=2e-5, rtol=1e-4)


def make_encoder() -> ImageEncoderViT:
    """Windows of 4 on 8 x 6 + padding, and a global block."""
    encoder = ImageEncoderViT(
        img_size=48,
        patch_size=8,
        embed_dim=16,
        depth=3,
        num_heads=2,
        out_chans=8,
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


@pytest.mark.parametrize("elements", [64_000_000, 1])
def test_fused_encoder_equals_the_original_with_windows_and_globally(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setitem(sam_attention.BIAS_ELEMENTS, "cpu", elements)
    theirs = make_encoder()
    ours = fuse_attention(copy.deepcopy(theirs))
    assert all(isinstance(block, FusedBlock) for block in ours.blocks)
    assert all(isinstance(block.attn, FusedAttention) for block in ours.blocks)
    assert [block.window_size for block in ours.blocks] == [4, 0, 4]
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), atol=2e-5, rtol=1e-4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.skipif(not onednn_present(), reason="nothing is packed on this CPU")
def test_a_packed_encoder_is_the_same() -> None:
    theirs = make_encoder().requires_grad_(False)
    ours = fuse_attention(copy.deepcopy(theirs))
    for block in ours.blocks:
        block.prepack()
        assert type(block.attn.qkv) is type(block.mlp.lin2) is PrepackedLinear
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels), atol=2e-5, rtol=1e-4)
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_have_segment_anythings_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_sam_model(name), sam_model_registry[name]()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert ours.image_encoder.img_size == theirs.image_encoder.img_size == 1024
    windows = [block.window_size for block in theirs.image_encoder.blocks]
    assert [block.window_size for block in ours.image_encoder.blocks] == windows


def test_normalisation_is_segment_anythings() -> None:
    ours, theirs = build_sam_model("tiny"), sam_model_registry["vit_b"]()
    assert torch.equal(ours.pixel_mean, theirs.pixel_mean)
    assert torch.equal(ours.pixel_std, theirs.pixel_std)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"vit-b: unknown; did you mean vit_b"):
        build_sam_model("vit-b")
    with pytest.raises(UserError, match=r"view squash: must be one of stretch, keep_aspect"):
        FrozenSam(model=build_sam_model("tiny"), view="squash")


@pytest.fixture(scope="module", params=["stretch", "keep_aspect"])
def view(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sam(view: str) -> FrozenSam:
    torch.manual_seed(0)
    return FrozenSam(model=build_sam_model("tiny"), view=view)


def test_embedding_spans_the_padded_batch(sam: FrozenSam, tiny_images: ImageBatch) -> None:
    embedding = sam(tiny_images)  # 64 x 96
    expected = (8, 8) if sam.view == "stretch" else (5, 8)  # cells of SAM's square; its long side
    assert tuple(embedding.shape) == (2, sam.channels, *expected)
    assert (sam.channels, sam.side) == (32, 64)


def test_sam_does_not_look_into_the_padding(sam: FrozenSam) -> None:
    images = ImageBatch.collate([torch.rand(3, 50, 70) * 255], 32)
    dirty = ImageBatch(images.pixels.clone(), images.sizes)
    dirty.pixels[:, :, 50:], dirty.pixels[..., 70:] = 255, 99
    torch.testing.assert_close(sam(dirty), sam(images))


def test_images_of_a_batch_do_not_mix(sam: FrozenSam, tiny_images: ImageBatch) -> None:
    both = sam(tiny_images)
    for image in (0, 1):
        rows = slice(image, image + 1)
        alone = sam(ImageBatch(tiny_images.pixels[rows], tiny_images.sizes[rows]))
        torch.testing.assert_close(alone, both[rows], atol=1e-5, rtol=1e-4)


def test_frozen(sam: FrozenSam) -> None:
    sam.train()
    assert not any(module.training for module in sam.modules())
    assert not any(parameter.requires_grad for parameter in sam.parameters())


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (96, 31), (7, 128), (33, 33)])
def test_keep_aspect_sees_what_segment_anything_sees(size: tuple[int, int]) -> None:
    """SAM's own transform (Pillow, uint8) and preprocessing (normalise, pad at the end)."""
    sam = FrozenSam(model=build_sam_model("tiny"), view="keep_aspect")
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6), size=size, mode="bicubic")
    image = (smooth[0].clamp(0, 1) * 255).byte()
    resized = ResizeLongestSide(64).apply_image(image.permute(1, 2, 0).numpy())
    expected = sam.model.preprocess(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])
    ours = sam.keep_aspect(ImageBatch.collate([image], 32))
    assert ours.shape == expected.shape == (1, 3, 64, 64)
    # One grey level is 1 / 57 of these units; Pillow rounds to whole levels twice.
    assert (ours - expected).abs().max() < 2.1 / 57
    assert torch.equal(ours == 0, expected == 0)


def test_stretch_is_the_padded_image_squeezed_into_the_square() -> None:
    sam = FrozenSam(model=build_sam_model("tiny"), view="stretch")
    caught: list[torch.Tensor] = []
    sam.model.image_encoder.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    images = ImageBatch.collate([torch.rand(3, 50, 70) * 255], 32)  # padded to 64 x 96
    sam(images)
    mean, std = sam.model.pixel_mean, sam.model.pixel_std
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :50, :70] = (images.pixels[..., :50, :70] - mean) / std
    expected = torch.nn.functional.interpolate(
        padded, size=(64, 64), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(caught[0], expected)


def aligned_coordinates(sam: FrozenSam, images: ImageBatch, cells: int) -> torch.Tensor:
    """What `_aligned` makes of an embedding that holds its own cells' centres (x, y) in pixels of
    SAM's square."""
    centres = (torch.arange(cells) + 0.5) * sam.side / cells
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    embedding = torch.stack((x, y)).expand(len(images.sizes), -1, -1, -1)
    return sam._aligned(embedding, images)


@pytest.mark.parametrize(
    "sizes", [[(64, 96)], [(50, 70)], [(96, 31)], [(64, 96), (50, 70), (64, 20)]]
)
def test_aligned_cells_look_at_the_same_place_of_the_image(sizes: list[tuple[int, int]]) -> None:
    """The centre of cell (i, j) of the aligned map lies at (j + 0.5) / columns of the padded
    image's width; SAM's square shows that point scaled by side / long side of the image."""
    sam = FrozenSam(model=build_sam_model("tiny"), view="keep_aspect")
    images = ImageBatch.collate([torch.rand(3, *size) for size in sizes], 32)
    height, width = images.pixels.shape[-2:]
    cells = 64  # fine ones, so that the border of half a cell is small
    aligned = aligned_coordinates(sam, images, cells)
    rows, columns = aligned.shape[-2:]
    assert max(rows, columns) == cells
    assert rows / columns == pytest.approx(height / width, rel=0.02)
    half = sam.side / cells / 2
    for image, size in enumerate(sizes):
        scale = sam.side / max(size)
        x = (torch.arange(columns) + 0.5) / columns * width * scale
        y = (torch.arange(rows) + 0.5) / rows * height * scale
        # Beyond the square's last centre its border is repeated.
        expected_x, expected_y = (place.clamp(half, sam.side - half) for place in (x, y))
        ours = aligned[image]
        torch.testing.assert_close(ours[0], expected_x.expand(rows, columns), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(
            ours[1], expected_y[:, None].expand(rows, columns), atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("place", [(1, 2), (0, 0), (3, 5)])
@pytest.mark.parametrize("view_name", ["stretch", "keep_aspect"])
def test_a_bright_square_comes_out_in_its_own_cell(view_name: str, place: tuple[int, int]) -> None:
    """An encoder that only averages its patches: the marker must lie where CLIP's levels have it,
    with padding beside it."""
    sam = FrozenSam(model=build_sam_model("tiny"), view=view_name)

    class Averages(torch.nn.Module):
        img_size = 64

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(pixels, 2)

    sam.model.image_encoder = Averages()
    image = torch.zeros(3, 64, 96)
    i, j = place
    image[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = 255
    # A second, wider image adds padding on the right and below: 96 x 128.
    images = ImageBatch.collate([image, torch.zeros(3, 90, 128)], 32)
    embedding = sam(images)[:1, :1]
    cells = torch.nn.functional.interpolate(embedding, size=(6, 8), mode="area")[0, 0]
    cells = cells[:4, :6]  # those of the image; beside it SAM's border is repeated
    assert divmod(int(cells.argmax()), 6) == place


def test_patches_as_a_product_are_those_of_the_convolution() -> None:
    embed = build_sam_model("tiny").image_encoder.patch_embed
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(embed.product(pixels), embed.proj(pixels).permute(0, 2, 3, 1))
