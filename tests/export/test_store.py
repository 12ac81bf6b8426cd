"""Graphs that a backend keeps on disk: made once, made again where they are damaged."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from frozenseg.export import store
from frozenseg.export.store import GraphStore


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were made; opening one reads its text."""
    monkeypatch.setattr(store, "open_session", lambda path, device: path.read_text())
    return []


def maker(made: list[str], content: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        made.append(content)
        path.write_text(content)

    return make


def test_a_graph_is_made_once(
    tmp_path: Path, made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the second store is that of another process
        graphs = GraphStore(tmp_path / "graphs", {"weights": "1"}, "cpu")
        assert graphs.open("64 x 96 pixels", maker(made, "first")) == "first"
    assert graphs.open("64 x 64 pixels", maker(made, "other size")) == "other size"
    weights = GraphStore(tmp_path / "graphs", {"weights": "2"}, "cpu")
    assert weights.open("64 x 96 pixels", maker(made, "other weights")) == "other weights"
    assert made == ["first", "other size", "other weights"]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and "64 x 96 pixels" in lines[0]


@pytest.mark.parametrize("damage", ["cut", "changed", "no sum", "unreadable sum"])
def test_a_damaged_graph_is_made_again(tmp_path: Path, made: list[str], damage: str) -> None:
    graphs = GraphStore(tmp_path, {}, "cpu")
    graphs.open("a graph", maker(made, "content"))
    (path,) = tmp_path.glob("*.onnx")
    (total,) = tmp_path.glob(f"*{store.SUM}")
    if damage == "cut":
        path.write_text("cont")
    elif damage == "changed":
        path.write_text("comtent")
    elif damage == "no sum":
        total.unlink()
    else:
        total.write_bytes(b"\xff\xfe")
    assert graphs.open("a graph", maker(made, "content")) == "content"
    assert made == ["content"] * 2


@pytest.mark.parametrize("lost", [True, False])
def test_weights_beside_a_graph_count(tmp_path: Path, made: list[str], lost: bool) -> None:
    def make(path: Path) -> None:
        made.append("large")
        path.write_text("graph")
        path.with_name(f"{path.name}.data").write_text("weights")

    graphs = GraphStore(tmp_path, {}, "cpu")
    for _ in range(2):
        graphs.open("a large graph", make)
    assert made == ["large"]
    (weights,) = tmp_path.glob("*.data")
    weights.unlink() if lost else weights.write_text("weighty")
    graphs.open("a large graph", make)
    assert made == ["large"] * 2


def test_a_file_system_without_locks_is_enough(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(store.fcntl, "flock", flock)
    graphs = GraphStore(tmp_path / "graphs", {"weights": "1"}, "cpu")
    assert [graphs.open("64 x 96 pixels", maker(made, "a graph")) for _ in "ab"] == ["a graph"] * 2
    assert made == ["a graph"]


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, made: list[str]) -> None:
    def fail(path: Path) -> None:
        raise ValueError("differs")

    graphs = GraphStore(tmp_path, {}, "cpu")
    with pytest.raises(ValueError, match="differs"):
        graphs.open("a graph", fail)
    assert not list(tmp_path.glob("*.onnx"))
    assert graphs.open("a graph", maker(made, "content")) == "content"
