"""Contrastive loss against open_clip's own; pairs and scores on a tiny CLIP."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from frozenseg.data.small_world.captions import even_caption
from frozenseg.data.small_world.nouns import NOUNS
from frozenseg.data.small_world.scene import make_scene
from frozenseg.encoders.clip import build_clip_model
from frozenseg.pretraining.clip import SINGLE, CaptionedScenes, ClipTask, contrastive_loss, prepare


@pytest.fixture(scope="module")
def task() -> ClipTask:
    torch.manual_seed(0)
    model = build_clip_model("frozenseg_tiny", quick_gelu=False)
    return ClipTask(
        model=model,
        seed=0,
        side=64,
        easy_pairs=2,
        pooling_only=False,
        mean=[127.5] * 3,
        std=[60.0] * 3,
        test_images=12,
    )


def pairs() -> CaptionedScenes:
    return CaptionedScenes(seed=1, side=64, easy_pairs=2, even=False, context_length=24)


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
    assert int((first[1][1] != 0).sum()) <= 8  # the first say one noun alone
    image, tokens = first[3]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert tokens.shape == (24,) and int((tokens != 0).sum()) > 2


def test_gradients_reach_both_towers(task: ClipTask) -> None:
    samples = task.samples()
    rows = [samples[i] for i in range(2, 6)]
    batch = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    task.losses(batch, torch.Generator())["loss"].backward()
    unreached = [name for name, p in task.model.named_parameters() if p.grad is None]
    assert not unreached


def test_a_prepared_clip_has_live_blocks_and_an_empty_token_table() -> None:
    model = build_clip_model("frozenseg_tiny_resnet", quick_gelu=False)
    prepare(model)
    blocks = [p for name, p in model.visual.named_parameters() if name.endswith("bn3.weight")]
    assert len(blocks) == 5 and all((p == 1).all() for p in blocks)
    assert not model.token_embedding.weight.any()


def test_the_second_training_changes_the_pooling_alone() -> None:
    model = build_clip_model("frozenseg_tiny_resnet", quick_gelu=False).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = ClipTask(
        model=model, seed=0, side=64, easy_pairs=0, pooling_only=True,
        mean=[127.5] * 3, std=[60.0] * 3, test_images=2,
    )  # fmt: skip
    rows = [task.samples()[i] for i in range(4)]
    task.losses([torch.stack(parts) for parts in zip(*rows, strict=True)], torch.Generator())[
        "loss"
    ].backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed and all(name.startswith("visual.attnpool.") for name in changed)


def test_even_captions_name_the_grounds_half_of_the_time() -> None:
    generator = np.random.default_rng(0)
    scene = make_scene(0, "clip", 1, SINGLE)
    thing = scene.things[0].name
    named = [any(word in even_caption(scene, generator) for word in NOUNS[thing].names)
             for _ in range(100)]  # fmt: skip
    assert 30 < sum(named) < 70


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
    }  # fmt: skip
    assert len(scores) >= 3 and all(0 <= value <= 100 for value in scores.values())
