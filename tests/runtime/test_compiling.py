"""Compiling where it works, and going on where it does not."""

import functools

import pytest
import torch

from frozenseg.runtime.compiling import compile_where_possible

MODULE = compile_where_possible.__module__


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_what_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def broken(graph, inputs):
        tries.append(graph)
        raise OSError("no space left for the compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    run = compile_where_possible(double, "the encoder", dynamic=True)
    for number in range(3):
        assert run(torch.tensor(number)) == 2 * number
    (message,) = (record.message for record in caplog.records if record.name == MODULE)
    assert "the encoder cannot be compiled here and runs uncompiled" in message
    assert "no space left for the compiler" in message
    assert len(tries) == 1


def test_what_can_be_compiled_is_compiled_and_keeps_its_errors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = []

    def eager(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def fails(x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(3)

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=eager))
    assert compile_where_possible(double, "the encoder", dynamic=True)(torch.ones(2)).sum() == 4
    assert len(graphs) == 1
    with pytest.raises(RuntimeError, match="must match the size"):
        compile_where_possible(fails, "the encoder", dynamic=True)(torch.ones(2))
