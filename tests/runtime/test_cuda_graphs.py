"""Recorded stages give what the stages give; on a CPU the recording itself is replaced."""

from typing import Any

import pytest
import torch
from torch import Tensor

import frozenseg
from frozenseg.runtime import cuda_graphs
from frozenseg.runtime.cuda_graphs import StageGraph, StageGraphs, map_tensors
from frozenseg.small_world.pictures import demo_scenes
from frozenseg.structures import ClipFeatures


def stage(features: ClipFeatures, *, factor: int) -> dict[str, Tensor]:
    return {"sum": features.dense + features.levels["res2"], "scaled": features.dense * factor}


def features(value: float, size: int = 2) -> ClipFeatures:
    return ClipFeatures({"res2": torch.full((size,), value)}, torch.full((size,), value + 1))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that were recorded, by a stand-in for CUDA: its replay runs the method again."""
    calls: list[Any] = []

    def record(method: Any, given: Any, pool: Any) -> StageGraph:
        calls.append(given)
        inputs = map_tensors(given, Tensor.clone)
        outputs = method(*inputs[0], **inputs[1])

        def replay() -> None:
            for name, value in method(*inputs[0], **inputs[1]).items():
                outputs[name].copy_(value)

        return StageGraph(replay, inputs, outputs, [])

    class Stream:
        def record_event(self, event: Any) -> str:
            return "event"

        def wait_event(self, event: str) -> None:
            assert event == "event"

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(cuda_graphs, "_on_cuda", lambda value: True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    return calls


@torch.no_grad()
def test_a_stage_is_recorded_when_its_shapes_come_again(recorded: list[Any]) -> None:
    run = StageGraphs().wrap(stage, "stage")
    results = [run(features(value), factor=2) for value in (1.0, 2.0, 3.0, 4.0)]
    assert len(recorded) == 1
    for value, result in zip((1.0, 2.0, 3.0, 4.0), results, strict=True):  # none overwritten
        assert result["sum"].tolist() == [2 * value + 1] * 2
        assert result["scaled"].tolist() == [2 * value + 2] * 2
    run(features(1.0, size=3), factor=2)
    assert run(features(1.0), factor=3)["scaled"].tolist() == [6, 6]
    assert len(recorded) == 1
    run(features(1.0, size=3), factor=2)
    assert len(recorded) == 2


@torch.no_grad()
def test_shapes_that_never_come_again_are_forgotten(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "COUNTED", 8)
    graphs = StageGraphs()
    run = graphs.wrap(stage, "stage")
    for size in range(1, 30):
        run(features(1.0, size=1), factor=2)
        run(features(1.0, size=size), factor=2)
    assert len(graphs._calls) <= 8
    assert len(recorded) == 1  # of the shape that comes each time


@torch.no_grad()
def test_the_most_frequent_shapes_have_graphs(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that take turns do not record one another away."""
    monkeypatch.setattr(cuda_graphs, "GRAPHS", 2)
    run = StageGraphs().wrap(stage, "stage")
    for size in (1, 2, 3) * 5:
        run(features(1.0, size), factor=1)
    assert [len(given[0][0].dense) for given in recorded] == [1, 2]
    for _ in range(3):  # now the third size is the most frequent
        assert run(features(1.0, 3), factor=1)["sum"].tolist() == [3, 3, 3]
    assert [len(given[0][0].dense) for given in recorded] == [1, 2, 3]


@torch.no_grad()
def test_what_cannot_be_recorded_runs_as_it_is(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record", fail)
    run = StageGraphs().wrap(stage, "pixel decoder")
    for _ in range(4):
        assert run(features(1.0), factor=2)["sum"].tolist() == [3, 3]
    assert len(caplog.records) == 1
    assert "pixel decoder cannot be recorded" in caplog.text and "not permitted" in caplog.text


@torch.no_grad()
def test_other_shapes_and_stages_are_recorded_after_a_failure(
    recorded: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A large image for whose graph the memory does not suffice slows down no other image."""
    working = cuda_graphs.record

    def short_of_memory(method: Any, given: Any, pool: Any) -> StageGraph:
        if len(given[0][0].dense) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return working(method, given, pool)

    monkeypatch.setattr(cuda_graphs, "record", short_of_memory)
    graphs = StageGraphs()
    run, other = graphs.wrap(stage, "stage"), graphs.wrap(stage, "another stage")
    for size in (8, 2):
        for _ in range(3):
            assert run(features(1.0, size), factor=2)["sum"].tolist() == [3] * size
    assert len(recorded) == 1 and len(caplog.records) == 1

    for size in (9, 10, 11, 3):  # after three failures the stage is given up
        run(features(1.0, size), factor=2)
        run(features(1.0, size), factor=2)
    assert len(recorded) == 1 and len(caplog.records) == cuda_graphs.FAILURES
    (graph,) = graphs._graphs.values()  # the one that exists stays in use
    graph.outputs["sum"].fill_(0)
    graph.replay = lambda: None
    assert run(features(1.0, 2), factor=2)["sum"].tolist() == [0, 0]
    for _ in range(2):
        other(features(1.0, 3), factor=2)
    assert len(recorded) == 2


def test_gradients_are_kept(recorded: list[Any]) -> None:
    run = StageGraphs().wrap(stage, "stage")
    for _ in range(3):
        given = features(1.0)
        given.dense.requires_grad_()
        assert run(given, factor=2)["sum"].requires_grad
    assert not recorded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_replays_equal_eager_calls(precision: str) -> None:
    options = ["MODEL.DEVICE", "cuda", "MODEL.PRECISION", precision, "MODEL.CUDA_GRAPHS"]
    plain, graphed = (frozenseg.load("small", options=[*options, on]) for on in ("False", "True"))
    images = [scene.image for scene in demo_scenes()[:3]]
    for image in [*images, *images, *images]:  # recorded at the second, replayed from then on
        expected, result = (model(image, "dog; tree; sky; road") for model in (plain, graphed))
        assert (expected.semantic == result.semantic).mean() > 0.999
        assert (expected.panoptic.ids == result.panoptic.ids).mean() > 0.999
