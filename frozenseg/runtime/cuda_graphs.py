"""CUDA graphs: a stage of a model is launched in one call if its input sizes were seen before.

A stage launches hundreds of small kernels, and launching them takes the CPU longer than running
them takes the GPU. A graph contains all these kernels and is launched by one call.
"""

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frozenseg.runtime.precision import tf32_settings

logger = logging.getLogger(__name__)

GRAPHS = 48  # the most graphs that are kept: six stages at eight sizes
COUNTED = 4096  # the most combinations of shapes whose calls are counted
FAILURES = 3  # of a stage, after which it is not recorded any more


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return the same nested tuples, lists, dictionaries and dataclasses, with `function` applied
    to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(part, function) for part in value)
    if isinstance(value, dict):
        return {key: map_tensors(part, function) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **parts)
    return value


@dataclass
class StageGraph:
    """A recorded call of a stage.

    replay: launches the graph.
    inputs, outputs: the recorded arguments and result, with the tensors that the graph reads and
        writes.
    others: weights and tables that it reads as well; they must live as long as the graph.
    """

    replay: Callable[[], None]
    inputs: Any
    outputs: Any
    others: list[Tensor]

    def __call__(self, arguments: Any) -> Any:
        """Return the stage's result for arguments that have the recorded shapes."""
        for static, given in zip(_tensors(self.inputs), _tensors(arguments), strict=True):
            static.copy_(given)
        self.replay()
        # Cloned, since the next call, or another graph in the same memory, overwrites them.
        return map_tensors(self.outputs, Tensor.clone)


class StageGraphs:
    """Records the stages of one model as CUDA graphs, which share their memory.

    The first call with new shapes runs the stage without a graph; the second one records it. Once
    there are `GRAPHS` graphs, new shapes replace the graph with the fewest calls, if they have been
    called more often. Shapes that cannot be recorded, for example because the memory does not
    suffice, run without a graph from then on, and so do all new shapes of a stage once `FAILURES`
    of its shapes could not be recorded. The weights must stay at their addresses: after moving or
    casting a model, create a new `StageGraphs`. Threads take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._graphs: dict[str, StageGraph] = {}
        self._pool: Any = None
        self._last_use: torch.cuda.Event | None = None
        self._failed: dict[str, set[str]] = {}  # the shapes that cannot be recorded, by stage

    def wrap(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return `method` with graphs, which are used on CUDA if no gradients are needed.

        name: name of the stage.
        """

        @functools.wraps(method)
        def run(*arguments: Any, **options: Any) -> Any:
            given = (arguments, options)
            if torch.is_grad_enabled() or not _on_cuda(given):
                return method(*arguments, **options)
            key = f"{name} {_mode()} {map_tensors(given, _describe)}"
            with self._lock:
                graph = self._find_or_record(key, name, method, given)
                if graph is not None:
                    return self._in_turn(graph, given)
            return method(*arguments, **options)

        return run

    def _find_or_record(
        self, key: str, name: str, method: Callable[..., Any], given: Any
    ) -> StageGraph | None:
        self._calls[key] += 1
        if len(self._calls) > COUNTED:  # a service keeps meeting new sizes and numbers of names
            self._calls = Counter(dict(self._calls.most_common(COUNTED // 2)))
        failed = self._failed.setdefault(name, set())
        new = key not in self._graphs and key not in failed and len(failed) < FAILURES
        if new and self._calls[key] > 1 and self._has_room(self._calls[key]):
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._graphs[key] = record(method, given, self._pool)
            except RuntimeError as error:  # raised for what a graph cannot contain
                failed.add(key)
                logger.warning(
                    "%s cannot be recorded as a CUDA graph for an input of this size and runs "
                    "without one, more slowly (%s)",
                    name,
                    " ".join(str(error).split())[:300],
                )
        return self._graphs.get(key)

    def _has_room(self, calls: int) -> bool:
        """Return whether shapes with this many calls get a graph; if needed, drop another graph."""
        if len(self._graphs) < GRAPHS:
            return True
        rarest = min(self._graphs, key=self._calls.__getitem__)
        if calls <= self._calls[rarest]:
            return False
        del self._graphs[rarest]
        return True

    def _in_turn(self, graph: StageGraph, given: Any) -> Any:
        """Replay a graph after the last replay, which may be on another thread's stream."""
        stream = torch.cuda.current_stream()
        if self._last_use is not None:
            stream.wait_event(self._last_use)
        result = graph(given)
        self._last_use = stream.record_event(self._last_use)
        return result


def record(method: Callable[..., Any], given: Any, pool: Any) -> StageGraph:
    """Record a call.

    given: (arguments, options). pool: the memory pool that all graphs of a model share. Raises
    `RuntimeError` for anything that a graph cannot contain, such as waiting for the device.
    """
    with torch.inference_mode(False), torch.no_grad():
        inputs = map_tensors(given, lambda tensor: torch.empty_like(tensor).copy_(tensor))
    with _without_autocast_cache():
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # a first run, which creates tables and workspaces
            method(*inputs[0], **inputs[1])
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local" lets other threads allocate memory during the capture. The stream is given
        # because the default one of `torch.cuda.graph` belongs to one GPU permanently.
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            with _OtherInputs() as others:
                outputs = method(*inputs[0], **inputs[1])
    return StageGraph(graph.replay, inputs, outputs, list(others.tensors.values()))


class _OtherInputs(TorchDispatchMode):
    """Collects the tensors that operations in the `with` block read but do not create."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self._created: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and _storage(leaf) not in self._created:
                self.tensors[_storage(leaf)] = leaf
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf) not in self.tensors:
                self._created.add(_storage(leaf))
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Disable autocast's cache of cast weights, which would lie in the memory of the graph."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(value, found.append)
    return found


def _on_cuda(value: Any) -> bool:
    return any(tensor.device.type == "cuda" for tensor in _tensors(value))


def _describe(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _mode() -> tuple[Any, ...]:
    """Return the settings that decide, besides the inputs, which kernels run."""
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    return autocast, *tf32_settings()
