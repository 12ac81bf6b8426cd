import pytest
import torch

from frozenseg.structures import MaskPredictions, Targets

from .slow_criterion import same_points_everywhere


@pytest.fixture
def shared_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """All masks are compared at the same points, known to the slow criterion."""
    monkeypatch.setattr("frozenseg.losses.points.random_points", same_points_everywhere)
    monkeypatch.setattr("frozenseg.losses.matcher.random_points", same_points_everywhere)


@pytest.fixture
def make_predictions():
    def make(
        images: int = 2, queries: int = 5, classes: int = 3, outputs: int = 3, size: int = 8
    ) -> MaskPredictions:
        made = [
            MaskPredictions(
                torch.randn(images, queries, classes + 1).requires_grad_(),
                torch.randn(images, queries, size, size).mul(2).requires_grad_(),
            )
            for _ in range(outputs)
        ]
        return MaskPredictions(made[-1].class_logits, made[-1].mask_logits, made[:-1])

    return make


@pytest.fixture
def make_targets():
    def make(counts: tuple[int, ...], classes: int = 3, size: tuple = (20, 28)) -> list[Targets]:
        return [
            Targets(torch.randint(classes, (count,)), torch.rand(count, *size) < 0.4)
            for count in counts
        ]

    return make
