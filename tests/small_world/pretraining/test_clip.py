"""Contrastive loss against open_clip's own; pairs and scores on a tiny CLIP."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from frozenseg.encoders.clip import build_clip_model
from frozenseg.small_world.captions import region_caption
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.pretraining.clip import (
    WINDOWS,
    CaptionedScenes,
    CaptionedWindows,
    ClipTask,
    contrastive_loss,
    ground_window,
    prepare,
    thing_window,
)
from frozenseg.small_world.scene import make_scene


@pytest.fixture(scope="module")
def task() -> ClipTask:
    torch.manual_seed(0)
    model = build_clip_model("frozenseg_tiny", quick_gelu=False)
    return ClipTask(
        model=model,
        seed=0,
        side=64,
        easy_pairs=2,
        mosaics=False,
        mean=[127.5] * 3,
        std=[60.0] * 3,
        test_images=12,
    )


def pairs() -> CaptionedScenes:
    return CaptionedScenes(seed=1, side=64, easy_pairs=2, context_length=24)


def test_the_loss_is_open_clips_where_all_texts_differ() -> None:
    image, text = (F.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(7.0)
    expected = open_clip.ClipLoss()(image, text, scale)
    tokens = torch.arange(12).view(6, 2)
    assert contrastive_loss(scale * image @ text.T, tokens).item() == pytest.approx(expected.item())


def test_equal_texts_are_equally_right() -> None:
    tokens = torch.tensor([[1, 2], [1, 2], [3, 4]])
    perfect = 50 * torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    confused = 50 * torch.eye(3)  # tells two equal texts apart
    best = 2 * torch.tensor(2.0).log() / 3  # two rows whose target is half and half
    assert contrastive_loss(perfect, tokens).item() == pytest.approx(best.item(), abs=1e-4)
    assert contrastive_loss(confused, tokens) > 5


def test_a_pair_depends_on_seed_and_index_alone() -> None:
    first, second = pairs(), pairs()
    for index in (0, 7):
        for one, two in zip(first[index], second[index], strict=True):
            assert torch.equal(one, two)
    assert not torch.equal(first[0][0], first[1][0])
    assert int((first[1][1] != 0).sum()) <= 8  # the first captions say only one noun
    image, tokens = first[3]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert tokens.shape == (24,) and int((tokens != 0).sum()) > 2


def test_gradients_reach_both_towers(task: ClipTask) -> None:
    samples = task.samples()
    rows = [samples[i] for i in range(2, 6)]
    batch = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    task.losses(batch, torch.Generator())["total_loss"].backward()
    unreached = [name for name, p in task.model.named_parameters() if p.grad is None]
    assert not unreached


def test_a_prepared_clip_has_live_blocks_and_an_empty_token_table() -> None:
    model = build_clip_model("frozenseg_tiny_resnet", quick_gelu=False)
    prepare(model)
    blocks = [p for name, p in model.visual.named_parameters() if name.endswith("bn3.weight")]
    assert len(blocks) == 5 and all((p == 1).all() for p in blocks)
    assert not model.token_embedding.weight.any()


def mosaic_task(name: str = "frozenseg_tiny_resnet") -> ClipTask:
    torch.manual_seed(0)
    return ClipTask(
        model=build_clip_model(name, quick_gelu=False), seed=0, side=64, easy_pairs=0, mosaics=True,
        mean=[127.5] * 3, std=[60.0] * 3, test_images=10,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["frozenseg_tiny", "frozenseg_tiny_resnet"])
def test_mosaics_train_all_of_the_image_tower(name: str) -> None:
    task = mosaic_task(name)
    rows = [task.samples()[i] for i in range(2)]
    assert rows[0][0].shape == (WINDOWS, 3, 64, 64)
    batch = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    task.losses(batch, torch.Generator().manual_seed(1))["total_loss"].backward()
    unreached = [name for name, p in task.model.named_parameters() if p.grad is None]
    assert not unreached


@pytest.mark.parametrize("tiles", [2, 3])
def test_a_tiles_vector_is_that_of_its_place_alone(tiles: int) -> None:
    """Compare with a mosaic built by hand, with a mask for each tile."""
    task = mosaic_task()
    task.model.eval()
    images = torch.randint(0, 256, (tiles**2 + 1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        vectors = task._tile_vectors(images, tiles)
        size = 32 * max(1, round(2 / tiles * 2)) * tiles
        mosaic = torch.zeros(1, 3, size, size)
        tile = size // tiles
        for n in range(tiles**2):
            part = F.interpolate(
                task.normalized(images[n : n + 1]), size=(tile, tile), mode="bilinear",
                antialias=True,
            )  # fmt: skip
            top, left = n // tiles * tile, n % tiles * tile
            mosaic[..., top : top + tile, left : left + tile] = part
        dense = task.trunk(mosaic).dense
        for n in range(tiles**2):
            mask = torch.full((1, 1, size, size), -1.0)
            top, left = n // tiles * tile, n % tiles * tile
            mask[..., top : top + tile, left : left + tile] = 1.0
            mask = F.interpolate(mask, size=dense.shape[-2:], mode="area")
            torch.testing.assert_close(task.trunk.encode_regions(dense, mask)[0, 0], vectors[n])
    assert len(vectors) == tiles**2  # the image that fills no mosaic is left out


def test_windows_show_what_their_captions_say() -> None:
    generator = np.random.default_rng(0)
    shares = {True: [], False: []}
    for index in range(20):
        scene = make_scene(0, "clip", index)
        for region in scene.regions:
            mask = scene.ids == region.id
            look = thing_window if region.is_thing else ground_window
            window = look(mask, generator)
            shares[region.is_thing].append(mask[window].mean())
            if region.is_thing:
                assert mask[window].sum() == mask.sum()  # all of it, if it fits in a square
            names = (NOUNS if region.is_thing else GROUNDS)[region.name].names
            said = region_caption(region, generator)
            assert any(name in said for name in names)
    assert np.mean(shares[True]) > 0.3 and np.mean(shares[False]) > 0.8


def test_a_window_depends_on_seed_and_index_alone() -> None:
    first, second = (CaptionedWindows(seed=1, side=32, context_length=24)[3] for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_region_under_its_true_mask_is_named_by_its_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Vectors that know the regions get all names right; those of "star" get no ground right."""
    task = mosaic_task()
    names = [*NOUNS, *GROUNDS]
    one_hot = torch.eye(len(names))
    monkeypatch.setattr(task, "_text_vectors", lambda _: one_hot)
    monkeypatch.setattr(
        task, "_region_vectors",
        lambda scene: torch.stack([one_hot[names.index(r.name)] for r in scene.regions]),
    )  # fmt: skip
    hits = task._region_hits()
    assert len(hits) >= 3 and all(values.all() for values in hits.values())
    monkeypatch.setattr(
        task, "_region_vectors",
        lambda scene: one_hot[names.index("star")].expand(len(scene.regions), -1),
    )  # fmt: skip
    assert not any(v.any() for key, v in task._region_hits().items() if "grounds" in key)


def test_an_oracle_scores_all_and_a_random_model_little(
    task: ClipTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["star", "heart", "key"]
    oracle = torch.eye(3)
    monkeypatch.setattr(task, "_text_vectors", lambda names: oracle)
    assert task._right(oracle, names, names).all()
    assert task._right(oracle.flip(0), names, names).tolist() == [False, True, False]


def test_the_evaluation_names_its_scores(task: ClipTask) -> None:
    task.model.eval()
    scores = task.evaluate()
    assert set(scores) <= {
        "nouns_seen", "nouns_unseen", "grounds_seen", "grounds_unseen",
        "attributes_said", "attributes_held_out",
        "region_things_seen", "region_things_unseen", "region_grounds_seen",
        "region_grounds_unseen",
    }  # fmt: skip
    assert len(scores) >= 3 and all(0 <= value <= 100 for value in scores.values())
