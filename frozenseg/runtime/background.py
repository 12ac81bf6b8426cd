"""Background threads: prepare inputs and write results while the device computes."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Yield the items in order, while a thread draws up to `depth` further items.

    If drawing an item fails, the error is raised in place of that item.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(max(1, depth)))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


def newest(items: Iterable[Item]) -> Iterator[Item]:
    """Yield, in order, items of a source that does not wait, such as a camera.

    A thread draws all items. Of the items that arrive while the caller is busy, all but the last
    are dropped. If drawing an item fails, the error is raised in place of that item.
    """
    latest: deque[Item] = deque(maxlen=1)
    ready, stop = threading.Condition(), threading.Event()

    def draw() -> None:
        for item in items:
            with ready:
                latest.append(item)
                ready.notify()
            if stop.is_set():
                return

    def wake(_: Future[None]) -> None:
        with ready:
            ready.notify()

    pool = ThreadPoolExecutor(1, thread_name_prefix="newest")
    drawing = pool.submit(draw)
    drawing.add_done_callback(wake)
    try:
        while True:
            with ready:
                ready.wait_for(lambda: latest or drawing.done())
                item = latest.popleft() if latest else _END
            if item is _END:
                return drawing.result()
            yield item
    finally:
        stop.set()
        pool.shutdown()


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, depth: int
) -> Iterator[Result]:
    """Yield `function(item)` for all items in order; threads compute up to `depth` further results.

    The items themselves are drawn in the caller's thread. If the function fails, or if drawing an
    item fails, the error is raised in place of the result.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="map_ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        while True:
            try:
                for item in itertools.islice(source, max(1, depth) + 1 - len(waiting)):
                    waiting.append(pool.submit(function, item))
            except Exception as error:  # raised in its turn, after the results before it
                source, failed = iter(()), Future[Result]()
                failed.set_exception(error)
                waiting.append(failed)
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class AsyncWriter:
    """A thread that runs calls one after another, with at most `depth` of them pending.

    The error of a failed call is raised by a later `do`, or at the end of the `with` block. If the
    block itself fails, pending calls still run.
    """

    def __init__(self, depth: int) -> None:
        self.depth = max(1, depth)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._waiting: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run a call in the thread; wait first while `depth` calls are pending."""
        while len(self._waiting) >= self.depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def finish(self) -> None:
        """Wait for all pending calls, and raise their first error."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown()  # waits for pending calls


def bucketed(
    items: Iterable[Item], size: int, key: Callable[[Item], Any], window: int
) -> Iterator[list[Item]]:
    """Yield groups of at most `size` items that have the same key.

    An item whose key is None forms its own group. Any other item waits for partners until its group
    is full or `window` further items have been drawn. If drawing an item fails, the error is raised
    after the groups of the items before it.
    """
    groups: dict[Any, tuple[int, list[Item]]] = {}  # by key, the oldest first
    try:
        for number, item in enumerate(items):
            if (name := key(item)) is None:
                yield [item]
            else:
                _, group = groups.setdefault(name, (number, []))
                group.append(item)
                if len(group) == size:
                    del groups[name]
                    yield group
            while groups and number - next(iter(groups.values()))[0] >= window:
                yield groups.pop(next(iter(groups)))[1]
    except Exception:  # of any kind, from the source; it is raised after what waits
        yield from (group for _, group in groups.values())
        raise
    yield from (group for _, group in groups.values())
