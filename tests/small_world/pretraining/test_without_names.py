"""Views of a picture, and the losses of MoCo and DINO against slow obvious versions."""

import numpy as np
import pytest
import torch

from frozenseg.errors import UserError
from frozenseg.small_world.pretraining import without_names
from frozenseg.small_world.pretraining.views import ViewPairs, view
from frozenseg.small_world.pretraining.without_names import (
    MOMENTUM,
    DinoTask,
    MocoTask,
    Prototypes,
    make_task,
    named_right,
)


def test_a_pair_depends_on_its_number_alone_and_has_two_views() -> None:
    pairs = ViewPairs(seed=3, side=32)
    (first,), (again,), (other,) = pairs[5], ViewPairs(seed=3, side=32)[5], pairs[6]
    assert first.shape == (2, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first[0], first[1])


def test_views_differ_in_colour_and_place_and_show_nothing_else() -> None:
    generator = np.random.default_rng(0)
    plain = np.full((60, 90, 3), (200, 100, 50), np.uint8)
    views = np.stack([view(plain, 24, generator) for _ in range(60)])
    assert all(len(np.unique(of.reshape(-1, 3), axis=0)) == 1 for of in views)  # still plain
    colours = views[:, 0, 0].astype(int)
    assert len(np.unique(colours, axis=0)) > 50
    rows = np.arange(90, dtype=np.uint8)[None, :, None]
    ramp = np.broadcast_to(rows, (60, 90, 3)).copy()
    starts = {int(view(ramp, 24, generator)[0, 0, 0]) for _ in range(60)}
    assert len(starts) > 10


@pytest.fixture
def views() -> torch.Tensor:
    return torch.randint(
        0, 256, (4, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_moco_tells_a_view_by_its_partner() -> None:
    task = MocoTask(seed=0, test_images=2)
    queries, keys = torch.randn(3, 5), torch.randn(3, 5)
    total = 0.0
    for row in range(3):
        alike = [torch.cosine_similarity(queries[row], key, dim=0) / 0.2 for key in keys]
        total += float(torch.logsumexp(torch.stack(alike), 0) - alike[row]) / 3
    assert task._contrast(queries, keys).item() == pytest.approx(2 * 0.2 * total, rel=1e-5)


def test_dino_predicts_what_the_average_says_of_the_other_view(views: torch.Tensor) -> None:
    torch.manual_seed(0)
    task = DinoTask(seed=0, test_images=2)
    task.model.get_buffer("centre").normal_(std=0.1)
    centre = task.model.get_buffer("centre").clone()
    pixels = views.transpose(0, 1).flatten(0, 1).float() / 128 - 1
    with torch.no_grad():
        said, told = task.model.trained(pixels), task.model.average(pixels)
    total = 0.0
    for picture in range(4):
        for one, other in ((picture, 4 + picture), (4 + picture, picture)):
            target = torch.softmax((told[other] - centre) / 0.04, 0)
            total -= float((target * torch.log_softmax(said[one] / 0.1, 0)).sum()) / 8
    assert task.compare(pixels)["total_loss"].item() == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(
        task.model.get_buffer("centre"), 0.9 * centre + 0.1 * told.mean(0), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("method", ["moco", "dino"])
def test_the_average_follows_and_gets_no_gradient(method: str, views: torch.Tensor) -> None:
    task = make_task(method, seed=0, batch=4, test_images=2)
    before = [parameter.clone() for parameter in task.model.average.parameters()]
    with torch.no_grad():
        for parameter in task.model.trained.parameters():
            parameter.add_(1.0)
    task.losses([views], torch.Generator())["total_loss"].backward()
    for old, new in zip(before, task.model.average.parameters(), strict=True):
        torch.testing.assert_close(new, old + (1 - MOMENTUM), atol=1e-6, rtol=1e-5)
        assert new.grad is None
    trained = [row for row in task.model.trained.named_parameters() if row[1].requires_grad]
    missing = [name for name, parameter in trained if parameter.grad is None]
    assert missing == []


def test_prototypes_are_directions() -> None:
    prototypes = Prototypes(4, 6)
    vectors = torch.randn(3, 4)
    found = prototypes(vectors)
    assert found[1, 2].item() == pytest.approx(
        torch.cosine_similarity(vectors[1], prototypes.directions[2], dim=0).item(), abs=1e-6
    )


@pytest.mark.parametrize(("neighbours", "right"), [(10, 1), (1, 3)])  # 10: all five, mostly "a"
def test_neighbours_vote(neighbours: int, right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_names, "NEIGHBOURS", neighbours)
    angles = torch.tensor([0.0, 0.1, 0.2, 3.0, 3.1, 0.15, 3.05, 2.9])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    names = ["a", "a", "a", "b", "b", "a", "b", "b"]
    assert named_right(vectors, names, 5) == pytest.approx(100 * right / 3)


def test_one_picture_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="--batch 1: must be at least 2"):
        make_task("moco", seed=0, batch=1, test_images=2)
