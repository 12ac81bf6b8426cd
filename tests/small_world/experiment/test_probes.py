"""Linear probes: cells counted by hand, and features whose content is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import frozenseg
from frozenseg.small_world.commands.small_world_probe import main
from frozenseg.small_world.experiment.probes import CELL, Cells, cells_of, choices_of, probe
from frozenseg.small_world.scene import Region, Scene


def planted(seed: int, *, sam_knows: float) -> Cells:
    """Random edges: in noise, CLIP's map holds the seen ones; SAM's may hold the unseen ones."""
    generator = torch.Generator().manual_seed(seed)
    edge = torch.rand(12, 10, generator=generator) < 0.3
    unseen = torch.rand(12, 10, generator=generator) < 0.4
    noise = torch.randn(2, 3, 12, 10, generator=generator)
    clip = noise[0] + 6 * (edge & ~unseen)
    sam = noise[1] + sam_knows * (edge & unseen)
    flat = (edge.flatten(), unseen.flatten())
    return Cells({"res2": clip, "sam": sam}, (12, 10), (12, 10), *flat)


@pytest.mark.parametrize("sam_knows", [0.0, 6.0])
def test_what_a_map_holds_is_what_its_probe_finds(sam_knows: float) -> None:
    training, test = (
        [planted(seed, sam_knows=sam_knows) for seed in seeds] for seeds in (range(20), (30, 31))
    )
    choices = [("res2",), ("sam", "res2")]
    clip, both = probe(training, test, choices)
    assert clip.recall_seen > 95 and clip.recall_unseen < 30
    assert both.recall_seen > 95
    assert (both.recall_unseen > 95) == (sam_knows > 0)


def test_weights_are_those_of_damped_least_squares() -> None:
    """Compare with one system of equations for all cells, solved by numpy."""
    training = [planted(seed, sam_knows=1.0) for seed in range(4)]
    test = [planted(9, sam_knows=1.0)]
    features, edge = (
        torch.cat(parts).double().numpy()
        for parts in zip(*[(cells.features(), cells.edge) for cells in training], strict=True)
    )
    square = features.T @ features
    damped = np.vstack([features, np.sqrt(1e-3 * np.diag(square).mean()) * np.eye(len(square))])
    weights = np.linalg.lstsq(damped, np.concatenate([edge, np.zeros(len(square))]), rcond=None)[0]
    threshold = np.quantile(features @ weights, 1 - edge.mean())
    called = test[0].features().double().numpy() @ weights > threshold
    (found,) = probe(training, test, [("res2", "sam")])
    truth, unseen = test[0].edge.numpy(), test[0].unseen.numpy()
    expected = (
        truth[called].mean(), called[truth & ~unseen].mean(), called[truth & unseen].mean()
    )  # fmt: skip
    assert tuple(vars(found).values()) == pytest.approx([100 * share for share in expected])


def test_cells_of_a_scene_drawn_by_hand() -> None:
    """A seen square on a seen ground, beside an unseen ground in the other half of the image."""
    ids = np.ones((96, 128), np.int32)
    ids[:, 64:] = 2
    ids[10:30, 10:30] = 3
    names = ("grass", "sand", "star")
    scene = Scene(
        np.zeros((96, 128, 3), np.uint8),
        ids,
        [Region(number, name, number == 3) for number, name in enumerate(names, 1)],
    )
    with frozenseg.load("small", device="cpu") as segmenter:
        model, seen = segmenter.pipeline.model, frozenset(("grass", "star"))
        cells = cells_of(model, scene, seen, annotated=False, sides=(96, 128))
    assert cells.inside == (24, 32) and cells.features().shape == (24 * 32, 1920 + 128 + 1)
    edge = cells.edge.view(24, 32)
    assert not edge[:, 15:17].any()  # the border lies between two cells
    square = torch.zeros(24, 32, dtype=torch.bool)
    square[2:8, 2:8] = True
    square[3:7, 3:7] = False
    assert torch.equal(edge, square)
    assert torch.equal(cells.unseen.view(24, 32), torch.arange(32).expand(24, 32) >= 16)
    level = cells.maps["res2"]
    resized = F.interpolate(level[None], cells.grid, mode="bilinear")[0, :, 5, 7]
    assert torch.allclose(cells.features()[5 * 32 + 7, : len(resized)], resized, atol=1e-5)
    assert CELL == 4


def test_what_is_probed() -> None:
    assert choices_of(["res3", "res4", "res5", "sam"]) == [
        *[("res3",), ("res4",), ("res5",), ("sam",)],
        *[("res4", "res5"), ("res4", "res5", "sam")],
        *[("res3", "res4", "res5"), ("res3", "res4", "res5", "sam")],
    ]


@pytest.mark.slow
def test_the_command(tmp_path, capsys) -> None:
    assert main(["--train", "2", "--test", "1", "--json", str(tmp_path / "rows.json")]) is None
    assert "| res2 + res3 + res4 + res5 + sam |" in capsys.readouterr().out
    assert (tmp_path / "rows.json").is_file()
