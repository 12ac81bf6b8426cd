"""Measure how many seconds methods of the running program take."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from frozenseg.models.base import SegmentationModel


@dataclass(frozen=True)
class Place:
    """A callable that is timed, `owner.attribute`; several places may share a name."""

    name: str
    owner: Any
    attribute: str


class _Instant:
    """A point in time on the device; on CUDA an event in its stream, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._event = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        self._time = time.perf_counter()

    def until(self, later: "_Instant") -> float:
        """Return the seconds up to a later instant; on CUDA both must have been reached."""
        if self._event is None or later._event is None:
            return later._time - self._time
        return self._event.elapsed_time(later._event) / 1000


@dataclass
class _Span:
    name: str
    start: _Instant
    inner: list["_Span"]
    end: _Instant | None = None

    def seconds(self) -> float:
        assert self.end is not None, "the span has ended"
        return self.start.until(self.end)


class Stopwatch:
    """Adds up the seconds of named spans; time in a nested span counts only for the inner one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._finished: list[_Span] = []
        self._open: list[_Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what runs inside the block."""
        span = _Span(name, _Instant(self.device), [])
        if self._open:
            self._open[-1].inner.append(span)
        self._open.append(span)
        try:
            yield
        finally:
            self._open.pop()
            span.end = _Instant(self.device)
            self._finished.append(span)

    def on(self, places: Iterable[Place]) -> AbstractContextManager[None]:
        """Time each place until the block ends."""
        return replaced(places, self._timed)

    def read(self) -> dict[str, float]:
        """Return the seconds by name since the last reading; this waits for the device."""
        synchronize(self.device)
        totals: dict[str, float] = {}
        for span in self._finished:
            own = span.seconds() - sum(inner.seconds() for inner in span.inner)
            totals[span.name] = totals.get(span.name, 0.0) + own
        self._finished.clear()
        return totals

    def _timed(self, place: Place, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # keeps the attributes of a callable object
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.span(place.name):
                return function(*arguments, **options)

        return timed


def stage_places(model: SegmentationModel) -> list[Place]:
    """List the methods of a model's stages under the names of the stages."""
    return [Place(stage.name, stage.owner, stage.method) for stage in model.stages()]


@contextmanager
def replaced(
    places: Iterable[Place], make: Callable[[Place, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Replace the callable of each place with the result of `make` until the block ends."""
    with ExitStack() as undo:
        for place in places:
            own = vars(place.owner).get(place.attribute)
            function = make(place, getattr(place.owner, place.attribute))
            setattr(place.owner, place.attribute, function)
            if own is None:  # the attribute belongs to the class
                undo.callback(delattr, place.owner, place.attribute)
            else:
                undo.callback(setattr, place.owner, place.attribute, own)
        yield


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, until the device has finished its work."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start
